//! The Aerokernel's mechanisms on Knights Corner (Xeon Phi x100).
//!
//! The CPU's part is `arch-x64`'s; the card has none of a PC's platform. Here so far: the contract, so that the whole
//! kernel compiles and links with nothing but instructions the card has. Not here yet, and saying so with errors: the
//! boot protocol, starting hardware threads, the ring console.
//!
//! Sources: System Software Developers Guide 328207-002 [SSDG]; Intel's card kernel 2.6.38 k1om [MPSS]; public
//! measurements on a 3120A card [3120A].
#![no_std]

mod machine;
mod platform;

pub use machine::Machine;
