//! The in-kernel stub for gdb, on the `gdbstub` crate: an ordinary gdb stops, looks at and steps every CPU of a running kernel.
//!
//! It runs on the debugger's line alone, polling, while all CPUs are stopped (`kernel::debug`): no locks, no allocation.
//! - [`framing`]: packets out of bytes, whatever comes; pure, tested on the host.
//! - [`packet`]: packets that are written here, gdbstub having none such.
//! - [`registers`]: registers as gdb has them, and their description.
//! - [`threads`]: what its threads are; [`target`]: what it can do; [`stub`]: when it may; [`monitor`]: the console's commands from gdb;
//!   [`deferred`]: those that need CPUs that run.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod deferred;
pub mod framing;
pub mod monitor;
pub mod packet;
pub mod registers;
pub mod stub;
pub mod target;
pub mod threads;

pub use deferred::serve;
pub use stub::install;
