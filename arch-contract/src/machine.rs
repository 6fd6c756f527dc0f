//! The contract: the kernel calls down through [`Architecture`], the arch crate up through
//! [`Callbacks`].

use core::fmt;
use core::ops::Range;

use crate::debug::{DebugEvent, Debugging};
use crate::fault::{Fault, Registers, TrapFrame};

/// The kernel functions the arch crate calls. Installed once by [`Architecture::install`] before
/// interrupts are enabled.
///
/// Each runs with interrupts disabled on the CPU it concerns.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// Handles an interrupt that was not spurious. The arch crate acknowledges it to the interrupt
    /// controller after the call. Returns true if the interrupted thread should be preempted: the
    /// arch crate then calls `preempt` on that thread's own stack.
    pub interrupt: fn(vector: u8) -> bool,
    /// Ends the interrupted thread's turn; returns when the thread is scheduled again.
    pub preempt: fn(),
    /// Handles a trap that no probe caused. Never returns.
    pub fault: fn(&Fault) -> !,
    /// Stops this CPU for good at another CPU's request ([`Architecture::stop_other_cpus`]). Never
    /// returns.
    pub stopped: fn(&Registers) -> !,
    /// Records where this CPU is for another CPU ([`Architecture::sample_other_cpus`]), then lets
    /// it continue. Can arrive anywhere, even with interrupts disabled and locks held, so it takes
    /// no locks.
    pub sampled: fn(&Registers),
    /// Handles a debug event on this CPU. The registers are the interrupted context; edits take
    /// effect on resume. Returns false if no debugger claims the event: a fault is then reported,
    /// anything else ignored.
    pub debug: fn(&DebugEvent<'_>, &mut Registers) -> bool,
    /// Entry of a secondary CPU, on its own stack and with its local pointer set. Never returns.
    pub cpu_main: fn(cpu: usize) -> !,
}

