//! The PC platform: everything around a PC's CPUs.
//!
//! - [`machine`]: [`Machine`], which implements the contract.
//! - [`entry`]: the loaders' entries; [`board`]: what is a PC's own while it starts.
//! - [`serial`], [`io_apic`], [`timer`] with [`calibration`], [`power`]: devices; [`screen`],
//!   [`keyboard`]: for a person; [`debug_line`]: for a debugger; [`debug_port`]: for the host of an
//!   emulated machine.

mod board;
mod calibration;
mod debug_line;
mod debug_port;
#[expect(bad_asm_style, reason = "symbol differences need AT&T syntax, see the macro `address`")]
mod entry;
mod io_apic;
mod keyboard;
mod machine;
mod power;
mod screen;
mod serial;
mod timer;
mod uart;

pub use machine::Machine;
