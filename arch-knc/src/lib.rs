//! The Aerokernel's mechanisms on Knights Corner (Xeon Phi x100).
//!
//! The CPU's part is `arch-x64`'s; the card has none of a PC's platform.
//!
//! - [`machine`]: [`Machine`], which implements the contract.
//! - [`entry`]: the bootstrap's entry; [`board`]: what is the card's own while it starts.
//! - [`platform`]: the card's registers; the console is a channel of rings.
//!
//! Not implemented yet, and reported as errors: vector state, programs, gdb's line, telemetry.
//!
//! Sources: System Software Developers Guide 328207-002 [SSDG]; Intel's card kernel 2.6.38 k1om
//! [MPSS]; public measurements on a 3120A card [3120A].
#![no_std]

mod board;
mod entry;
mod machine;
mod platform;

pub use machine::Machine;
