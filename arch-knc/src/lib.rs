//! The Aerokernel's mechanisms on Knights Corner (Xeon Phi x100).
//!
//! The CPU's part is `arch-x64`'s; the card has none of a PC's platform.
//!
//! - [`entry`], [`start`]: from the bootstrap to the kernel.
//! - [`platform`]: the card's registers; [`ring`]: the console.
//! - [`machine`]: [`Machine`], which implements the contract.
//!
//! Not implemented yet, and reported as errors: vector state, programs, gdb's line, telemetry.
//!
//! Sources: System Software Developers Guide 328207-002 [SSDG]; Intel's card kernel 2.6.38 k1om
//! [MPSS]; public measurements on a 3120A card [3120A].
#![no_std]

mod entry;
mod machine;
mod platform;
mod ring;
mod start;

pub use machine::Machine;
