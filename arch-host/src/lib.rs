//! The Aerokernel's mechanisms inside an ordinary Linux process, so that the kernel is tested natively.
//!
//! A CPU is a pthread whose GS points at its [`cpu::HostCpu`]. Interrupts are bits set by the sender, who also sends a
//! signal; they are taken in the signal handler, or when interrupts are enabled again. Physical memory is a memory
//! file, mapped whole as the direct map and page by page into the stack window.
//!
//! - [`boot`]: a process becomes a machine; [`HostAllocator`]: what its binaries declare as global allocator.
//! - `cpu`: per-CPU state, interrupts, sleeping; `memory`: the memory file; `signals`: handlers; `machine`: the contract.

mod allocator;
mod boot;
mod cpu;
mod machine;
mod memory;
mod signals;

pub use allocator::HostAllocator;
pub use boot::{Config, boot};
pub use machine::Machine;
