//! What a debugger needs of an architecture. A machine without a line to a debugger takes all of it as it is.

use crate::ProbeError;
use crate::fault::Fault;
#[cfg(doc)]
use crate::fault::Registers;

/// Why a CPU turns to the debugger.
#[derive(Clone, Copy, Debug)]
pub enum DebugEvent<'a> {
    /// A breakpoint instruction was executed; the instruction pointer is behind it.
    Breakpoint,
    /// One instruction was executed with [`TRAP_FLAG`] set, or hardware breakpoints were hit (a bit for each), or both.
    Trap {
        /// A step is done.
        stepped: bool,
        /// Bits of the hardware breakpoints that were hit.
        hit: u8,
    },
    /// Something came on the debugger's line, or another CPU wants this one to stop; whatever this CPU was doing.
    Attention,
    /// A fault. It is reported as one if the debugger does not take it.
    Fault(&'a Fault),
}

/// In [`Registers::flags`]: a trap after the next instruction (SDM Vol. 3B, 18.3.1.4).
pub const TRAP_FLAG: u64 = 1 << 8;
/// In [`Registers::flags`]: interrupts are taken.
pub const INTERRUPT_FLAG: u64 = 1 << 9;
/// In [`Registers::flags`]: an instruction breakpoint at the next instruction is ignored (SDM Vol. 3B, 18.3.1.1).
pub const RESUME_FLAG: u64 = 1 << 16;

/// Hardware breakpoints of a CPU.
pub const HARDWARE_BREAKPOINTS: usize = 4;

/// What a hardware breakpoint waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Execution of an address, before it.
    Execute,
    /// A write, after it.
    Write,
    /// A read or a write, after it.
    Access,
}

/// A hardware breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareBreakpoint {
    /// Where, aligned to its length.
    pub address: usize,
    /// 1, 2, 4 or 8 bytes.
    pub length: u8,
    /// What for.
    pub watch: Watch,
}

/// What [`Registers`] do not have.
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
    /// All zero.
    pub const fn zero() -> Self {
        Self { segments: [0; 6], fs_base: 0, gs_base: 0, control: [0; 6] }
    }
}

/// Where the parts of the vector state are in the area [`Debugging::save_vectors`] writes (SDM Vol. 1, 13.4 and 13.5);
/// `None` for what the CPU does not have. The first 512 bytes are as FXSAVE writes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct VectorLayout {
    /// Bytes of the area; it is aligned to 64.
    pub size: usize,
    /// Upper halves of YMM0 to YMM15.
    pub avx: Option<usize>,
    /// K0 to K7, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31.
    pub avx512: Option<[usize; 3]>,
}

/// A debugger's mechanisms. They are used on a CPU that is stopped or about to stop, interrupts off, or once at the start.
pub trait Debugging {
    /// Readies the line to a debugger; false if there is none. Once, by the boot CPU.
    fn debug_line_init() -> bool {
        false
    }
    /// Takes a byte that came.
    fn debug_line_read() -> Option<u8> {
        None
    }
    /// Sends a byte, polling; drops it if the other end is stuck.
    fn debug_line_write(_: u8) {}
    /// Makes what comes on the line a [`DebugEvent::Attention`] of CPU 0, whatever that does; or no longer.
    fn debug_line_watch(_: bool) {}
    /// Makes all other CPUs get a [`DebugEvent::Attention`].
    fn debug_stop_others() {}
    /// Halts this CPU until what a [`DebugEvent::Attention`] is for comes, if that has not since the last call. May return sooner. The
    /// event itself comes when the CPU goes on, if this is called while it handles one.
    fn wait_for_attention() {
        core::hint::spin_loop();
    }
    /// Sets this CPU's hardware breakpoints.
    fn set_hardware_breakpoints(_: &[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]) {}
    /// Writes bytes at an address, also where that is read-only, code for example. All other CPUs are stopped.
    ///
    /// # Errors
    /// If nothing is mapped there.
    fn write_protected(address: usize, _: &[u8]) -> Result<(), ProbeError> {
        Err(ProbeError { address })
    }
    /// True for addresses of device registers, which a read may change.
    fn is_device_memory(_: usize) -> bool {
        false
    }
    /// This CPU's, as they are in the code that was interrupted.
    fn system_registers() -> SystemRegisters {
        SystemRegisters::default()
    }
    /// What [`Debugging::save_vectors`] writes.
    fn vector_layout() -> VectorLayout {
        VectorLayout::default()
    }
    /// Writes this CPU's floating-point and vector state to an area of that layout.
    ///
    /// # Safety
    /// The area is as large and as aligned as [`Debugging::vector_layout`] says.
    unsafe fn save_vectors(_: *mut u8) {}
    /// The reverse.
    ///
    /// # Safety
    /// As for [`Debugging::save_vectors`], which wrote it.
    unsafe fn restore_vectors(_: *mut u8) {}
    /// Executes a breakpoint instruction.
    fn breakpoint() {}
    /// The breakpoint instruction, a byte.
    const BREAKPOINT: u8 = 0;
}
