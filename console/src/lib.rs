//! The console: a shell on the machine's first serial line.
//!
//! - [`editor`]: keys to lines, with history and completion; pure, tested on the host.
//! - [`shell`]: lines to commands; interactive or from the command line's `run=`.
//! - [`commands`]: what can be typed.
//! - [`render`]: text from a `Snapshot`; pure, tested on recorded snapshots.
//! - [`input`]: bytes from the serial interrupt; [`load`]: test load for `spawn`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod commands;
pub mod editor;
pub mod input;
pub mod load;
pub mod render;
pub mod shell;

pub use commands::{Command, CommandError, CommandResult, Context};
pub use shell::run;
