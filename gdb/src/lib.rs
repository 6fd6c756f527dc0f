//! The in-kernel stub for gdb, on the `gdbstub` crate: an ordinary gdb stops, looks at and steps every CPU of a running kernel.
//!
//! It runs on the debugger's line alone, polling, while all CPUs are stopped (`kernel::debug`): no locks, no allocation.
//! - [`framing`]: packets out of bytes, whatever comes; pure, tested on the host.
//! - [`registers`]: registers as gdb has them, and their description.
//! - [`target`]: what gdb can do; [`stub`]: when it may; [`monitor`]: the console's commands from gdb;
//!   [`deferred`]: those that need CPUs that run.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod deferred;
pub mod framing;
pub mod monitor;
pub mod registers;
pub mod stub;
pub mod target;

pub use deferred::serve;
pub use stub::install;
