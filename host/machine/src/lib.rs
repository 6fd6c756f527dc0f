//! Machines that run a kernel, behind one trait, and what is done with any of them.
//!
//! - [`Machine`]: what all have; [`Settings`]: what one is to be like; [`start`]: makes one.
//! - [`script`]: runs commands at a kernel's prompt; [`source_lines`]: adds file and line to backtraces.
//! - [`pc`]: a PC that QEMU emulates, by [`qemu`]'s arguments, with [`files`] of its own, a [`gdb_line`] and a [`qmp`] socket;
//!   [`memory`]: whether an image fits into it.
//! - [`card`]: a Knights Corner card that QEMU plays, with what a [`bootstrap`] leaves it and its console's
//!   [`rings`].
//! - [`bochs`]: Bochs, with what QEMU's emulator lacks. [`linux`]: a Linux in QEMU.
//! - [`process`]: an emulator as a process.

mod bochs;
mod bootstrap;
mod card;
pub mod files;
mod gdb_line;
pub mod linux;
mod machine;
mod memory;
mod pc;
mod process;
pub mod qemu;
pub mod qmp;
mod rings;
pub mod script;
mod settings;
pub mod source_lines;
pub mod status;

use anyhow::Result;
use build::Image;

pub use machine::{End, Machine};
pub use qemu::{Accelerator, Clock};
pub use settings::{Kind, Settings};

/// Boots an image on a machine, with further words for the kernel's command line.
///
/// # Errors
/// Emulators that are missing or do not start, files that cannot be made, and settings that contradict each other.
pub fn start(image: &Image, settings: &Settings, words: &str) -> Result<Box<dyn Machine>> {
    Ok(match settings.kind {
        Kind::Pc => Box::new(pc::Pc::start(image, settings, words)?),
        Kind::Card => Box::new(card::Card::start(image, settings, words)?),
        Kind::Bochs => Box::new(bochs::Bochs::start(image, settings.cpus, words)?),
    })
}
