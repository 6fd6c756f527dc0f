//! The in-kernel stub for gdb, on the `gdbstub` crate: an ordinary gdb stops, inspects and steps
//! every CPU of a running kernel.
//!
//! The stub is alone on the debugger's line and polls it while all CPUs are stopped
//! (`kernel::debug`): no locks, no allocation.
//! - [`framing`]: assembles packets from arbitrary bytes; pure, tested on the host.
//! - [`packet`]: packets that gdbstub does not write.
//! - [`registers`]: registers in gdb's order, and their description.
//! - [`threads`]: gdb's threads; [`target`]: the operations on a stopped kernel; [`stub`]: the
//!   session; [`monitor`]: the console's commands from gdb; [`deferred`]: commands that need
//!   running CPUs.
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
