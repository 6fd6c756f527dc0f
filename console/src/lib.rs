//! The console: a shell on the machine's first serial line, and on its screen if it has one.
//!
//! - [`editor`]: the line editor with history and completion; pure, tested on the host.
//! - [`shell`]: the session of a person or a script; [`execute`]: command lines and aliases;
//!   [`session`]: keys and text.
//! - [`commands`]: the commands, including those of [`view`], which only inspect.
//! - [`screen`]: a session on a screen with a keyboard.
//! - [`state`]: the state of this machine, which commands show.
//! - [`post_mortem`]: the prompt after a crash, and while all CPUs are stopped.
//! - [`load`]: test load for `spawn`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod breakpoints;
pub mod commands;
pub mod editor;
pub mod execute;
pub mod load;
pub mod post_mortem;
pub mod screen;
pub mod session;
pub mod shell;
pub mod state;

pub use commands::{Command, CommandError, CommandResult, Context, Needs};
pub use execute::{execute_running, execute_stopped, needs_of};
pub use shell::run;
pub use view::Person;
