//! Machines that run a kernel, behind one trait, and operations common to all of them.
//!
//! - [`Machine`]: the common trait; [`Settings`]: a machine's configuration; [`start`]: starts one.
//! - [`script`]: runs commands at a kernel's prompt; [`source_lines`]: adds file and line to
//!   backtraces.
//! - [`pc`]: a PC that QEMU emulates, by [`qemu`]'s arguments, with [`files`] of its own, a
//!   [`gdb_line`] and a [`qmp`] socket; [`memory`]: checks that an image fits into it.
//! - [`card`]: a Knights Corner card that QEMU plays, prepared by a [`bootstrap`], with its
//!   console's rings.
//! - [`bochs`]: Bochs, with CPU features that QEMU's emulator lacks. [`linux`]: Linux in QEMU;
//!   [`ros`]: a Linux with a KVM, to run beside. [`hvm`]: beside this very process.
//! - [`process`]: an emulator as a process; [`packages`]: Debian packages, fetched and unpacked.

mod bochs;
mod bootstrap;
mod card;
pub mod files;
mod gdb_line;
pub mod hvm;
pub mod linux;
mod machine;
pub mod memory;
mod packages;
mod pc;
mod process;
pub mod qemu;
pub mod qmp;
pub mod ros;
pub mod script;
mod settings;
pub mod source_lines;
pub mod status;

use anyhow::Result;
use build::Image;

pub use machine::{End, Machine};
pub use qemu::{Accelerator, Clock};
pub use settings::{MachineKind, Settings};

/// Boots an image on a machine, with further words on the kernel's command line.
///
/// # Errors
/// Fails if the emulator is missing or does not start, if files cannot be created, or if settings
/// contradict each other.
pub fn start(image: &Image, settings: &Settings, words: &str) -> Result<Box<dyn Machine>> {
    Ok(match settings.kind {
        MachineKind::Pc => Box::new(pc::Pc::start(image, settings, words)?),
        MachineKind::Card => Box::new(card::Card::start(image, settings, words)?),
        MachineKind::Hvm => Box::new(hvm::Hrt::start(image, settings, words)?),
        MachineKind::Bochs => Box::new(bochs::Bochs::start(image, settings.cpus, words)?),
    })
}
