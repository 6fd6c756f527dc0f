//! The contract: [`Architecture`] downwards, [`Callbacks`] upwards.

use core::fmt;
use core::ops::Range;

use crate::debug::{DebugEvent, Debugging};
use crate::fault::{Fault, Registers, TrapFrame};

/// What the arch crate calls in the kernel. Installed once by [`Architecture::install`] before interrupts are enabled.
///
/// Every function runs with interrupts disabled on the CPU it concerns.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// An interrupt with this vector arrived and was not spurious. The arch crate acknowledges it to the interrupt
    /// controller after the call. Returns true if the interrupted thread should give way: the arch crate then
    /// calls `preempt` on the interrupted thread's own stack.
    pub interrupt: fn(vector: u8) -> bool,
    /// The interrupted thread's turn is over; returns when it is its turn again.
    pub preempt: fn(),
    /// A trap that was not a probe's. Never returns.
    pub fault: fn(&Fault) -> !,
    /// Another CPU asked this one to stop for good ([`Architecture::stop_other_cpus`]). Never returns.
    pub stopped: fn(&Registers) -> !,
    /// Another CPU asked where this one is ([`Architecture::sample_other_cpus`]), which then goes on. May come anywhere, also
    /// with interrupts disabled and locks held: it takes none.
    pub sampled: fn(&Registers),
    /// This CPU turns to the debugger; the registers are those of the code it goes on with, and can be changed. False if
    /// that is nobody's business: a fault is then reported, anything else ignored.
    pub debug: fn(&DebugEvent<'_>, &mut Registers) -> bool,
    /// A further CPU is up, on a stack of its own, with its local pointer set. Never returns.
    pub cpu_main: fn(cpu: usize) -> !,
}

