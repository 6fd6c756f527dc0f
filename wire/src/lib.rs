//! The formats that guest and host agree on, each defined in one place and used by both sides.
//!
//! Every format has a version or a first word, and an error that reports another version or damage
//! as such. One side writes and the other reads, both with these types.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod card;
pub mod command_line;
pub mod console;
pub mod crash_file;
pub mod packed;
pub mod rings;
pub mod snapshot;
pub mod telemetry;
pub mod trace;
