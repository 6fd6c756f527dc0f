//! The Aerokernel's mechanisms on x86-64.
//!
//! - [`cpu`]: the CPU's parts of the contract, shared with Knights Corner.
//! - [`boot`]: from the loader to the kernel, the same way for every machine with this CPU.
//! - [`rings`]: rings of bytes to the host of a machine without devices.
//! - [`pc`], with feature `pc`: the PC platform, and [`pc::Machine`], which implements the
//!   contract.
#![cfg_attr(not(test), no_std)]

pub mod boot;
pub mod cpu;
#[cfg(feature = "pc")]
pub mod pc;
pub mod rings;

#[cfg(feature = "pc")]
pub use pc::Machine;
