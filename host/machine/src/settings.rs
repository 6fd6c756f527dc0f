//! The configuration of a machine.

use std::path::PathBuf;
use std::time::Duration;

use crate::qemu::{Accelerator, Clock};

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// A PC, in QEMU.
    Pc,
    /// A Knights Corner card, played by QEMU.
    Card,
    /// A PC, in Bochs.
    Bochs,
    /// A hybrid virtual machine beside this process, on KVM.
    Hvm,
}

/// The configuration of a machine. Machines other than a PC in QEMU use only the settings that
/// apply to them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kind of machine.
    pub kind: MachineKind,
    /// Number of CPUs, or of a card's hardware threads.
    pub cpus: u32,
    /// Memory size, in QEMU's syntax.
    pub memory: String,
    /// The accelerator that executes guest instructions.
    pub accelerator: Accelerator,
    /// The source of guest time.
    pub clock: Clock,
    /// Whether to boot from a CD with GRUB (BIOS, Multiboot2) instead of with QEMU's own loader
    /// (PVH).
    pub from_cd: bool,
    /// Whether the machine ends where a PC would boot again.
    pub ends_at_reset: bool,
    /// Whether the machine has a window with a screen and a keyboard.
    pub has_display: bool,
    /// The telemetry line's socket. The inner `None` stands for a path of its own in the project's
    /// directory.
    pub telemetry: Option<Option<PathBuf>>,
    /// The debugger line's socket. The inner `None` stands for a path of its own in the project's
    /// directory.
    pub debugger: Option<Option<PathBuf>>,
    /// The file for the kernel's trace, in the kernel's own format.
    pub trace: Option<PathBuf>,
    /// Whether the kernel writes its trace while it runs.
    pub streams_trace: bool,
    /// Whether an HRT leaves a file after a crash. Other machines do as far as they can.
    pub keeps_crash_file: bool,
    /// Time limit for a script.
    pub limit: Duration,
    /// Further words for the kernel's command line.
    pub append: String,
    /// Further arguments for QEMU.
    pub arguments: Vec<String>,
}

impl Settings {
    /// Returns the default options for a scripted run with this time limit, in QEMU's emulator.
    pub fn for_commands(limit: Duration) -> Self {
        Self {
            kind: MachineKind::Pc,
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
            keeps_crash_file: true,
            limit,
            append: String::new(),
            arguments: Vec::new(),
        }
    }
}
