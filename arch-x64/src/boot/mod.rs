//! From the loader's entry to the kernel's, the same way for every machine with this CPU.
//!
//! - [`long_mode`]: the image's first instructions, up to 64-bit mode.
//! - [`start`]: the boot CPU's way to the kernel, a step per call. What differs between machines is
//!   a [`Board`].
//! - [`start_cpu`]: the other CPUs' way to their [`landing`], usually from real mode on the
//!   `trampoline`.
//! - [`memory`]: page tables and frames while the kernel starts; [`packed`]: the image and what is
//!   packed behind it; [`storage`]: where the boot keeps what it learns.

mod board;
pub mod landing;
pub mod long_mode;
pub mod memory;
pub mod packed;
mod secondary;
mod start;
pub mod storage;
mod trampoline;

pub use board::{Board, CannotBoot, Loaded};
pub use secondary::{landing_after_reset, start_cpu};
pub use start::start;
