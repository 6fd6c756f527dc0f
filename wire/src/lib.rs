//! What guest and host agree on, each in one place: neither side types any of it again.
//!
//! Every format has a version, or a first word, and what another version or damage has made of it is an error that says so. The guest writes
//! and the host reads, or the other way round; both by these types.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod card;
pub mod console;
pub mod crash_file;
pub mod packed;
pub mod snapshot;
pub mod telemetry;
pub mod trace;
