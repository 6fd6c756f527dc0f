//! What a CPU was doing when it trapped.

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

    /// Names of the entries of `general`, in their order.
    pub const fn names() -> [&'static str; 16] {
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
    }
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
