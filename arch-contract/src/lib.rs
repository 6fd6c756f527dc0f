//! What an architecture owes the kernel, and what it may expect from it.
//!
//! Each arch crate has one type that implements [`Architecture`]; the kernel uses it through the alias
//! `kernel::arch::Machine` and never names an architecture. Everything is static: no trait objects on a hot path.
//!
//! - [`Architecture`]: mechanisms, with who calls what and when.
//! - [`Callbacks`]: the way back up; an arch crate knows the kernel only by these functions.
//! - [`boot`]: what the machine looks like, found out before the kernel starts.
//! - [`fault`]: what a CPU was doing when it trapped; [`debug`]: what a debugger needs.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod boot;
pub mod debug;
pub mod fault;
mod machine;

pub use machine::{
    Architecture, Callbacks, ConsoleEvent, Export, Framebuffer, IpiError, LineError, LineTrigger, MapError,
    PowerAction, ProbeError, Protection, StartCpuError, TRACE_ENTRIES, TraceEntry,
};

/// Size of the smallest page and of a frame, in bytes, on every architecture.
pub const PAGE_SIZE: usize = 4096;

/// Most CPUs any image supports.
pub const MAX_CPUS: usize = 256;

/// First vector a handler may be registered for; those below are processor exceptions.
pub const FIRST_VECTOR: u8 = 32;
