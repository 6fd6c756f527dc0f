//! The interface between a program and the kernel, defined once.
//!
//! [`functions!`] passes all functions of the interface to a macro: the kernel side checks its
//! implementation against them, the Rust API declares them, and `aero` generates the C header from
//! them.
//!
//! Functions follow the C calling convention. One that can fail returns a [`Status`]: 0, or a
//! negative number for an error. Times are in nanoseconds; deadlines are points of [`time_ns`'s
//! clock](functions!), and [`NEVER`] is none. Objects (`event`, `mutex`, ...) live in the program's
//! own memory, at a fixed address from their `init` until their last use; memory that is not such
//! an object is [`INVALID`]. A handle (`*mut Thread`, `*mut MessageQueue`, ...) is a number, not an
//! address; a stale handle, or one of another kind or another program, is [`INVALID`]. A pointer to
//! inaccessible memory ends the program. No function takes or returns floating-point values.
#![no_std]

mod functions;

/// Version of the interface. The kernel refuses a program built for another version.
pub const VERSION: u32 = 1;

/// First word of a [`Program`]: "AERO".
pub const MAGIC: u32 = u32::from_le_bytes(*b"AERO");

/// Name of the symbol under which an image exports its [`Program`].
pub const PROGRAM_SYMBOL: &str = "aero_program";

/// Description of a program, which its image exports.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// [`MAGIC`].
    pub magic: u32,
    /// The [`VERSION`] that the program was built for.
    pub version: u32,
    /// The program's first function. It takes the count and values of the arguments, of which the
    /// first is the program's name, and returns the exit status.
    pub main: Option<unsafe extern "C" fn(count: i32, values: *const *const u8) -> i32>,
    /// Stack size of the first thread in bytes, 0 for the default.
    pub stack_size: usize,
}

// SAFETY: the fields are set when the program is built and never change, so any thread may read
// them.
unsafe impl Sync for Program {}

/// A function of the program, called with an argument.
pub type Function = Option<unsafe extern "C" fn(argument: *mut u8)>;

/// Result of a call: 0, or a negative number for an error.
pub type Status = i32;

/// The call succeeded.
pub const OK: Status = 0;
/// The deadline passed first.
pub const TIMED_OUT: Status = -1;
/// There is not enough memory.
pub const OUT_OF_MEMORY: Status = -2;
/// An argument is invalid, for example a null or misaligned pointer, or a size of zero.
pub const INVALID: Status = -3;
/// There is no such CPU, or it does not run.
pub const NO_SUCH_CPU: Status = -4;
/// The object is in use, full or empty; a later attempt may succeed.
pub const BUSY: Status = -5;

/// A deadline that never passes.
pub const NEVER: u64 = u64::MAX;

/// A CPU or node number that stands for "here", "the nearest" or "any".
pub const ANY: u32 = u32::MAX;

/// Trigger of a device's line as the firmware states it, or else the default of the bus.
pub const TRIGGER_DEFAULT: u32 = 0;
/// Trigger on a rising edge.
pub const TRIGGER_EDGE: u32 = 1;
/// Trigger as long as the line is active.
pub const TRIGGER_LEVEL: u32 = 2;

/// Priority of a task that runs before all others of its CPU.
pub const PRIORITY_HIGH: u32 = 0;
/// Priority of an ordinary task.
pub const PRIORITY_NORMAL: u32 = 1;
/// Priority of a task that runs when there is no other.
pub const PRIORITY_LOW: u32 = 2;

/// Properties of a task: where it runs, and its priority.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TaskOptions {
    /// CPU on whose queue the task is put, or [`ANY`] for the caller's.
    pub cpu: u32,
    /// [`PRIORITY_HIGH`], [`PRIORITY_NORMAL`] or [`PRIORITY_LOW`].
    pub priority: u32,
    /// Not 0 if no other CPU may steal the task.
    pub pinned: u32,
}

/// Properties of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ThreadOptions {
    /// Name of the thread, not NUL-terminated, cut to 31 bytes; may be null.
    pub name: *const u8,
    /// Length of the name in bytes.
    pub name_length: usize,
    /// CPU that the thread is bound to, or [`ANY`] for the caller's.
    pub cpu: u32,
    /// Stack size in bytes, 0 for the default.
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

        // SAFETY: only the kernel accesses the contents, and it synchronises its accesses.
        unsafe impl Sync for $name {}
        // SAFETY: the contents are not bound to a thread, so another thread may own the object.
        unsafe impl Send for $name {}

        impl $name {
            /// Returns memory for an object, not initialised.
            pub const fn uninit() -> Self {
                Self { words: [const { core::cell::UnsafeCell::new(0) }; $words] }
            }
        }
    };
}

object!(
    /// An event. A signal wakes one waiter; without a waiter, the event remembers it.
    Event, 8
);
object!(
    /// A lock for mutual exclusion, which blocks.
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
    /// A barrier for a fixed number of threads, usable for any number of rounds.
    Barrier, 8
);
object!(
    /// A reader-writer lock.
    ReaderWriterLock, 12
);

/// A running or ended thread, from its spawn to its join or detach.
#[repr(C)]
pub struct Thread {
    _private: [u8; 0],
}

/// A bounded queue of words.
#[repr(C)]
pub struct MessageQueue {
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

/// A cooperative context of a thread.
#[repr(C)]
pub struct Fiber {
    _private: [u8; 0],
}

/// A task pool: queues of tasks, with a worker thread on each CPU.
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
