//! The Aerokernel's mechanisms on x86-64.
//!
//! The CPU's part, shared with Knights Corner:
//! - [`identity`]: CPU identification.
//! - [`cpu`]: the per-CPU block behind GS, the interrupt flag, halting.
//! - [`descriptors`]: GDT, TSS with interrupt stacks, IDT.
//! - [`trap`]: entry and exit of interrupts and exceptions; [`machine_check`]: hardware errors.
//! - [`context`]: the context switch.
//! - [`paging`]: page tables, the direct map, write-xor-execute for the image.
//! - [`probe`]: memory accesses that may fail.
//! - [`system_call`]: the SYSCALL instruction, from ring 0.
//! - [`apic`]: the local APIC; [`debug`]: debug registers; [`calibration`]: the clocks' rates.
//! - [`long_mode`]: the first instructions; [`start_up`]: start-up common to all platforms.
//! - [`trampoline`]: a secondary CPU's way from real mode to the kernel.
//!
//! With feature `pc`, [`pc`]: the PC platform and [`pc::Machine`], which implements the contract.
#![cfg_attr(not(test), no_std)]

pub mod apic;
pub mod calibration;
pub mod context;
pub mod cpu;
#[cfg(feature = "pc")]
pub mod debug;
pub mod descriptors;
pub mod identity;

pub mod long_mode;
pub mod machine_check;
mod naked;
pub mod paging;
#[cfg(feature = "pc")]
pub mod pc;
pub mod probe;
mod shared;
pub mod start_up;
pub mod system_call;
pub mod trace;
pub mod trampoline;
pub mod trap;
pub mod vectors;

#[cfg(feature = "pc")]
pub use pc::Machine;