/// The mechanisms of one machine. Policy (which thread runs, when, and on what memory) is the
/// kernel's.
///
/// CPUs are named by index into [`crate::boot::BootInformation::cpus`]. The kernel calls these
/// functions from any context unless they say otherwise, and they never allocate.
pub trait Architecture: Debugging + Sized + 'static {
    /// The architecture's human-readable name.
    const NAME: &'static str;

    /// A suspended flow of control, as [`Architecture::switch`] saves and resumes it.
    type Context: Default + Send;

    // Start-up.

    /// Installs the kernel's callbacks. The boot CPU calls it once, before anything can use them.
    fn install(callbacks: &'static Callbacks);

    /// Starts another CPU, which enters [`Callbacks::cpu_main`] on `stack_top` with `local` as its
    /// local pointer. `hardware_id` comes from the CPU's description.
    ///
    /// The boot CPU calls it from a thread, for one CPU at a time. `wait` lets about 50
    /// microseconds pass and returns false once the time is up.
    ///
    /// # Errors
    /// See [`StartCpuError`]. A CPU that did not answer is left alone for good.
    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError>;

    /// Default stack size of a thread, in bytes; a power of two.
    const DEFAULT_STACK_SIZE: usize;
    /// Number of trap stacks each CPU needs.
    const INTERRUPT_STACKS: usize;
    /// Gives this CPU its trap stacks, by their tops. Called once per CPU, early; until then traps
    /// share a start-up stack and interrupts stay disabled.
    fn set_interrupt_stacks(tops: &[usize]);
    /// Layout of what a trap leaves at the top of a trap stack, for backtraces; `None` if handlers
    /// run on the interrupted stack.
    const TRAP_FRAME: Option<TrapFrame>;
    /// True for a return address in the code that enters interrupt handlers and preempts threads
    /// after them. In a preempted thread's frame chain, the next return address is the interrupted
    /// instruction.
    fn is_interrupt_entry(address: usize) -> bool;

    // This CPU.

    /// The word set by [`Architecture::set_local`] on this CPU. One load; only stable with
    /// interrupts disabled.
    fn local() -> usize;
    /// Sets this CPU's local pointer. Called once per CPU, before anything else.
    fn set_local(local: usize);
    /// The word set by [`Architecture::set_current`]: the running thread. A single load, so it is
    /// right in any context.
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

    /// Writes the CPU's human-readable model name.
    fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result;
    /// The emulator or hypervisor that executes this CPU's instructions: `tcg`, `kvm`, another
    /// hypervisor, or `unknown`; `none` on bare hardware.
    fn accelerator() -> &'static str;
    /// Instruction set available to programs on this CPU under this kernel, by its compiler name
    /// ("x86-64-v3").
    fn instruction_set() -> &'static str;
    /// Executes the system call instruction in the kernel's mode and returns its result. There are
    /// no system calls, so the result is -38, Linux's negative ENOSYS, for every number.
    fn system_call(number: usize) -> isize;

    // Time.

    /// Reads the CPU's time counter, which has a constant rate and is the same on all CPUs.
    fn cycles() -> u64;
    /// Reads the time counter after all earlier instructions have executed and before any later one
    /// begins: for measurements.
    fn cycles_in_order() -> u64;
    /// Rate of [`Architecture::cycles`] in Hz, known before the kernel starts.
    fn cycle_frequency_hz() -> u64;
    /// Requests an interrupt with vector [`Architecture::TIMER_VECTOR`] on this CPU when the
    /// counter reaches `deadline_cycles`, at once if it already has; replaces the previous request.
    /// Called with interrupts disabled. The interrupt is early by at most the clock's resolution;
    /// the kernel then asks again.
    fn arm_timer(deadline_cycles: u64);
    /// Cancels the timer request; an interrupt already under way may still arrive. Called with
    /// interrupts disabled.
    fn disarm_timer();
    /// Vector of the timer interrupt.
    const TIMER_VECTOR: u8;
    /// Human-readable kind of the timer ("APIC one-shot", "TSC deadline", ...).
    fn timer_name() -> &'static str;

    // Interrupts.

    /// Sends an IPI with `vector` to a CPU, possibly this one.
    ///
    /// # Errors
    /// If the interrupt controller does not accept the command in time, or there is no such CPU.
    fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError>;
    /// Vector of [`Architecture::interrupt_self`].
    const SELF_VECTOR: u8;
    /// Takes an interrupt with [`Architecture::SELF_VECTOR`] synchronously, to measure or test the
    /// interrupt path.
    fn interrupt_self();
    /// Sends an IPI to all other started CPUs.
    ///
    /// # Errors
    /// As for [`Architecture::send_ipi`].
    fn broadcast_ipi(vector: u8) -> Result<(), IpiError>;
    /// Stops all other CPUs, even those with interrupts disabled; each enters
    /// [`Callbacks::stopped`].
    fn stop_other_cpus();

    /// Samples all other CPUs, even those with interrupts disabled; each calls
    /// [`Callbacks::sampled`] and continues.
    fn sample_other_cpus();

    /// Number of device interrupt lines ("GSI" on x86).
    fn line_count() -> u32;
    /// Routes a device's line to a vector on a CPU and unmasks it.
    ///
    /// # Errors
    /// See [`LineError`].
    fn route_line(line: u32, vector: u8, cpu: usize, trigger: LineTrigger) -> Result<(), LineError>;
    /// Masks a device's line.
    ///
    /// # Errors
    /// See [`LineError`].
    fn mask_line(line: u32) -> Result<(), LineError>;
    /// Human-readable kind of the interrupt controller.
    fn interrupt_controller_name() -> &'static str;

    // Memory.

    /// Returns a physical address's place in the direct map. Valid for all memory in the boot
    /// information.
    fn physical_to_virtual(physical: u64) -> *mut u8;
    /// The inverse of [`Architecture::physical_to_virtual`].
    fn virtual_to_physical(address: *const u8) -> u64;
    /// Virtual addresses reserved for thread stacks; nothing is mapped there until
    /// [`Architecture::map_pages`].
    fn stack_window() -> Range<usize>;
    /// Virtual addresses reserved for program images, on the same terms as
    /// [`Architecture::stack_window`].
    fn program_window() -> Range<usize>;
    /// Maps `size` bytes of whole pages. `table` supplies the physical addresses of zeroed frames
    /// for page tables, or `None` if there is no memory. Called for the two windows only, under the
    /// lock of the window's owner in the kernel.
    ///
    /// # Errors
    /// See [`MapError`]. On error nothing is mapped, not even temporarily.
    fn map_pages(
        address: usize,
        physical: u64,
        size: usize,
        protection: Protection,
        table: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError>;
    /// Unmaps a page and returns the frame it mapped. The caller flushes TLBs before it reuses the
    /// frame.
    fn unmap_page(address: usize) -> Option<u64>;
    /// Flushes this CPU's TLB.
    fn flush_tlb();

    /// Reads `buffer.len()` bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be read; there is no other effect.
    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError>;
    /// Writes bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be written; the bytes before it have been.
    fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError>;

    // Contexts.

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
    /// As for [`Architecture::switch`]; `stack_top` is the top of an unused stack of this CPU, and
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
    /// As for [`Architecture::switch`].
    unsafe fn resume(to: *const Self::Context) -> !;
    /// Registers with which a suspended context resumes, for backtraces.
    fn suspended_at(context: &Self::Context) -> Registers;
    /// Registers of the code interrupted by the interrupt this CPU is handling, for backtraces.
    /// Only valid in handlers.
    fn interrupted() -> Registers;
    /// Registers of the caller, for backtraces.
    fn registers_here() -> Registers;

    /// False if nothing uses floating-point and vector state yet, so that there is none to
    /// preserve.
    const KEEPS_VECTORS: bool = true;
    /// Calls `function(argument)` and then restores the interrupted code's entire floating-point
    /// and vector state. Called where a thread that uses that state is interrupted, on a stack with
    /// room for it.
    fn keep_vectors(function: extern "C" fn(usize), argument: usize);
    /// Resets this CPU's floating-point and vector state to what new code expects. Called before
    /// program code is entered other than by a return.
    fn reset_vectors();
    /// The part of the vector state that the calling convention makes a callee preserve; kept
    /// across calls that switch threads.
    fn vector_control() -> u64;
    /// Restores a value from [`Architecture::vector_control`].
    fn set_vector_control(control: u64);
    /// Points the running code at its thread-local variables (the FS base on x86-64). The scheduler
    /// calls it for threads that have such variables.
    fn set_thread_pointer(address: usize);
    /// Writes a human-readable summary of the vector state ("x87 SSE AVX by XSAVE, 832 bytes").
    fn vector_state(write: &mut dyn fmt::Write) -> fmt::Result;

    /// Tells the arch crate that a fault reported by [`Callbacks::fault`] is dealt with: this CPU
    /// continues without returning to the faulting code.
    fn fault_contained();

    /// Writes further hardware details of a fault with this vector, for its report; nothing for
    /// most vectors.
    fn fault_details(_vector: u8, _write: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    /// Executes an instruction that is invalid on every CPU, to test the crash report. Never
    /// returns.
    fn execute_invalid_instruction() -> !;

    // Console and power.

    /// Writes bytes to the machine's first console by polling, from any context; drops what a stuck
    /// device refuses.
    fn console_write(bytes: &[u8]);
    /// Writes to the console's device as many bytes as it accepts immediately, and returns their
    /// number. Never waits; an absent device accepts and drops everything. Called under the
    /// kernel's lock, from any context.
    fn console_try_write(bytes: &[u8]) -> usize;
    /// Takes a byte typed at the console, if there is one. Called by the console's interrupt
    /// handler.
    fn console_read() -> Option<u8>;
    /// The device line the console interrupts on, if it has one.
    fn console_line() -> Option<u32>;
    /// Enables the console's interrupt for this event.
    fn console_watch(event: ConsoleEvent);
    /// Disables the console's interrupt for this event.
    fn console_ignore(event: ConsoleEvent);
    /// True while the console raises its line. An edge-triggered line interrupts again only after
    /// it has been released, so the handler serves the device until this returns false.
    fn console_is_raised() -> bool;
    /// True if trace points call [`Architecture::trace`]. Each architecture provides its own test
    /// because a compare and a branch are cheapest written that way.
    fn is_tracing() -> bool;
    /// Sets the value [`Architecture::is_tracing`] returns.
    fn set_tracing(tracing: bool);
    /// Gives a CPU a ring of [`TRACE_ENTRIES`] entries of four words for [`Architecture::trace`],
    /// aligned to an entry and never freed; or restarts its ring.
    fn set_trace_ring(cpu: usize, ring: *mut TraceEntry);
    /// Total number of entries written to a CPU's ring.
    fn traced(cpu: usize) -> usize;
    /// Writes the time counter, `tag`, `first` and `second` to this CPU's ring, if it has one.
    /// Called with interrupts disabled. Suits cold paths in hot code: it clobbers no registers the
    /// compiler would have to save.
    fn trace(tag: u64, first: u64, second: u64);
    /// The screen, if there is one.
    fn screen() -> Option<Framebuffer> {
        None
    }
    /// Makes the keyboard interrupt for each byte of its codes (PC scan codes, set 1), and returns
    /// its line, if there is a keyboard. Called once.
    fn keyboard_init() -> Option<u32> {
        None
    }
    /// Takes a byte of a key's code, if there is one. Called by the keyboard's interrupt handler.
    fn keyboard_read() -> Option<u8> {
        None
    }
    /// Prepares the telemetry line, on which the host requests the state; returns false if there is
    /// none. Called once.
    fn telemetry_init() -> bool {
        false
    }
    /// Takes a byte received on the telemetry line.
    fn telemetry_read() -> Option<u8> {
        None
    }
    /// Sends bytes on the telemetry line by polling; drops what the other end does not accept.
    fn telemetry_write(_: &[u8]) {}
    /// Passes bytes to the host of an emulated machine, if there is a channel; otherwise drops
    /// them. Any context.
    fn export(what: Export, bytes: &[u8]);
    /// True if there is a channel for such bytes.
    fn exports(what: Export) -> bool;
    /// Ends the machine. `status` reaches the host of an emulated machine if there is a channel for
    /// it.
    fn power(action: PowerAction, status: u8) -> !;
}

/// A screen's memory, one 32-bit word per pixel: from the lowest byte up, blue, green, red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Address of the top left pixel. Only the screen's owner writes there.
    pub start: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Pixels from the beginning of one row to the beginning of the next.
    pub stride: usize,
}

/// Data passed to the host of an emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// The tracer's records.
    Trace,
    /// A crash file.
    Crash,
}

