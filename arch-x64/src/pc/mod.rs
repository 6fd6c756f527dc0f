//! The PC platform: everything a PC has around its CPUs.
//!
//! - [`start`]: from the loader's entry to the kernel's, in order.
//! - [`machine`]: [`Machine`], the contract's implementer.
//! - [`serial`], [`io_apic`], [`timer`], [`power`]: devices.

mod debug_port;
#[expect(bad_asm_style, reason = "symbol differences need AT&T syntax, see the macro `address`")]
mod entry;
mod io_apic;
mod machine;
mod power;
mod serial;
mod start;
mod timer;

pub use machine::Machine;
