//! Runs the kernel in Bochs, an emulator of Intel CPUs with features that QEMU's emulator lacks:
//! x2APIC, the TSC deadline timer, AVX-512. All CPUs take turns on one host thread and time is the
//! number of executed instructions, so every run is the same.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use build::project::{MissingTool, root};
use build::scratch::Directory;
use build::{Image, iso};

use crate::machine::{End, Machine};
use crate::process::{die_with_parent, end_of};

/// A CPU model with every feature that the kernel uses.
const MODEL: &str = "corei7_skylake_x";
/// Instructions per second of machine time. The firmware waits for seconds of machine time, so a
/// higher value would make booting slower.
const SPEED: u32 = 50_000_000;
/// Interval at which the machine's output and end are polled.
const INTERVAL: Duration = Duration::from_millis(20);
/// Text in the help output of Bochs builds with a debugger. Such builds ask for a command before
/// they start.
const DEBUGGER: &str = "-rc filename";

/// A PC in Bochs, with its temporary files.
pub struct Bochs {
    child: Child,
    output: Receiver<Vec<u8>>,
    directory: Directory,
}

impl Bochs {
    /// Boots an image from a CD, with the given words on the kernel's command line.
    pub fn start(image: &Image, cpus: u32, words: &str) -> Result<Self> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let missing = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => MissingTool("bochs").into(),
            _ => anyhow::Error::from(error).context("Bochs cannot be run"),
        };
        let help = Command::new("bochs").arg("--help").output().map_err(missing)?;
        let has_debugger =
            [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(DEBUGGER));
        let name = format!("{}-{}", process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let directory = Directory::new(root().join("target/bochs").join(name))?;
        let (path, iso) = (&directory.path, directory.path.join("iso"));
        fs::rename(iso::make(&image.boot, words)?, &iso)?;
        let configuration = path.join("configuration");
        fs::write(&configuration, configuration_text(cpus, &iso, path))?;
        let mut command = Command::new("bochs");
        // Bochs draws the machine's screen in its terminal; nothing reads it.
        command.arg("-q").arg("-f").arg(&configuration).env("TERM", "vt100");
        if has_debugger {
            let script = path.join("debugger");
            fs::write(&script, "continue\n")?;
            command.arg("-rc").arg(script);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(missing)?;
        let output = receive(child.stdout.take().context("Bochs has no output")?, serial_path(path));
        Ok(Self { child, output, directory })
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(log_path(&self.directory.path)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("p[") || line.contains("e[")).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Forwards the machine's serial output, which Bochs writes to a file, until Bochs ends.
fn receive(stdout: ChildStdout, serial: PathBuf) -> Receiver<Vec<u8>> {
    let has_ended = end_of(stdout);
    let (send, output) = mpsc::channel();
    thread::spawn(move || {
        let mut file = None;
        loop {
            // Sampled before the file is read, so that output written just before the end is not
            // lost.
            let has_ended = has_ended.load(Ordering::Relaxed);
            if file.is_none() {
                // Bochs creates the file when the machine sends its first byte.
                file = File::open(&serial).ok();
            }
            let mut bytes = Vec::new();
            if let Some(file) = &mut file {
                let _ = file.read_to_end(&mut bytes);
            }
            let is_quiet = bytes.is_empty();
            if (!is_quiet && send.send(bytes).is_err()) || (is_quiet && has_ended) {
                return;
            }
            if is_quiet {
                thread::sleep(INTERVAL);
            }
        }
    });
    output
}

impl Machine for Bochs {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn end(&mut self) -> Result<End> {
        let _ = self.child.kill();
        self.child.wait()?;
        let how = format!("Bochs ended before the kernel finished; the end of its own log:\n{}", self.end_of_log());
        Ok(End { status: None, is_switched_off: false, how, refusal: None })
    }
}

impl Drop for Bochs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serial_path(directory: &Path) -> PathBuf {
    directory.join("serial")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// Returns the configuration of a PC like QEMU's. Bochs treats a machine that switches itself off
/// as a panic, so `panic: action=fatal` makes that end Bochs.
fn configuration_text(cpus: u32, iso: &Path, directory: &Path) -> String {
    let (iso, serial, log) = (iso.display(), serial_path(directory), log_path(directory));
    format!(
        "cpu: model={MODEL}, count={cpus}, ips={SPEED}, reset_on_triple_fault=0\n\
         memory: guest=512, host=512\n\
         romimage: file=$BXSHARE/BIOS-bochs-latest\n\
         vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest\n\
         display_library: term\n\
         boot: cdrom\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path=\"{iso}\", status=inserted\n\
         com1: enabled=1, mode=file, dev=\"{}\"\n\
         clock: sync=none, time0=1\n\
         log: \"{}\"\n\
         panic: action=fatal\n",
        serial.display(),
        log.display()
    )
}
