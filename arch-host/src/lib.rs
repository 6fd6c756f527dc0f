//! The Aerokernel's mechanisms inside an ordinary Linux process, for native tests of the kernel.
//!
//! A CPU is a pthread whose GS points at its [`cpu::HostCpu`]. The sender of an interrupt sets a
//! bit and sends a signal; the target takes the interrupt in the signal handler, or when it enables
//! interrupts again. Physical memory is a memory file, mapped whole as the direct map and page by
//! page into the windows for stacks and programs.
//!
//! - [`boot`]: turns a process into a machine; [`HostAllocator`]: the global allocator its binaries
//!   declare.
//! - `cpu`: per-CPU state, interrupts, sleeping; `memory`: the memory file; `signals`: handlers;
//!   `machine`: the contract.

mod allocator;
mod boot;
mod cpu;
mod machine;
mod memory;
mod signals;

pub use allocator::HostAllocator;
pub use boot::{Config, boot};
pub use machine::Machine;
