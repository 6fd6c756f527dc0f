//! A CPU's state when it trapped.

use core::fmt;

/// Why a CPU trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access to memory that is not mapped, or whose mapping forbids the access.
    Page {
        /// The address accessed.
        address: usize,
        /// The attempted access.
        access: Access,
    },
    /// A debugger's breakpoint instruction.
    Breakpoint,
    /// An instruction that this CPU does not have.
    InvalidInstruction,
    /// Any other fault of the running code.
    Other,
    /// A non-maskable interrupt that no part of the kernel asked for.
    NonMaskable,
    /// The hardware failed, or the CPU could not deliver another fault: not the running code's
    /// doing.
    Machine,
}

/// A kind of memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A CPU's registers at a trap. The general registers and their names are the architecture's; the
/// kernel needs the first three to walk a stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    /// Address of the instruction being executed.
    pub instruction_pointer: usize,
    /// Top of the stack.
    pub stack_pointer: usize,
    /// Frame pointer.
    pub frame_pointer: usize,
    /// General registers in the order of [`Registers::names`].
    pub general: [u64; 16],
    /// The flags register.
    pub flags: u64,
}

impl Registers {
    /// All registers zero.
    pub const fn zero() -> Self {
        Self { instruction_pointer: 0, stack_pointer: 0, frame_pointer: 0, general: [0; 16], flags: 0 }
    }

    /// Makes the code continue in a function without arguments and result, on an empty stack.
    pub fn go_to(&mut self, function: usize, stack_top: usize) {
        // The stack pointer is where a call leaves it (System V ABI, 3.2.2).
        self.stack_pointer = stack_top - size_of::<usize>();
        self.general[Self::STACK_POINTER] = self.stack_pointer as u64;
        self.instruction_pointer = function;
    }

    const STACK_POINTER: usize = 7;
    /// Interrupt flag in `flags` (SDM Vol. 1, 3.4.3).
    const INTERRUPT_FLAG: u64 = 1 << 9;

    /// True if the code runs with interrupts enabled.
    pub const fn interrupts_enabled(&self) -> bool {
        self.flags & Self::INTERRUPT_FLAG != 0
    }

    /// Makes the code continue with interrupts enabled.
    pub const fn enable_interrupts(&mut self) {
        self.flags |= Self::INTERRUPT_FLAG;
    }

    /// Makes the code continue with interrupts disabled.
    pub const fn disable_interrupts(&mut self) {
        self.flags &= !Self::INTERRUPT_FLAG;
    }

    /// Names of the entries of `general`, in their order.
    pub const fn names() -> [&'static str; 16] {
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
    }
}

/// Formats all registers, in five lines.
impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (names, values) in Self::names().chunks(4).zip(self.general.chunks(4)) {
            for (name, value) in names.iter().zip(values) {
                write!(f, "  {name:>3} {value:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  rip {:016x}  flags {:08x}", self.instruction_pointer, self.flags)
    }
}

/// Layout of what a trap leaves at the top of its stack, as byte distances below the top.
#[derive(Clone, Copy, Debug)]
pub struct TrapFrame {
    /// Distance of the interrupted code's instruction pointer.
    pub instruction_pointer: usize,
    /// Distance of the interrupted code's stack pointer.
    pub stack_pointer: usize,
}

/// A trap, as passed to the kernel's fault callback.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The kind of trap.
    pub kind: FaultKind,
    /// The architecture's human-readable name of the trap.
    pub name: &'static str,
    /// The architecture's number of the trap.
    pub vector: u8,
    /// The trap's error code, 0 if it has none.
    pub code: u64,
    /// The registers at the trap.
    pub registers: Registers,
}