/// The mechanisms of one machine. Policy (who runs, when, on what memory) is the kernel's.
///
/// CPUs are named by index into [`crate::boot::BootInformation::cpus`]. Functions are called by the kernel from any
/// context unless they say otherwise, and never allocate.
pub trait Architecture: Debugging + Sized + 'static {
    /// Its name, for people.
    const NAME: &'static str;

    /// A suspended flow of control: what [`Architecture::switch`] saves and resumes.
    type Context: Default + Send;

    // ---- start ----------------------------------------------------------------------------------------------

    /// Installs the kernel's callbacks. Called once by the boot CPU, before anything that could use them.
    fn install(callbacks: &'static Callbacks);

    /// Starts another CPU. `hardware_id` is its description's. It enters [`Callbacks::cpu_main`] on
    /// `stack_top` with `local` as its local pointer.
    /// Called by the boot CPU, one CPU at a time, from a thread. `wait` lets about 50 microseconds pass, and returns
    /// false when there is no more time.
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

    /// Stack size of a thread that does not ask for another, in bytes: a power of two.
    const DEFAULT_STACK_SIZE: usize;
    /// Number of trap stacks each CPU needs.
    const INTERRUPT_STACKS: usize;
    /// Gives this CPU its trap stacks, by their tops. Called once per CPU, early; before, traps share a start-up
    /// stack and interrupts stay disabled.
    fn set_interrupt_stacks(tops: &[usize]);
    /// What traps leave at the tops of those, for backtraces; `None` where handlers run on the interrupted stack.
    const TRAP_FRAME: Option<TrapFrame>;
    /// True for a return address in the code that enters interrupt handlers and lets threads give way behind them. Of a thread
    /// that gives way, the next return address in the chain of frames is the interrupted instruction.
    fn is_interrupt_entry(address: usize) -> bool;

    // ---- this CPU -------------------------------------------------------------------------------------------

    /// The word set by [`Architecture::set_local`] on this CPU. One load. Only stable with interrupts disabled.
    fn local() -> usize;
    /// Sets this CPU's local pointer. Called once per CPU, first thing.
    fn set_local(local: usize);
    /// The word set by [`Architecture::set_current`]: the running thread. One load, so it is right in any context.
    fn current() -> usize;
    /// Notes the running thread. Called by the scheduler, interrupts disabled, next to every switch.
    fn set_current(thread: usize);

    /// True if this CPU takes interrupts.
    fn interrupts_enabled() -> bool;
    /// Stops taking interrupts. Cheap, a compiler barrier.
    fn disable_interrupts();
    /// Takes interrupts again.
    fn enable_interrupts();
    /// Enables interrupts and sleeps until one was handled, without a gap in which one could be missed; or until a debugger
    /// or a non-maskable interrupt has stopped the CPU. Returns with interrupts disabled. Called with interrupts disabled by
    /// the idle loop, which looks again.
    fn wait_for_interrupt();
    /// Tells the CPU it is in a spin loop. Every spin loop calls it (an emulator runs the other CPUs there).
    fn spin_hint();
    /// Stops this CPU for good, deaf to interrupts.
    fn halt_forever() -> !;

    /// What the CPU says it is, for people.
    fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result;
    /// What executes its instructions, if that is not hardware alone: `tcg`, `kvm`, another hypervisor, `unknown`; else `none`.
    fn accelerator() -> &'static str;
    /// The instruction set this CPU and this kernel give programs, as compilers call it ("x86-64-v3").
    fn instruction_set() -> &'static str;
    /// Executes the instruction with which programs make system calls, in the mode the kernel runs in; what it returns. There are
    /// no system calls: -38, Linux's negative ENOSYS, whatever the number.
    fn system_call(number: usize) -> isize;

    // ---- time -----------------------------------------------------------------------------------------------

    /// The CPU's time counter: constant rate, the same on all CPUs.
    fn cycles() -> u64;
    /// The same, read when all that stands before it has been executed and nothing behind it has begun: for measuring.
    fn cycles_in_order() -> u64;
    /// Rate of [`Architecture::cycles`] in Hz. Known before the kernel starts.
    fn cycle_frequency_hz() -> u64;
    /// Asks for an interrupt with vector [`Architecture::TIMER_VECTOR`] on this CPU when the counter reaches
    /// `deadline_cycles`, at once if it has; replaces the earlier request. Interrupts disabled. Never early
    /// by more than the clock's resolution: the kernel asks again if it was.
    fn arm_timer(deadline_cycles: u64);
    /// Withdraws the request. Interrupts disabled. A late interrupt may still come.
    fn disarm_timer();
    /// Vector of the timer interrupt.
    const TIMER_VECTOR: u8;
    /// What the timer is made of, for people ("APIC one-shot", "TSC deadline", ...).
    fn timer_name() -> &'static str;

    // ---- interrupts -----------------------------------------------------------------------------------------

    /// Interrupts another CPU (or this one) with `vector`.
    ///
    /// # Errors
    /// If the interrupt controller does not accept the command in time, or there is no such CPU.
    fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError>;
    /// Vector of [`Architecture::interrupt_self`].
    const SELF_VECTOR: u8;
    /// Takes an interrupt with [`Architecture::SELF_VECTOR`] here and now, to measure or test its path.
    fn interrupt_self();
    /// Interrupts all other CPUs that were started.
    ///
    /// # Errors
    /// As for [`Architecture::send_ipi`].
    fn broadcast_ipi(vector: u8) -> Result<(), IpiError>;
    /// Stops all other CPUs, whatever they do, also with interrupts disabled; each enters [`Callbacks::stopped`].
    fn stop_other_cpus();

    /// Asks all other CPUs where they are, whatever they do, also with interrupts disabled; each calls
    /// [`Callbacks::sampled`] and goes on.
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
    /// What the interrupt controller is, for people.
    fn interrupt_controller_name() -> &'static str;

    // ---- memory ---------------------------------------------------------------------------------------------

    /// Where a physical address is in the direct map. Valid for all memory of the boot information.
    fn physical_to_virtual(physical: u64) -> *mut u8;
    /// The reverse of [`Architecture::physical_to_virtual`].
    fn virtual_to_physical(address: *const u8) -> u64;
    /// Virtual addresses set aside for thread stacks: nothing is mapped there until [`Architecture::map_pages`].
    fn stack_window() -> Range<usize>;
    /// Virtual addresses set aside for programs' images, as [`Architecture::stack_window`].
    fn program_window() -> Range<usize>;
    /// Maps `size` bytes, whole pages. `table` supplies zeroed frames for page tables (physical addresses), or `None`. Called
    /// for the two windows only, under the lock of the window's owner in the kernel.
    ///
    /// # Errors
    /// See [`MapError`]; then nothing is mapped, and nothing has been in between.
    fn map_pages(
        address: usize,
        physical: u64,
        size: usize,
        protection: Protection,
        table: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError>;
    /// Removes a mapping and says where it led. The caller flushes TLBs before the frame is used again.
    fn unmap_page(address: usize) -> Option<u64>;
    /// Forgets cached translations on this CPU.
    fn flush_tlb();

    /// Reads `buffer.len()` bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be read; nothing else happens.
    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError>;
    /// Writes bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be written; bytes before it have been.
    fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError>;

    // ---- contexts -------------------------------------------------------------------------------------------

    /// Prepares `context` so that the first switch to it calls `entry(argument)` on `stack_top` with interrupts
    /// disabled. `entry` never returns.
    fn prepare(context: &mut Self::Context, stack_top: usize, entry: extern "C" fn(usize) -> !, argument: usize);
    /// Suspends the running flow into `from` and resumes `to`. Interrupts disabled. Called only by the scheduler.
    ///
    /// # Safety
    /// `from` is the running thread's own context; `to` is suspended or prepared, nobody else resumes it, and its
    /// stack stays mapped.
    unsafe fn switch(from: *mut Self::Context, to: *const Self::Context);
    /// Suspends the running flow into `from`, then calls `next(argument)` on the stack `stack_top`.
    ///
    /// # Safety
    /// As for [`Architecture::switch`]; `stack_top` is a stack of this CPU that nothing uses, `next` never returns.
    unsafe fn switch_through(
        from: *mut Self::Context,
        stack_top: usize,
        next: extern "C" fn(usize) -> !,
        argument: usize,
    );
    /// Resumes `to`, giving up the running flow for good.
    ///
    /// # Safety
    /// As for [`Architecture::switch`].
    unsafe fn resume(to: *const Self::Context) -> !;
    /// Instruction and frame pointer where a suspended context goes on, for backtraces.
    fn suspended_at(context: &Self::Context) -> Registers;
    /// Where this CPU was when the interrupt came that it is handling, for backtraces. Only in handlers.
    fn interrupted() -> Registers;
    /// Registers of the caller, for backtraces.
    fn registers_here() -> Registers;

    /// False where nothing uses floating-point and vector state yet, so that there is none to keep.
    const KEEPS_VECTORS: bool = true;
    /// Calls `function(argument)`, and gives the interrupted code its floating-point and vector state back afterwards, all
    /// of it. Called where a thread that uses that state is interrupted, on a stack with room for the state.
    fn keep_vectors(function: extern "C" fn(usize), argument: usize);
    /// Makes this CPU's floating-point and vector state what new code expects. Called before a program's code is entered
    /// other than by a return.
    fn reset_vectors();
    /// What the calling convention makes a callee preserve of that state; kept across calls that switch threads.
    fn vector_control() -> u64;
    /// Sets what [`Architecture::vector_control`] gave.
    fn set_vector_control(control: u64);
    /// Points the running code at its thread-local variables (the FS base on x86-64). Called by the scheduler, for threads that
    /// have some.
    fn set_thread_pointer(address: usize);
    /// What state there is, for people ("x87 SSE AVX by XSAVE, 832 bytes").
    fn vector_state(write: &mut dyn fmt::Write) -> fmt::Result;

    /// The fault that [`Callbacks::fault`] reported is dealt with, and this CPU goes on, without returning to it.
    fn fault_contained();

    /// Writes what the hardware knows of a fault with this vector besides, for its report; nothing for most.
    fn fault_details(_vector: u8, _write: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    /// Executes an instruction no CPU has, for testing the crash report. Never returns.
    fn execute_invalid_instruction() -> !;

    // ---- console and power ----------------------------------------------------------------------------------

    /// Writes bytes to the machine's first console, polling, from any context, dropping what a stuck device refuses.
    fn console_write(bytes: &[u8]);
    /// Gives the console's device what it takes at once; returns how many bytes that was. Never waits; an absent device
    /// takes everything, and drops it. Called under the kernel's lock, from any context.
    fn console_try_write(bytes: &[u8]) -> usize;
    /// Takes a byte typed at the console, if there is one. Called by the console's interrupt handler.
    fn console_read() -> Option<u8>;
    /// The device line the console interrupts on, if it can.
    fn console_line() -> Option<u32>;
    /// Lets the console raise its line when this is so.
    fn console_watch(event: ConsoleEvent);
    /// No longer raises the line for that.
    fn console_ignore(event: ConsoleEvent);
    /// True while the console raises its line. A line that interrupts by an edge is only heard again after this was
    /// false: the handler serves the device until it is.
    fn console_is_raised() -> bool;
    /// True if trace points shall call [`Architecture::trace`]: a compare and a branch, which it is cheaper to write for each
    /// architecture.
    fn is_tracing() -> bool;
    /// Sets what [`Architecture::is_tracing`] says.
    fn set_tracing(tracing: bool);
    /// Gives a CPU a ring of [`TRACE_ENTRIES`] entries of four words for [`Architecture::trace`], aligned to an entry, for good;
    /// or begins it anew.
    fn set_trace_ring(cpu: usize, ring: *mut TraceEntry);
    /// Number of entries ever written to a CPU's ring.
    fn traced(cpu: usize) -> usize;
    /// Writes time counter, `tag`, `first` and `second` to this CPU's ring, if it has one. Interrupts disabled. For cold
    /// paths in hot code: the compiler need keep nothing out of registers around it.
    fn trace(tag: u64, first: u64, second: u64);
    /// The screen, if there is one.
    fn screen() -> Option<Framebuffer> {
        None
    }
    /// Makes the keyboard raise a line for each byte of its codes (PC scan codes, set 1); which one, if there is a keyboard. Once.
    fn keyboard_init() -> Option<u32> {
        None
    }
    /// Takes a byte of a key's code, if there is one. Called by its interrupt handler.
    fn keyboard_read() -> Option<u8> {
        None
    }
    /// Readies the line on which somebody may ask for the state; false if there is none. Once.
    fn telemetry_init() -> bool {
        false
    }
    /// Takes a byte that came on it.
    fn telemetry_read() -> Option<u8> {
        None
    }
    /// Sends bytes on it, polling; drops what the other end does not take.
    fn telemetry_write(_: &[u8]) {}
    /// Hands bytes to whoever started an emulated machine, where there is a way; else drops them. Any context.
    fn export(what: Export, bytes: &[u8]);
    /// True if there is a way.
    fn exports(what: Export) -> bool;
    /// Ends it all. `status` reaches whoever started an emulated machine where there is a way.
    fn power(action: PowerAction, status: u8) -> !;
}

/// A screen's memory, a 32-bit word per pixel: blue in the lowest byte, green, red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Its first pixel's address, that of the top left one. Nobody but the screen's owner writes there.
    pub start: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Pixels from one row's beginning to the next one's.
    pub stride: usize,
}

/// What is for whoever started an emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// What the tracer recorded.
    Trace,
    /// What is left after a crash.
    Crash,
}

/// Why a console's device raises its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// There are bytes to read.
    Input,
    /// It takes more bytes.
    Output,
}

/// Entries of a trace ring: a power of two.
pub const TRACE_ENTRIES: usize = 16 * 1024;

/// An entry of a trace ring: time counter, and three words of the kernel's.
pub type TraceEntry = [u64; 4];

/// What may be done with a page. There is no writable and executable.
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
    /// Switches it off.
    PowerOff,
    /// Starts it over.
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
    /// It was sent its start-up signal and never ran.
    NoAnswer,
    /// There is no memory below 1 MiB (or what else the architecture needs) to start it from.
    NoTrampoline,
    /// It is not in the boot information.
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
    /// The target CPU cannot be named by the interrupt controller, or was not started.
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
    /// No frame for a page table.
    OutOfMemory,
    /// Something is mapped there already.
    AlreadyMapped,
}

/// An address could not be accessed.
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
