//! The kernel in Bochs, an emulator of Intel's CPUs with what QEMU's has not: x2APIC, the TSC deadline timer, AVX-512. All CPUs take turns
//! on one thread of the host and time is the number of instructions, so that each run is the same.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::boot::{Filter, Outcome};
use crate::image::{Image, root};
use crate::running::die_with_parent;
use crate::scratch::Directory;
use crate::{MissingTool, iso};

/// A CPU with all that the kernel makes use of.
const MODEL: &str = "corei7_skylake_x";
/// Instructions a second of the machine's time. Firmware waits for seconds of it, so that more would take longer.
const SPEED: u32 = 50_000_000;
/// How often the machine's output and end are looked for.
const INTERVAL: Duration = Duration::from_millis(20);
/// What its builds with a debugger, which ask for a command before they start, say in their help.
const DEBUGGER: &str = "-rc filename";

/// Boots the image with `cpus` CPUs, runs the commands at its prompt and writes their output as it comes.
///
/// # Errors
/// Bochs or `grub-mkrescue` that are missing or do not start.
pub fn run_script(image: &Image, cpus: u32, script: &str, limit: Duration, out: &mut dyn Write) -> Result<Outcome> {
    let line = format!("panic=exit run=\"{script}\"");
    let directory = Directory::new(root().join("target/bochs").join(std::process::id().to_string()))?;
    let mut machine = Running::start(image, cpus, &line, directory)?;
    let deadline = Instant::now() + limit;
    let mut filter = Filter::default();
    let mut console = Vec::new();
    let has_ended = loop {
        let has_ended = machine.child.try_wait()?.is_some();
        let bytes = machine.said()?;
        out.write_all(&filter.take(&bytes))?;
        out.flush()?;
        console.extend(bytes);
        if has_ended || Instant::now() > deadline {
            break has_ended;
        }
        thread::sleep(INTERVAL);
    };
    if let (Some(status), true) = (filter.status(), has_ended) {
        return Ok(Outcome::finished(status));
    }
    let reason = match has_ended {
        true => format!("Bochs ended before the kernel finished; the end of its own log:\n{}", machine.end_of_log()),
        false => format!("the kernel did not finish `{script}` in Bochs within {} s", limit.as_secs()),
    };
    let report = format!("{}\naero: {reason}; its console is above\n", String::from_utf8_lossy(&console));
    Ok(Outcome::failed(report, !has_ended, reason))
}

/// A machine and its files.
struct Running {
    child: Child,
    directory: Directory,
    serial: Option<File>,
}

impl Running {
    fn start(image: &Image, cpus: u32, command_line: &str, directory: Directory) -> Result<Self> {
        let missing = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => MissingTool("bochs").into(),
            _ => anyhow::Error::from(error).context("Bochs cannot be run"),
        };
        let help = Command::new("bochs").arg("--help").output().map_err(missing)?;
        let has_debugger =
            [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(DEBUGGER));
        let (path, iso) = (&directory.path, directory.path.join("iso"));
        fs::rename(iso::make(&image.boot, command_line)?, &iso)?;
        let configuration = path.join("configuration");
        fs::write(&configuration, configuration_text(cpus, &iso, path))?;
        let mut command = Command::new("bochs");
        // Its screen, in the terminal, is not looked at.
        command.arg("-q").arg("-f").arg(&configuration).env("TERM", "vt100");
        if has_debugger {
            let script = path.join("debugger");
            fs::write(&script, "continue\n")?;
            command.arg("-rc").arg(script);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        die_with_parent(&mut command);
        let child = command.spawn().map_err(missing)?;
        Ok(Self { child, directory, serial: None })
    }

    /// What the machine has sent on its serial line since last asked.
    fn said(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.serial.is_none() {
            // Made when the first byte is sent.
            self.serial = File::open(serial_path(&self.directory.path)).ok();
        }
        if let Some(serial) = &mut self.serial {
            serial.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(log_path(&self.directory.path)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("p[") || line.contains("e[")).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Running {
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

/// A PC like QEMU's. Switching it off is a "panic" to Bochs, which ends it.
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
