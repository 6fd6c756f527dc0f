//! What a machine is to be like.

use std::path::PathBuf;
use std::time::Duration;

use crate::qemu::{Accelerator, Clock};

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A PC, by QEMU.
    Pc,
    /// A Knights Corner card, which QEMU plays.
    Card,
    /// A PC, by Bochs.
    Bochs,
}

/// What a machine is to be like. Of those beside a PC in QEMU, each heeds what it has.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which machine.
    pub kind: Kind,
    /// Number of CPUs, or of a card's hardware threads.
    pub cpus: u32,
    /// Memory, as QEMU takes it.
    pub memory: String,
    /// What executes guest instructions.
    pub accelerator: Accelerator,
    /// How its time passes.
    pub clock: Clock,
    /// Boot from a CD with GRUB (BIOS, Multiboot2) instead of QEMU's own loader (PVH).
    pub from_cd: bool,
    /// Whether it is to end where a PC would boot again.
    pub ends_at_reset: bool,
    /// A window with a screen and a keyboard.
    pub has_display: bool,
    /// A line for telemetry, at a socket or, without one, at one of its own in the project's directory.
    pub telemetry: Option<Option<PathBuf>>,
    /// A line for a debugger, at a socket or, without one, at one of its own in the project's directory.
    pub debugger: Option<Option<PathBuf>>,
    /// Where the kernel's trace goes, in the kernel's own format.
    pub trace: Option<PathBuf>,
    /// Whether the kernel writes its trace while it runs.
    pub streams_trace: bool,
    /// How long a script may take.
    pub limit: Duration,
    /// Words for the kernel's command line.
    pub append: String,
    /// Further arguments for QEMU.
    pub arguments: Vec<String>,
}

impl Settings {
    /// A machine in QEMU's emulator for commands that may take so long.
    pub fn for_commands(limit: Duration) -> Self {
        Self {
            kind: Kind::Pc,
            cpus: 2,
            memory: "512M".into(),
            accelerator: Accelerator::Tcg,
            clock: Clock::Real,
            from_cd: false,
            ends_at_reset: true,
            has_display: false,
            telemetry: None,
            debugger: None,
            trace: None,
            streams_trace: false,
            limit,
            append: String::new(),
            arguments: Vec::new(),
        }
    }
}
