//! The whole: an architecture is its parts, and calls the kernel by [`Callbacks`].

use crate::debug::DebugEvent;
use crate::fault::{Fault, Registers};
use crate::{
    AddressSpace, Clock, ConsoleDevice, Contexts, Core, Debug, DebugLine, Ipi, Lines, Platform, TraceRing, Traps,
    Vectors,
};

/// A machine's mechanisms, part by part. Policy (which thread runs, when, and on what memory) is
/// the kernel's.
///
/// CPUs are named by index into [`crate::boot::BootInformation::cpus`]. The kernel calls the parts'
/// functions from any context unless they say otherwise, and they never allocate.
pub trait Architecture: 'static {
    /// The architecture's human-readable name.
    const NAME: &'static str;
    /// Default stack size of a thread, in bytes; a power of two.
    const DEFAULT_STACK_SIZE: usize;

    /// This CPU.
    type Core: Core;
    /// Suspended flows of control.
    type Contexts: Contexts;
    /// Floating-point and vector state.
    type Vectors: Vectors;
    /// Entry and exit of interrupts and exceptions.
    type Traps: Traps;
    /// Interrupts from CPU to CPU.
    type Ipi: Ipi;
    /// Devices' interrupt lines.
    type Lines: Lines;
    /// The clock that interrupts at a deadline.
    type Clock: Clock;
    /// Virtual and physical addresses.
    type AddressSpace: AddressSpace;
    /// The CPUs' trace rings.
    type TraceRing: TraceRing;
    /// The first console's device.
    type ConsoleDevice: ConsoleDevice;
    /// Everything else around the CPUs.
    type Platform: Platform;
    /// A debugger's mechanisms.
    type Debug: Debug;
    /// The line to a debugger.
    type DebugLine: DebugLine;
}

/// The kernel functions the arch crate calls. Installed once by [`Traps::install`] before
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
    /// Deals with a fault of which the regular OS beside the kernel may know the cause, before it
    /// is reported. Returns true if the code continues, with the registers as they are then. Called
    /// on the trap's stack, with interrupts off.
    pub resolve: fn(&Fault, &mut Registers) -> bool,
    /// Handles a trap that no probe caused. Never returns.
    pub fault: fn(&Fault) -> !,
    /// Stops this CPU for good at another CPU's request ([`Ipi::stop_others`]). Never returns.
    pub stopped: fn(&Registers) -> !,
    /// Records where this CPU is for another CPU ([`Ipi::sample_others`]), then lets it continue.
    /// Can arrive anywhere, even with interrupts disabled and locks held, so it takes no locks.
    pub sampled: fn(&Registers),
    /// Handles a debug event on this CPU. The registers are the interrupted context; edits take
    /// effect on resume. Returns false if no debugger claims the event: a fault is then reported,
    /// anything else ignored.
    pub debug: fn(&DebugEvent<'_>, &mut Registers) -> bool,
    /// Entry of a secondary CPU, on its own stack and with its local pointer set. Never returns.
    pub cpu_main: fn(cpu: usize) -> !,
}
