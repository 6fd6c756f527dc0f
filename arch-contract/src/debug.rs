//! A debugger's mechanisms: [`Debug`] and [`DebugLine`].

use crate::fault::{Fault, Registers};

/// Why a CPU enters the debugger.
#[derive(Clone, Copy, Debug)]
pub enum DebugEvent<'a> {
    /// A breakpoint instruction was executed; the instruction pointer is past it.
    Breakpoint,
    /// One instruction was executed as a single step, hardware breakpoints were hit, or both.
    Trap {
        /// True if a single step is complete.
        stepped: bool,
        /// The hardware breakpoints that were hit, one bit each.
        hit: u8,
    },
    /// Data arrived on the debugger's line, or another CPU wants this one to stop. Can arrive at
    /// any point.
    Attention,
    /// A fault. It is reported as one if the debugger does not claim it.
    Fault(&'a Fault),
}

/// Number of a CPU's hardware breakpoints.
pub const HARDWARE_BREAKPOINTS: usize = 4;

/// The access a hardware breakpoint triggers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Execution of an address, reported before it.
    Execute,
    /// A write, reported after it.
    Write,
    /// A read or a write, reported after it.
    Access,
}

/// A hardware breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareBreakpoint {
    /// Watched address, aligned to the length.
    pub address: usize,
    /// Watched length: 1, 2, 4 or 8 bytes.
    pub length: u8,
    /// The access that triggers.
    pub watch: Watch,
}

/// The registers that [`Registers`] does not contain.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRegisters {
    /// CS, SS, DS, ES, FS, GS.
    pub segments: [u16; 6],
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// CR0, CR2, CR3, CR4, CR8, EFER.
    pub control: [u64; 6],
}

impl SystemRegisters {
    /// All registers zero.
    pub const fn zero() -> Self {
        Self { segments: [0; 6], fs_base: 0, gs_base: 0, control: [0; 6] }
    }
}

/// The line to a debugger on another machine. It is used by a CPU that is stopped or about to stop,
/// with interrupts disabled. The defaults are those of a machine without such a line.
pub trait DebugLine: 'static {
    /// Prepares the line; returns false if there is none. The boot CPU calls it once.
    fn init() -> bool {
        false
    }
    /// Takes a byte received on the line.
    fn read() -> Option<u8> {
        None
    }
    /// Sends a byte by polling; drops it if the other end is stuck.
    fn write(_byte: u8) {}
    /// Enables or disables delivery of the line's input as a [`DebugEvent::Attention`] to CPU 0,
    /// whatever that CPU is doing.
    fn watch(_watch: bool) {}
}

/// A debugger's mechanisms. They run on a CPU that is stopped or about to stop, with interrupts
/// disabled. The defaults are those of a machine that nothing debugs.
pub trait Debug: 'static {
    /// The breakpoint instruction, one byte.
    const BREAKPOINT: u8 = 0;

    /// Sends a [`DebugEvent::Attention`] to all other CPUs.
    fn stop_others() {}
    /// Halts this CPU until there is cause for a [`DebugEvent::Attention`], unless there has been
    /// one since the last call. May return early. If called while the CPU handles such an event,
    /// the new event itself is delivered when the CPU resumes.
    fn wait_for_attention() {
        core::hint::spin_loop();
    }
    /// Sets this CPU's hardware breakpoints.
    fn set_hardware_breakpoints(_: &[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]) {}
    /// Executes a breakpoint instruction.
    fn breakpoint() {}

    /// Lets the interrupted code pass the instruction breakpoint at its next instruction, and ends
    /// any single steps.
    fn resume(_registers: &mut Registers) {}
    /// Lets the interrupted code execute one instruction, with interrupts disabled if that makes no
    /// difference to the instruction: the step would otherwise enter the handler of a pending
    /// interrupt. Returns whether it disabled them.
    fn begin_step(_registers: &mut Registers) -> bool {
        false
    }
    /// Ends a single step, however it ended. Returns whether there was one.
    fn end_step(_registers: &mut Registers) -> bool {
        false
    }
    /// This CPU's system registers, as the interrupted code has them.
    fn system_registers() -> SystemRegisters {
        SystemRegisters::default()
    }
}
