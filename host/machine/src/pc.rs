//! Runs the kernel on a PC that QEMU emulates.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, ensure};
use build::{Image, iso};

use crate::gdb_line::GdbLine;
use crate::machine::{End, Machine};
use crate::process::{die_with_parent, exit_code, inherit, interrogate, pump, qemu_missing};
use crate::qemu::{self, Medium};
use crate::settings::Settings;
use crate::{files, memory, qmp};

/// Longest command line of the kernel, in bytes. The kernel keeps 4,096 bytes, but loaders pass on
/// only this many reliably.
const LINE_LIMIT: usize = 4000;

/// A PC in QEMU.
pub struct Pc {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    output: Receiver<Vec<u8>>,
    /// Our end of the connection to QEMU's monitor.
    monitor: UnixStream,
    /// The CD made for the machine, removed with it.
    iso: Option<PathBuf>,
    /// The file for the kernel's state after a crash, removed with the machine if it is empty.
    crash: PathBuf,
    is_crash_told: bool,
    /// The machine's telemetry socket, removed with it.
    telemetry: Option<PathBuf>,
    /// The trace file, until its loss has been reported. `None` if no loss is to be reported.
    trace: Option<PathBuf>,
    gdb: Option<GdbLine>,
}

impl Pc {
    /// Boots an image, with further words on the kernel's command line.
    pub fn start(image: &Image, settings: &Settings, words: &str) -> Result<Self> {
        let trace_words =
            settings.trace.as_ref().map_or_else(String::new, |_| qemu::trace_words(settings.streams_trace));
        let line = format!("{} {trace_words} {words}", qemu::kernel_words());
        ensure!(
            line.len() <= LINE_LIMIT,
            "the kernel's command line would have {} bytes, and loaders take {LINE_LIMIT}: shorten `--run` or `--append`",
            line.len()
        );
        memory::check(&image.boot, &settings.memory)?;
        let iso = if settings.from_cd { Some(iso::make(&image.boot, &line)?) } else { None };
        let mut extra = settings.arguments.clone();
        if settings.ends_at_reset {
            extra.push("-no-reboot".into());
        }
        let telemetry =
            settings.telemetry.clone().map(|given| given.map_or_else(files::telemetry_path, Ok)).transpose()?;
        if let Some(socket) = &telemetry {
            extra.extend(qemu::telemetry_arguments(socket));
        }
        let mut gdb = None;
        if let Some(given) = settings.debugger.clone() {
            let socket = given.map_or_else(files::gdb_path, Ok)?;
            let (ours, qemus) = UnixStream::pair().context("there is no connection for the line to gdb")?;
            // Inserted before the caller's arguments, so that this is the second serial line
            // whatever they add.
            extra.splice(0..0, qemu::gdb_arguments(qemus.as_raw_fd()));
            let line = GdbLine::listen(&socket, ours)?;
            gdb = Some((line, qemus));
        }
        let crash = files::crash_path()?;
        let (monitor, qemus_end) = UnixStream::pair().context("there is no connection for QEMU's monitor")?;
        let mut command = qemu::Pc {
            cpus: settings.cpus,
            memory: &settings.memory,
            accelerator: settings.accelerator,
            clock: settings.clock,
            display: settings.has_display,
            medium: iso.as_deref().map_or(Medium::Kernel(&image.boot), Medium::Iso),
            command_line: &line,
            monitor: Some(qemus_end.as_raw_fd()),
            crash: &crash,
            trace: settings.trace.as_deref(),
            extra: &extra,
        }
        .command();
        die_with_parent(&mut command);
        inherit(&mut command, qemus_end.as_raw_fd());
        if let Some((_, qemus)) = &gdb {
            inherit(&mut command, qemus.as_raw_fd());
        }
        // Its own process group keeps Ctrl-C at the terminal from killing QEMU.
        command.process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(qemu_missing)?;
        let input = child.stdin.take().map(|input| Box::new(input) as Box<dyn Write + Send>);
        let output = pump(child.stdout.take().context("QEMU has no output")?);
        Ok(Self {
            child,
            input,
            output,
            monitor,
            iso,
            crash,
            is_crash_told: false,
            telemetry,
            trace: settings.trace.clone().filter(|_| !settings.streams_trace),
            gdb: gdb.map(|(line, _)| line),
        })
    }
}

impl Machine for Pc {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        self.input.take()
    }

    fn interrogate(&mut self) -> Option<Vec<u8>> {
        let Self { monitor, output, crash, .. } = self;
        let size = || fs::metadata(&*crash).map_or(0, |file| file.len());
        let mut written = size();
        Some(interrogate(monitor, output, || size() > core::mem::replace(&mut written, size())))
    }

    fn end(&mut self) -> Result<End> {
        let code = exit_code(&mut self.child, &self.output)?;
        let refusal = || {
            format!(
                "QEMU did not start the machine and ended with status {}; what it said is above. It is about the machine's options: \
                 `--mem`, `--trace`, `--iso`, and what follows `--`",
                code.unwrap_or(-1)
            )
        };
        Ok(End {
            status: code.and_then(qemu::kernel_status),
            is_switched_off: code == Some(0),
            how: format!("QEMU ended with {code:?} before the kernel finished"),
            refusal: (!matches!(code, Some(0) | None)).then(refusal),
        })
    }

    fn crash_note(&mut self) -> Option<String> {
        let is_new = !self.is_crash_told && fs::metadata(&self.crash).is_ok_and(|file| file.len() > 0);
        self.is_crash_told |= is_new;
        is_new.then(|| format!("`./aero inspect {}` shows what was left", self.crash.display()))
    }

    fn loss_note(&mut self) -> Option<String> {
        let loses = |trace: &mut PathBuf| {
            let mut begin = [0; 64];
            let length = File::open(trace).and_then(|mut file| file.read(&mut begin)).unwrap_or(0);
            wire::trace::begins_with_loss(&begin[..length])
        };
        let lost = self.trace.take_if(loses);
        lost.map(|_| "the trace loses its oldest events from now on, which `--stream` avoids".into())
    }

    fn crash_file(&self) -> Option<&Path> {
        self.is_crash_told.then_some(&self.crash)
    }

    fn debugger_socket(&self) -> Option<&Path> {
        self.gdb.as_ref().map(|line| &*line.socket)
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(iso) = &self.iso {
            let _ = fs::remove_file(iso);
        }
        if let Some(socket) = &self.telemetry {
            let _ = fs::remove_file(socket);
        }
        if let Some(note) = self.crash_note() {
            eprintln!("aero: {note}");
        }
        if !self.is_crash_told {
            let _ = fs::remove_file(&self.crash);
        }
        if let Some(socket) = qmp::socket_beside(&self.crash) {
            let _ = fs::remove_file(socket);
        }
    }
}
