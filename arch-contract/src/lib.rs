//! The contract between an architecture and the kernel, in parts.
//!
//! Each arch crate has one type that implements [`Architecture`]: it names a type for each part.
//! Machines share parts: Knights Corner's CPU is `arch-x64`'s, its platform is its own. The kernel
//! uses the parts through `kernel::arch` and never names an architecture. Everything is static: no
//! trait objects on a hot path.
//!
//! - [`Architecture`]: the whole. [`Callbacks`]: the upward direction; an arch crate knows the
//!   kernel only by these functions.
//! - The CPU: [`Core`], [`Contexts`], [`Vectors`], [`Traps`], [`Ipi`], [`AddressSpace`],
//!   [`TraceRing`].
//! - What is around it: [`Lines`], [`Clock`], [`ConsoleDevice`], [`Platform`], and a debugger's
//!   [`Debug`] and [`DebugLine`].
//! - [`boot`]: the machine's description, gathered before the kernel starts.
//! - [`fault`]: a CPU's state when it trapped; [`debug`]: what a debugger is told and sets.
#![no_std]

mod architecture;
pub mod boot;
mod cpu;
pub mod debug;
pub mod fault;
mod memory;
mod platform;
mod trace;
mod traps;

pub use architecture::{Architecture, Callbacks};
pub use cpu::{Contexts, Core, VectorLayout, Vectors};
pub use debug::{Debug, DebugLine};
pub use memory::{AddressSpace, MapError, ProbeError, Protection};
pub use platform::{Clock, ConsoleDevice, ConsoleEvent, Export, Framebuffer, Platform, PowerAction, StartCpuError};
pub use trace::{TRACE_ENTRIES, TraceEntry, TraceRing};
pub use traps::{Ipi, IpiError, LineError, LineTrigger, Lines, Traps};

/// Size of the smallest page and of a frame, in bytes, on every architecture.
pub const PAGE_SIZE: usize = 4096;

/// Maximum number of CPUs any image supports.
pub const MAX_CPUS: usize = 256;

/// Lowest vector a handler can be registered for; those below are processor exceptions.
pub const FIRST_VECTOR: u8 = 32;
