//! The Rust interface for runtimes on the Aerokernel. docs/HRT.md begins with an empty crate.
//!
//! ```ignore
//! #![no_std]
//! hrt::program!(main);
//!
//! fn main(arguments: hrt::Arguments) -> i32 {
//!     hrt::println!("hello from CPU {}", hrt::cpu::this());
//!     0
//! }
//! ```
//!
//! A program runs in kernel mode, beside the kernel, with all of the CPU's registers to itself; it
//! calls the kernel by ordinary function calls. Errors are values ([`Error`]); deadlines are points
//! on [`time::now_ns`]'s clock.
//!
//! - [`thread`], [`fiber`], [`task`], [`collective`]: flows of control; [`cpu`]: the CPUs they run
//!   on, and per-CPU variables.
//! - [`wait`]: event, mutex, condition variable, semaphore, barrier, reader-writer lock, message
//!   queue.
//! - [`memory`]: the allocator behind `alloc`, and placement on NUMA nodes.
//! - [`time`]: clock, deadlines, timers; [`interrupt`]: inter-processor interrupts and device
//!   lines.
//! - [`abi`]: the underlying C interface.
#![no_std]

extern crate alloc;

pub mod collective;
pub mod cpu;
pub mod fiber;
pub mod interrupt;
pub mod memory;
pub mod output;
mod packed;
mod program;
pub mod raw;
pub mod task;
pub mod thread;
pub mod time;
pub mod wait;

use core::fmt;

pub use abi;
pub use program::{Arguments, exit, run_main};

/// The reason an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The deadline passed first.
    TimedOut,
    /// There is not enough memory.
    OutOfMemory,
    /// An argument is invalid.
    Invalid,
    /// The CPU does not exist or does not run.
    NoSuchCpu,
    /// The object is in use, full or empty.
    Busy,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "it did not happen in time",
            Self::OutOfMemory => "out of memory",
            Self::Invalid => "an argument makes no sense",
            Self::NoSuchCpu => "there is no such CPU",
            Self::Busy => "it is in use",
        })
    }
}

impl core::error::Error for Error {}

/// Converts a status of the interface: a number of at least 0, or an error.
pub(crate) fn check(status: abi::Status) -> Result<i32, Error> {
    match status {
        0.. => Ok(status),
        abi::TIMED_OUT => Err(Error::TimedOut),
        abi::OUT_OF_MEMORY => Err(Error::OutOfMemory),
        abi::NO_SUCH_CPU => Err(Error::NoSuchCpu),
        abi::BUSY => Err(Error::Busy),
        _ => Err(Error::Invalid),
    }
}
