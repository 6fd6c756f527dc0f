//! An architecture's mechanisms for a debugger. A machine without a debugger line keeps all the
//! defaults.

use crate::ProbeError;
use crate::fault::Fault;
#[cfg(doc)]
use crate::fault::Registers;

/// Why a CPU enters the debugger.
#[derive(Clone, Copy, Debug)]
pub enum DebugEvent<'a> {
    /// A breakpoint instruction was executed; the instruction pointer is past it.
    Breakpoint,
    /// One instruction was executed with [`TRAP_FLAG`] set, hardware breakpoints were hit, or both.
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

/// In [`Registers::flags`]: trap after the next instruction (SDM Vol. 3B, 18.3.1.4).
pub const TRAP_FLAG: u64 = 1 << 8;
/// In [`Registers::flags`]: interrupts are enabled.
pub const INTERRUPT_FLAG: u64 = 1 << 9;
/// In [`Registers::flags`]: ignore an instruction breakpoint at the next instruction (SDM Vol. 3B,
/// 18.3.1.1).
pub const RESUME_FLAG: u64 = 1 << 16;

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

/// Offsets of the parts of the vector state in the area that [`Debugging::save_vectors`] writes
/// (SDM Vol. 1, 13.4 and 13.5); `None` for parts the CPU lacks. The first 512 bytes have FXSAVE's
/// layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct VectorLayout {
    /// Size of the area in bytes; the area is aligned to 64.
    pub size: usize,
    /// Upper halves of YMM0 to YMM15.
    pub avx: Option<usize>,
    /// K0 to K7, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31.
    pub avx512: Option<[usize; 3]>,
}

/// A debugger's mechanisms. They run on a CPU that is stopped or about to stop, with interrupts
/// disabled, or once at start-up.
pub trait Debugging {
    /// Prepares the debugger's line; returns false if there is none. The boot CPU calls it once.
    fn debug_line_init() -> bool {
        false
    }
    /// Takes a byte received on the debugger's line.
    fn debug_line_read() -> Option<u8> {
        None
    }
    /// Sends a byte by polling; drops it if the other end is stuck.
    fn debug_line_write(_: u8) {}
    /// Enables or disables delivery of the line's input as a [`DebugEvent::Attention`] to CPU 0,
    /// whatever that CPU is doing.
    fn debug_line_watch(_: bool) {}
    /// Sends a [`DebugEvent::Attention`] to all other CPUs.
    fn debug_stop_others() {}
    /// Halts this CPU until there is cause for a [`DebugEvent::Attention`], unless there has been
    /// one since the last call. May return early. If called while the CPU handles such an event,
    /// the new event itself is delivered when the CPU resumes.
    fn wait_for_attention() {
        core::hint::spin_loop();
    }
    /// Sets this CPU's hardware breakpoints.
    fn set_hardware_breakpoints(_: &[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]) {}
    /// Writes bytes at an address even if it is read-only, code for example. All other CPUs are
    /// stopped.
    ///
    /// # Errors
    /// If nothing is mapped there.
    fn write_protected(address: usize, _: &[u8]) -> Result<(), ProbeError> {
        Err(ProbeError { address })
    }
    /// True for addresses of device registers, which a read can change.
    fn is_device_memory(_: usize) -> bool {
        false
    }
    /// This CPU's system registers, as the interrupted code has them.
    fn system_registers() -> SystemRegisters {
        SystemRegisters::default()
    }
    /// Layout of what [`Debugging::save_vectors`] writes.
    fn vector_layout() -> VectorLayout {
        VectorLayout::default()
    }
    /// Writes this CPU's floating-point and vector state to an area of that layout.
    ///
    /// # Safety
    /// The area has the size and the alignment that [`Debugging::vector_layout`] gives.
    unsafe fn save_vectors(_: *mut u8) {}
    /// Loads this CPU's floating-point and vector state from such an area.
    ///
    /// # Safety
    /// As for [`Debugging::save_vectors`], which wrote the area.
    unsafe fn restore_vectors(_: *mut u8) {}
    /// Executes a breakpoint instruction.
    fn breakpoint() {}
    /// The breakpoint instruction, one byte.
    const BREAKPOINT: u8 = 0;
}
