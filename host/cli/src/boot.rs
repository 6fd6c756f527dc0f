//! `aero boot`: runs the kernel in QEMU, interactively or with commands to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use build::{Image, Isa, Which, program};
use machine::script::{self, Ended, Outcome};
use machine::source_lines::SourceLines;
use machine::{Accelerator, Clock, End, MachineKind, Settings, status};
use serde::Serialize;
use wire::console::{CONTROL_C, PROMPT};

use crate::session::{Session, Stop};
use crate::terminal::RawTerminal;
use crate::trace_file;

/// Default time limit of `--run`.
const DEFAULT_RUN_LIMIT: Duration = Duration::from_secs(60);

/// Options of `aero boot`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Number of CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Memory, as QEMU takes it
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    pub mem: String,
    /// What executes guest instructions
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Accelerator,
    /// Boot from a CD with GRUB (BIOS, Multiboot2) instead of QEMU's own loader (PVH)
    #[arg(long)]
    pub iso: bool,
    /// Run commands at the kernel's prompt, print only their output, and end
    #[arg(long, value_name = "CMD; CMD", value_parser = parse_script)]
    pub run: Option<String>,
    /// Write how it ended as JSON: `ended` is finished, crashed, timed-out, ended or failed;
    /// `status` that of the commands
    #[arg(long, value_name = "FILE", requires = "run")]
    pub json: Option<PathBuf>,
    /// Seconds after which the machine is ended; for --run 60 unless given
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Open a window with a screen and a keyboard, with a session of its own
    #[arg(long)]
    pub display: bool,
    /// Let `aero top` watch, at a socket (target/telemetry/... if none is given)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1)]
    pub telemetry: Option<Option<PathBuf>>,
    /// Let a debugger attach, at a socket (target/gdb/... if none is given)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1)]
    pub gdb: Option<Option<PathBuf>>,
    /// Words for the kernel's command line (`help boot` at the prompt explains them)
    #[arg(long, value_name = "ARGS", default_value = "")]
    pub append: String,
    /// Put the program of a directory into the image, to be started by `run NAME`. May be given
    /// several times
    #[arg(long, value_name = "DIR")]
    pub hrt: Vec<PathBuf>,
    /// The instructions programs may use
    #[arg(long, value_enum, default_value = "x86-64")]
    pub isa: Isa,
    /// Trace from the start, and write a file for Perfetto when the machine ends by itself
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write the trace while the machine runs, so that it loses nothing as long as writing keeps up
    #[arg(long, requires = "trace")]
    pub stream: bool,
    /// Count instructions instead of time: a nanosecond each, the same in every run
    #[arg(long)]
    pub icount: bool,
    /// Further arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<String>,
}

/// Prepares the commands of `--run`. The kernel gets them in double quotes on its command line, so
/// double quotes inside them become single ones.
fn parse_script(text: &str) -> Result<String, String> {
    match text.contains('"') && text.contains('\'') {
        true => Err("commands may have single or double quotes, not both".into()),
        false => Ok(text.replace('"', "'")),
    }
}

impl Options {
    /// Returns the configuration of the machine that the options describe.
    pub fn settings(&self) -> Settings {
        Settings {
            kind: MachineKind::Pc,
            cpus: self.cpus,
            memory: self.mem.clone(),
            accelerator: self.accel,
            clock: if self.icount { Clock::Instructions } else { Clock::Real },
            from_cd: self.iso,
            ends_at_reset: self.run.is_some(),
            has_display: self.display,
            telemetry: self.telemetry.clone(),
            debugger: self.gdb.clone(),
            trace: self.trace.as_deref().map(trace_file::raw_path),
            streams_trace: self.stream,
            keeps_crash_file: true,
            limit: self.timeout.map_or(DEFAULT_RUN_LIMIT, Duration::from_secs),
            append: self.append.clone(),
            arguments: self.qemu.clone(),
        }
    }

    fn task(&self) -> Task<'_> {
        Task { script: self.run.as_deref(), limit: self.timeout.map(Duration::from_secs), json: self.json.as_deref() }
    }
}

