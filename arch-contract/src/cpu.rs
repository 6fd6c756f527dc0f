//! The CPU's own parts: [`Core`], [`Contexts`] and [`Vectors`].

use core::fmt;

use crate::fault::Registers;

/// This CPU: its words for the kernel, its interrupt flag, its time counter, its identity.
pub trait Core: 'static {
    /// The word set by [`Core::set_local`] on this CPU. One load; only stable with interrupts
    /// disabled.
    fn local() -> usize;
    /// Sets this CPU's local pointer. Called once per CPU, before anything else.
    fn set_local(local: usize);
    /// The word set by [`Core::set_current`]: the running thread. A single load, so it is right in
    /// any context.
    fn current() -> usize;
    /// Records the running thread. The scheduler calls it next to every switch, with interrupts
    /// disabled.
    fn set_current(thread: usize);

    /// True if interrupts are enabled on this CPU.
    fn interrupts_enabled() -> bool;
    /// Disables interrupts on this CPU. Cheap; a compiler barrier.
    fn disable_interrupts();
    /// Enables interrupts on this CPU.
    fn enable_interrupts();
    /// Enables interrupts and sleeps until one has been handled, with no gap in which one could be
    /// missed, or until a debugger or a non-maskable interrupt has stopped the CPU. Called with
    /// interrupts disabled by the idle loop, which then checks for work again; returns with
    /// interrupts disabled.
    fn wait_for_interrupt();
    /// Tells the CPU that it is in a spin loop. Every spin loop calls it: an emulator uses it to
    /// run the other CPUs.
    fn spin_hint();
    /// Stops this CPU for good, with interrupts disabled.
    fn halt_forever() -> !;

    /// Reads the CPU's time counter, which has a constant rate and is the same on all CPUs.
    fn cycles() -> u64;
    /// Reads the time counter after all earlier instructions have executed and before any later one
    /// begins: for measurements.
    fn cycles_in_order() -> u64;

    /// Points the running code at its thread-local variables (the FS base on x86-64). The scheduler
    /// calls it for threads that have such variables.
    fn set_thread_pointer(address: usize);
    /// Executes the system call instruction in the kernel's mode and returns its result. There are
    /// no system calls, so the result is -38, Linux's negative ENOSYS, for every number.
    fn system_call(number: usize) -> isize;
    /// Executes an instruction that is invalid on every CPU, to test the crash report. Never
    /// returns.
    fn execute_invalid_instruction() -> !;

    /// Writes the CPU's human-readable model name.
    fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result;
    /// The emulator or hypervisor that executes this CPU's instructions: `tcg`, `kvm`, another
    /// hypervisor, or `unknown`; `none` on bare hardware.
    fn accelerator() -> &'static str;
    /// Instruction set available to programs on this CPU under this kernel, by its compiler name
    /// ("x86-64-v3").
    fn instruction_set() -> &'static str;
}

/// Suspended flows of control.
pub trait Contexts: 'static {
    /// A suspended flow of control, as [`Contexts::switch`] saves and resumes it.
    type Context: Default + Send;

    /// Prepares `context` so that the first switch to it calls `entry(argument)` on `stack_top`
    /// with interrupts disabled. `entry` never returns.
    fn prepare(context: &mut Self::Context, stack_top: usize, entry: extern "C" fn(usize) -> !, argument: usize);
    /// Suspends the running flow into `from` and resumes `to`. Only the scheduler calls it, with
    /// interrupts disabled.
    ///
    /// # Safety
    /// `from` is the running thread's own context. `to` is suspended or prepared, no other CPU
    /// resumes it, and its stack stays mapped.
    unsafe fn switch(from: *mut Self::Context, to: *const Self::Context);
    /// Suspends the running flow into `from`, then calls `next(argument)` on the stack `stack_top`.
    ///
    /// # Safety
    /// As for [`Contexts::switch`]; `stack_top` is the top of an unused stack of this CPU, and
    /// `next` never returns.
    unsafe fn switch_through(
        from: *mut Self::Context,
        stack_top: usize,
        next: extern "C" fn(usize) -> !,
        argument: usize,
    );
    /// Resumes `to` and abandons the running flow.
    ///
    /// # Safety
    /// As for [`Contexts::switch`].
    unsafe fn resume(to: *const Self::Context) -> !;
    /// Registers with which a suspended context resumes, for backtraces.
    fn suspended_at(context: &Self::Context) -> Registers;
    /// Registers of the caller, for backtraces.
    fn registers_here() -> Registers;
}

/// Offsets of the parts of the vector state in the area that [`Vectors::save`] writes (SDM Vol. 1,
/// 13.4 and 13.5); `None` for parts the CPU lacks. The first 512 bytes have FXSAVE's layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct VectorLayout {
    /// Size of the area in bytes; the area is aligned to 64.
    pub size: usize,
    /// Upper halves of YMM0 to YMM15.
    pub avx: Option<usize>,
    /// K0 to K7, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31.
    pub avx512: Option<[usize; 3]>,
}

/// Floating-point and vector state. The defaults are those of a machine on which nothing uses such
/// state yet.
pub trait Vectors: 'static {
    /// False if nothing uses this state, so that there is none to preserve.
    const ARE_USED: bool = false;

    /// Calls `function(argument)` and then restores the interrupted code's entire state. Called
    /// where a thread that uses the state is interrupted, on a stack with room for it.
    fn keep(function: extern "C" fn(usize), argument: usize) {
        function(argument);
    }
    /// Resets this CPU's state to what new code expects. Called before program code is entered
    /// other than by a return.
    fn reset() {}
    /// The part of the state that the calling convention makes a callee preserve; kept across calls
    /// that switch threads.
    fn control() -> u64 {
        0
    }
    /// Restores a value from [`Vectors::control`].
    fn set_control(_: u64) {}
    /// Writes a human-readable summary of the state ("x87 SSE AVX by XSAVE, 832 bytes").
    fn describe(write: &mut dyn fmt::Write) -> fmt::Result {
        write.write_str("none is kept yet")
    }

    /// Layout of what [`Vectors::save`] writes.
    fn layout() -> VectorLayout {
        VectorLayout::default()
    }
    /// Writes this CPU's state to an area of that layout, for a debugger.
    ///
    /// # Safety
    /// The area has the size and the alignment that [`Vectors::layout`] gives.
    unsafe fn save(_: *mut u8) {}
    /// Loads this CPU's state from such an area.
    ///
    /// # Safety
    /// As for [`Vectors::save`], which wrote the area.
    unsafe fn restore(_: *mut u8) {}
}
