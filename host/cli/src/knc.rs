//! `aero knc`: runs the kernel for Knights Corner on a card that QEMU plays.

use std::time::Duration;

use anyhow::Result;
use build::{Which, image};
use machine::{MachineKind, Settings};

use crate::boot::{self, Task};

/// Default time limit for commands.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// `aero knc`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Boot the kernel for Knights Corner on a card that QEMU plays, and attach this terminal to
    /// its console (Ctrl-A x ends it)
    Boot(Options),
}

/// Options of `aero knc boot`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of hardware threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Run commands at the kernel's prompt, print only their output, and end
    #[arg(long, value_name = "CMD; CMD")]
    run: Option<String>,
    /// Seconds after which the card is ended; for --run 60 unless given
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Words for the kernel's command line
    #[arg(long, value_name = "ARGS", default_value = "")]
    append: String,
    /// Further arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    qemu: Vec<String>,
}

/// Runs `aero knc`.
pub fn run(command: Command) -> Result<u8> {
    let Command::Boot(Options { threads, run, timeout, append, qemu }) = command;
    let image = image::build(Which::Knc)?;
    let limit = timeout.map(Duration::from_secs);
    let settings = Settings {
        kind: MachineKind::Card,
        cpus: threads,
        append,
        arguments: qemu,
        ..Settings::for_commands(limit.unwrap_or(DEFAULT_LIMIT))
    };
    boot::run_image(&image, &settings, &Task { script: run.as_deref(), limit, json: None })
}