/// The work to do with a machine.
pub struct Task<'a> {
    /// Commands to run. Without them, the machine is interactive.
    pub script: Option<&'a str>,
    /// Time limit for an interactive machine. A script has the machine's own limit.
    pub limit: Option<Duration>,
    /// Where to write how a script ended.
    pub json: Option<&'a Path>,
}

/// Runs `aero boot`.
pub fn run(options: &Options) -> Result<u8> {
    let (settings, task) = (options.settings(), options.task());
    let status = match program::build(Which::X64, &options.hrt, options.isa) {
        Ok(image) => run_image(&image, &settings, &task)?,
        Err(error) => summarise(task.json, Err(error))?.status,
    };
    finish_trace(options, status)
}

/// Boots an image, interactively or with commands to run.
pub fn run_image(image: &Image, settings: &Settings, task: &Task<'_>) -> Result<u8> {
    let Some(script) = task.script else { return interact(image, settings, task.limit) };
    let outcome = summarise(task.json, script::run(image, settings, script, &mut std::io::stdout()))?;
    if !outcome.report.is_empty() {
        eprint!("{}", outcome.report);
    }
    Ok(outcome.status)
}

/// Converts the trace to the requested file and returns the machine's status unchanged.
fn finish_trace(options: &Options, status: u8) -> Result<u8> {
    if let Some(path) = &options.trace {
        trace_file::convert(path, options.stream)?;
    }
    Ok(status)
}

/// The contents of the `--json` file.
#[derive(Serialize)]
struct Summary<'a> {
    ended: Ended,
    /// The commands' exit status, which is a program's if that was the worst.
    status: Option<u8>,
    reason: Option<String>,
    crash_file: Option<&'a Path>,
}

/// Writes how a script ended to the `--json` file, if there is one, and returns the result
/// unchanged.
fn summarise(json: Option<&Path>, result: Result<Outcome>) -> Result<Outcome> {
    let Some(path) = json else { return result };
    let summary = match &result {
        Ok(Outcome { failure: Some(failure), .. }) => Summary {
            ended: failure.ended,
            status: None,
            reason: Some(failure.reason.clone()),
            crash_file: failure.crash_file.as_deref(),
        },
        Ok(outcome) => Summary { ended: Ended::Finished, status: Some(outcome.status), reason: None, crash_file: None },
        Err(error) => {
            Summary { ended: Ended::Failed, status: None, reason: Some(format!("{error:#}")), crash_file: None }
        }
    };
    let text = serde_json::to_string(&summary)? + "\n";
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    result
}

/// Boots an image with a terminal or a pipe at the prompt.
fn interact(image: &Image, settings: &Settings, limit: Option<Duration>) -> Result<u8> {
    let mut machine = machine::start(image, settings, &settings.append)?;
    let terminal = RawTerminal::enter();
    if terminal.is_interactive() {
        eprint!("aero: booting; Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends Ctrl-A\r\n");
    }
    if let Some(socket) = machine.debugger_socket() {
        let (debug, socket) = (image.debug.display(), socket.display());
        eprint!("aero: `gdb {debug} -ex 'target remote {socket}'` attaches to it\r\n");
    }
    let mut lines = SourceLines::new(image);
    let mut with_lines = |bytes: &[u8]| lines.add(bytes);
    let session = Session {
        is_interactive: terminal.is_interactive(),
        ready: PROMPT,
        // Ctrl-C discards what stands on the line. Once the pipe is closed, only this `poweroff`
        // can end the machine in order.
        at_end_of_input: [&[CONTROL_C], &b"poweroff\r"[..]].concat(),
        limit,
        show: &mut with_lines,
    };
    let (stop, is_silent) = session.attend(&mut *machine)?;
    let end = machine.end()?;
    drop(terminal);
    match stop {
        Stop::Quit => Ok(status::DONE),
        Stop::TimedOut => bail!("the machine did not end in time and was stopped; --timeout S gives it more"),
        Stop::Ended => match end {
            End { refusal: Some(refusal), .. } if is_silent => bail!("{refusal}"),
            End { status: Some(status), .. } => Ok(status),
            End { is_switched_off: true, .. } => Ok(status::DONE),
            End { how, .. } => bail!("{how}"),
        },
    }
}
