//! Interrupts and exceptions: [`Traps`], [`Ipi`] and [`Lines`].

use core::fmt;

use crate::Callbacks;
use crate::fault::{Fault, Registers, TrapFrame};

/// Entry and exit of interrupts and exceptions.
pub trait Traps: 'static {
    /// Number of trap stacks each CPU needs.
    const STACKS: usize;
    /// Layout of what a trap leaves at the top of a trap stack, for backtraces; `None` if handlers
    /// run on the interrupted stack.
    const FRAME: Option<TrapFrame>;
    /// Vector of [`Traps::interrupt_self`].
    const SELF_VECTOR: u8;

    /// Installs the kernel's callbacks. The boot CPU calls it once, before anything can use them.
    fn install(callbacks: &'static Callbacks);
    /// Gives this CPU its trap stacks, by their tops. Called once per CPU, early; until then traps
    /// share a start-up stack and interrupts stay disabled.
    fn set_stacks(tops: &[usize]);
    /// Takes an interrupt with [`Traps::SELF_VECTOR`] synchronously, to measure or test the
    /// interrupt path.
    fn interrupt_self();
    /// Registers of the code interrupted by the interrupt this CPU is handling, for backtraces.
    /// Only valid in handlers.
    fn interrupted() -> Registers;
    /// True for a return address in the code that enters interrupt handlers and preempts threads
    /// after them. In a preempted thread's frame chain, the next return address is the interrupted
    /// instruction.
    fn is_interrupt_entry(address: usize) -> bool;
    /// Tells the arch crate that a fault reported by [`Callbacks::fault`] is dealt with: this CPU
    /// continues without returning to the faulting code.
    fn fault_contained();
    /// Writes further hardware details of a fault, for its report; nothing for most faults.
    fn describe(_fault: &Fault, _write: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
}

/// Interrupts from CPU to CPU.
pub trait Ipi: 'static {
    /// Sends an IPI with `vector` to a CPU, possibly this one.
    ///
    /// # Errors
    /// If the interrupt controller does not accept the command in time, or there is no such CPU.
    fn send(cpu: usize, vector: u8) -> Result<(), IpiError>;
    /// Sends an IPI to all other started CPUs.
    ///
    /// # Errors
    /// As for [`Ipi::send`].
    fn broadcast(vector: u8) -> Result<(), IpiError>;
    /// Stops all other CPUs, even those with interrupts disabled; each enters
    /// [`Callbacks::stopped`].
    fn stop_others();
    /// Samples all other CPUs, even those with interrupts disabled; each calls
    /// [`Callbacks::sampled`] and continues.
    fn sample_others();
}

/// Devices' interrupt lines ("GSI" on x86). The defaults are those of a machine without any.
pub trait Lines: 'static {
    /// Number of lines.
    fn count() -> u32 {
        0
    }
    /// Routes a line to a vector on a CPU and unmasks it.
    ///
    /// # Errors
    /// See [`LineError`].
    fn route(_line: u32, _vector: u8, _cpu: usize, _trigger: LineTrigger) -> Result<(), LineError> {
        Err(LineError::NoSuchLine)
    }
    /// Masks a line.
    ///
    /// # Errors
    /// See [`LineError`].
    fn mask(_line: u32) -> Result<(), LineError> {
        Err(LineError::NoSuchLine)
    }
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
