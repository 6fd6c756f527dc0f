//! The Aerokernel's mechanisms as a hybrid runtime (HRT) in a hybrid virtual machine (HVM).
//!
//! The CPU's part is `arch-x64`'s. Around it there is only what the monitor gives: an APIC, rings
//! of bytes, and downcalls.
//!
//! - [`machine`]: [`Machine`], which implements the contract.
//! - [`entry`]: the entry of all CPUs; [`parked`]: where all but one wait; [`again`]: how they come
//!   back after a triple fault; [`board`]: what is the HVM's own while it starts.
//! - [`lines`]: rings for the console, telemetry and a debugger; [`files`]: what the kernel writes.
//! - [`downcall`]: requests to the monitor; [`upcall`]: requests from there; [`ros_code`]: the
//!   ROS's functions on CPUs that partner threads run.
#![no_std]

pub mod again;
mod board;
pub mod downcall;
mod entry;
mod files;
mod lines;
mod machine;
mod parked;
pub mod ros_code;
pub mod upcall;

pub use machine::Machine;
