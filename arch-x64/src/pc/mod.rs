//! The PC platform: everything around a PC's CPUs.
//!
//! - [`start`]: from the loader's entry to the kernel's, in order.
//! - [`machine`]: [`Machine`], which implements the contract.
//! - [`serial`], [`io_apic`], [`timer`], [`power`]: devices; [`screen`], [`keyboard`]: for a
//!   person; [`debugging`], [`debug_line`]: for a debugger; [`debug_port`]: for the host of an
//!   emulated machine.

mod debug_line;
mod debug_port;
mod debugging;
#[expect(bad_asm_style, reason = "symbol differences need AT&T syntax, see the macro `address`")]
mod entry;
mod io_apic;
mod keyboard;
mod machine;
mod power;
mod screen;
mod serial;
mod start;
mod timer;
mod uart;

pub use machine::Machine;
