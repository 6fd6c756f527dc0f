//! What a CPU was doing when it trapped.

use core::fmt;

/// Why a CPU trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access to memory that is not mapped, or not mapped for it.
    Page {
        /// The address accessed.
        address: usize,
        /// What was tried.
        access: Access,
    },
    /// A debugger's breakpoint instruction.
    Breakpoint,
    /// Anything else, by the architecture's vector and error code.
    Other {
        /// The exception's vector.
        vector: u8,
        /// Its error code, 0 where there is none.
        code: u64,
    },
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

/// A CPU's registers at a trap. Architectures name their own; the kernel needs these three to walk a stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    /// Where it was executing.
    pub instruction_pointer: usize,
    /// Top of its stack.
    pub stack_pointer: usize,
    /// Its frame pointer.
    pub frame_pointer: usize,
    /// General registers in the order of [`Registers::names`].
    pub general: [u64; 16],
    /// Flags register.
    pub flags: u64,
}

impl Registers {
    /// All zero.
    pub const fn zero() -> Self {
        Self { instruction_pointer: 0, stack_pointer: 0, frame_pointer: 0, general: [0; 16], flags: 0 }
    }

    /// Makes the code go on with a function that takes and returns nothing, on an empty stack.
    pub fn go_to(&mut self, function: usize, stack_top: usize) {
        // As behind a call (System V ABI, 3.2.2).
        self.stack_pointer = stack_top - size_of::<usize>();
        self.general[Self::STACK_POINTER] = self.stack_pointer as u64;
        self.instruction_pointer = function;
    }

    const STACK_POINTER: usize = 7;

    /// Names of the entries of `general`, in their order.
    pub const fn names() -> [&'static str; 16] {
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
    }
}

/// All of them, in five lines.
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

/// What a trap leaves at the top of its stack: where, in bytes below the top.
#[derive(Clone, Copy, Debug)]
pub struct TrapFrame {
    /// The interrupted code's instruction pointer.
    pub instruction_pointer: usize,
    /// Its stack pointer.
    pub stack_pointer: usize,
}

/// A trap, as the kernel's fault callback gets it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Why.
    pub kind: FaultKind,
    /// The architecture's name for it, for people.
    pub name: &'static str,
    /// Where and with what.
    pub registers: Registers,
}
