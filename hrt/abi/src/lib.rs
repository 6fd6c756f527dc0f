//! What a program and the kernel agree on, written once.
//!
//! [`functions!`] hands all functions of the interface to a macro of the caller's: the kernel side checks its
//! implementation against them, the Rust API declares them, and `aero` writes the C header from them.
//!
//! Conventions: the C calling convention. A function that can fail returns an [`Status`], 0 or a negative number.
//! Times are nanoseconds, deadlines are points of [`time_ns`'s clock](functions!), [`NEVER`] is none.
//! Objects (`event`, `mutex`, ...) live in memory of the program's own, at a fixed address from their `init` on until
//! nobody uses them; memory that is not such an object is [`INVALID`]. A handle (`*mut Thread`, `*mut Channel`, ...) is a number, not an address: one that is stale, of another
//! kind or of another program is [`INVALID`]. A pointer that leads nowhere ends the program. Nothing here takes or returns floating-point values.
#![no_std]

mod functions;

/// Version of the interface. A program built for another is refused.
pub const VERSION: u32 = 1;

/// First word of a [`Program`]: "AERO".
pub const MAGIC: u32 = u32::from_le_bytes(*b"AERO");

/// Name of the symbol under which an image exports its [`Program`].
pub const PROGRAM_SYMBOL: &str = "aero_program";

/// What an image says of itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`] it was built for.
    pub version: u32,
    /// Its first function: count and values of its arguments, the first its name; returns the exit status.
    pub main: Option<unsafe extern "C" fn(count: i32, values: *const *const u8) -> i32>,
    /// Stack of its first thread in bytes, 0 for the default.
    pub stack_size: usize,
}

// SAFETY: constants.
unsafe impl Sync for Program {}

/// A function of the program's, to be called with an argument.
pub type Function = Option<unsafe extern "C" fn(argument: *mut u8)>;

/// What became of a call: 0, or a negative number.
pub type Status = i32;

/// Done.
pub const OK: Status = 0;
/// The deadline passed first.
pub const TIMED_OUT: Status = -1;
/// There is not enough memory for it.
pub const OUT_OF_MEMORY: Status = -2;
/// An argument makes no sense: a null or misaligned pointer, a size of zero.
pub const INVALID: Status = -3;
/// There is no such CPU, or it does not run.
pub const NO_SUCH_CPU: Status = -4;
/// It is in use, full or empty; trying again later may help.
pub const BUSY: Status = -5;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// A CPU or node number that stands for "here", "the nearest", "any".
pub const ANY: u32 = u32::MAX;

/// How a device's line announces interrupts: as the firmware says, or the bus's default.
pub const TRIGGER_DEFAULT: u32 = 0;
/// On a rising edge.
pub const TRIGGER_EDGE: u32 = 1;
/// As long as the line is active.
pub const TRIGGER_LEVEL: u32 = 2;

/// Before all other tasks of its CPU.
pub const PRIORITY_HIGH: u32 = 0;
/// As usual.
pub const PRIORITY_NORMAL: u32 = 1;
/// When there is nothing else.
pub const PRIORITY_LOW: u32 = 2;

/// What a task shall do, and where.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TaskOptions {
    /// CPU it is queued on, or [`ANY`] for the caller's.
    pub cpu: u32,
    /// [`PRIORITY_HIGH`], [`PRIORITY_NORMAL`] or [`PRIORITY_LOW`].
    pub priority: u32,
    /// Not 0 if no other CPU may steal it.
    pub pinned: u32,
}

/// How a thread shall be.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ThreadOptions {
    /// Its name, not NUL-terminated, cut to 31 bytes; may be null.
    pub name: *const u8,
    /// Bytes of the name.
    pub name_length: usize,
    /// CPU it is bound to, or [`ANY`] for the caller's.
    pub cpu: u32,
    /// Stack in bytes, 0 for the default.
    pub stack_size: usize,
}

/// Declares an object that lives in the program's memory.
macro_rules! object {
    ($(#[$attribute:meta])* $name:ident, $words:literal) => {
        $(#[$attribute])*
        #[repr(C, align(16))]
        #[derive(Debug)]
        pub struct $name {
            words: [core::cell::UnsafeCell<u64>; $words],
        }

        // SAFETY: only the kernel looks inside, and it locks.
        unsafe impl Sync for $name {}
        // SAFETY: nothing in it belongs to a thread.
        unsafe impl Send for $name {}

        impl $name {
            /// Memory for one, not initialised.
            pub const fn uninit() -> Self {
                Self { words: [const { core::cell::UnsafeCell::new(0) }; $words] }
            }
        }
    };
}

object!(
    /// An event: wakes one waiter a signal, remembers a signal nobody waited for.
    Event, 8
);
object!(
    /// A mutual exclusion lock that blocks.
    Mutex, 8
);
object!(
    /// A condition variable, for use with a [`Mutex`].
    Condition, 8
);
object!(
    /// A counting semaphore.
    Semaphore, 8
);
object!(
    /// A barrier for a fixed number of threads, for any number of rounds.
    Barrier, 8
);
object!(
    /// A reader-writer lock.
    ReaderWriterLock, 12
);

/// A running or ended thread, from spawn to join or detach.
#[repr(C)]
pub struct Thread {
    _private: [u8; 0],
}

/// A bounded queue of words.
#[repr(C)]
pub struct Channel {
    _private: [u8; 0],
}

/// A one-shot timer.
#[repr(C)]
pub struct Timer {
    _private: [u8; 0],
}

/// An interrupt vector with a handler.
#[repr(C)]
pub struct Interrupt {
    _private: [u8; 0],
}

/// A cooperative context.
#[repr(C)]
pub struct Fiber {
    _private: [u8; 0],
}

/// Queues of tasks, with a worker on each CPU.
#[repr(C)]
pub struct Pool {
    _private: [u8; 0],
}

/// A fixed number of threads that meet in collective operations.
#[repr(C)]
pub struct Collective {
    _private: [u8; 0],
}

/// A device's interrupt line with a handler.
#[repr(C)]
pub struct Line {
    _private: [u8; 0],
}