/// Why a console's device raises its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// There are bytes to read.
    Input,
    /// The device accepts more bytes.
    Output,
}

/// Number of entries of a trace ring; a power of two.
pub const TRACE_ENTRIES: usize = 16 * 1024;

/// An entry of a trace ring: the time counter and three words from the kernel.
pub type TraceEntry = [u64; 4];

/// Permitted accesses to a page. No page is both writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Execute and read.
    Code,
    /// Read.
    Constants,
    /// Read and write.
    Data,
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch the machine off.
    PowerOff,
    /// Reset the machine.
    Reboot,
}

/// How a device signals on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTrigger {
    /// As the firmware says for this line, or the bus's default.
    Default,
    /// On a rising edge.
    Edge,
    /// While the line is active.
    Level,
}

/// Why a CPU did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCpuError {
    /// The CPU was sent its start-up signal and never ran.
    NoAnswer,
    /// No memory below 1 MiB (or whatever else the architecture needs) is free to start the CPU
    /// from.
    NoTrampoline,
    /// The CPU is not in the boot information.
    NoSuchCpu,
}

impl fmt::Display for StartCpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "it did not answer its start-up signal in time",
            Self::NoTrampoline => "there is no free page below 1 MiB to start it from",
            Self::NoSuchCpu => "the firmware does not list it",
        })
    }
}

/// Why an inter-processor interrupt was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpiError {
    /// There is no such CPU, or it was not started.
    NoSuchCpu,
    /// The interrupt controller stayed busy.
    Busy,
}

impl fmt::Display for IpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchCpu => "there is no such CPU, or it did not start",
            Self::Busy => "the interrupt controller stayed busy",
        })
    }
}

/// Why a device line was not routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// No interrupt controller has that line.
    NoSuchLine,
    /// The interrupt controller cannot address the target CPU, or the CPU was not started.
    NoSuchCpu,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchLine => "no interrupt controller has that line",
            Self::NoSuchCpu => "the interrupt controller cannot reach that CPU",
        })
    }
}

/// Why a page was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no frame for a page table.
    OutOfMemory,
    /// Something is mapped there already.
    AlreadyMapped,
}

/// An address that could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeError {
    /// The first address that failed.
    pub address: usize,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing accessible is mapped at {:#x}", self.address)
    }
}
