//! The part of the console that needs no kernel: command lines, commands that only inspect, and
//! text from snapshots. The kernel's console builds on it, and `aero inspect` uses it to show what
//! a crashed kernel has left.
//!
//! - [`execute`]: command lines; [`words`]: their words; `filter`: the filters behind `|`.
//! - [`command`]: the definition of a command; [`commands`]: the commands that only inspect.
//! - [`state`]: the source of what commands show; `recorded`: that of a crash file.
//! - [`render`]: text from a `Snapshot`; pure, tested on recorded snapshots.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod commands;
pub mod execute;
mod filter;
mod recorded;
pub mod render;
pub mod state;
pub mod words;

pub use command::{Command, CommandError, CommandResult, Context, parse_number};
pub use execute::{Catalog, Execution, Person};
pub use state::{DoesNotAnswer, Needs, State};
