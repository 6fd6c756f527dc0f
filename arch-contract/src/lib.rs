//! The contract between an architecture and the kernel.
//!
//! Each arch crate has one type that implements [`Architecture`]; the kernel uses it through the
//! alias `kernel::arch::Machine` and never names an architecture. Everything is static: no trait
//! objects on a hot path.
//!
//! - [`Architecture`]: the mechanisms, with their callers and contexts.
//! - [`Callbacks`]: the upward direction; an arch crate knows the kernel only by these functions.
//! - [`boot`]: the machine's description, gathered before the kernel starts.
//! - [`fault`]: a CPU's state when it trapped; [`debug`]: a debugger's mechanisms.
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

/// Maximum number of CPUs any image supports.
pub const MAX_CPUS: usize = 256;

/// Lowest vector a handler can be registered for; those below are processor exceptions.
pub const FIRST_VECTOR: u8 = 32;
