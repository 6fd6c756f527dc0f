//! QEMU's command-line arguments.

use std::fs::{self, OpenOptions};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use wire::command_line;

use crate::qmp;

/// Port of QEMU's isa-debug-exit device. For the kernel's exit status n, QEMU exits with 2n + 1.
const DEBUG_EXIT_PORT: &str = "0xf4";

/// Port of the isa-debugcon device to which the kernel writes its trace.
const TRACE_PORT: &str = "0xe9";

/// Port of the isa-debugcon device to which the kernel writes its state after a crash.
const CRASH_PORT: &str = "0xe8";

/// What executes guest instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// KVM if it is usable, else TCG
    Auto,
    /// QEMU's emulator
    Tcg,
    /// The CPU, through KVM
    Kvm,
}

/// How guest time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Guest time follows real time.
    Real,
    /// Each instruction takes a nanosecond, the same in every run (`-icount shift=0,sleep=off`).
    Instructions,
}

/// The medium that an image is loaded from.
#[derive(Clone, Copy, Debug)]
pub enum Medium<'a> {
    /// QEMU loads the kernel itself, by PVH.
    Kernel(&'a Path),
    /// GRUB loads the kernel from a CD, by Multiboot2. The command line is on the CD.
    Iso(&'a Path),
}

/// The configuration of a PC.
#[derive(Clone, Debug)]
pub struct Pc<'a> {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory size, in QEMU's syntax.
    pub memory: &'a str,
    /// The accelerator that executes guest instructions.
    pub accelerator: Accelerator,
    /// The source of guest time.
    pub clock: Clock,
    /// Whether the PC has a window with a screen and a keyboard.
    pub display: bool,
    /// The medium to boot from.
    pub medium: Medium<'a>,
    /// The kernel's command line, used only if QEMU loads the kernel.
    pub command_line: &'a str,
    /// QEMU's end of the monitor connection, a file descriptor that QEMU inherits.
    pub monitor: Option<RawFd>,
    /// The file for the kernel's state after a crash.
    pub crash: &'a Path,
    /// The file for the kernel's trace, in the kernel's own format.
    pub trace: Option<&'a Path>,
    /// Further arguments.
    pub extra: &'a [String],
}

/// Returns true if KVM exists, is accessible and is not itself emulated.
pub fn kvm_is_usable() -> bool {
    let accessible = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    accessible && flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Returns QEMU's major version.
///
/// # Errors
/// Fails if QEMU cannot be run or its output contains no version.
pub fn major_version() -> Result<u32> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().context("QEMU cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_once("version ").and_then(|(_, version)| version.split('.').next()?.parse().ok());
    version.with_context(|| format!("QEMU's version cannot be read from its output: {}", text.trim()))
}

/// Returns the words on the kernel's command line that announce the devices defined here.
pub fn kernel_words() -> String {
    format!("{} {}", command_line::DEBUG_EXIT.with(DEBUG_EXIT_PORT), command_line::CRASH_PORT.with(CRASH_PORT))
}

/// Returns arguments that give the machine a telemetry line at a socket.
pub fn telemetry_arguments(socket: &Path) -> [String; 4] {
    let path = socket.display().to_string().replace(',', ",,");
    [
        "-chardev".into(),
        format!("socket,id=telemetry,path={path},server=on,wait=off"),
        "-device".into(),
        // The third serial port, on an interrupt line that the first one does not use.
        "isa-serial,index=2,irq=5,chardev=telemetry".into(),
    ]
}

/// Returns arguments that give the machine a second serial line, for gdb, at a connection that QEMU
/// inherits.
pub fn gdb_arguments(end: RawFd) -> [String; 4] {
    ["-chardev".into(), format!("socket,id=gdb,fd={end}"), "-serial".into(), "chardev:gdb".into()]
}

/// Returns the words on the kernel's command line that make the kernel write its trace to the trace
/// port.
pub fn trace_words(streams: bool) -> String {
    let trace = command_line::TRACE.with(if streams { "stream" } else { "on" });
    format!("{trace} {}", command_line::TRACE_PORT.with(TRACE_PORT))
}

/// Returns the kernel's exit status for QEMU's, or `None` if QEMU's is not from the debug-exit
/// device.
pub fn kernel_status(code: i32) -> Option<u8> {
    (code % 2 == 1).then(|| u8::try_from(code / 2).ok()).flatten()
}

/// Returns the command with what every machine has, and with its accelerator.
fn base_command(kvm: bool, clock: Clock) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-machine", "q35"]);
    match (kvm, clock) {
        (true, _) => command.args(["-accel", "kvm", "-cpu", "host"]),
        (false, Clock::Real) => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        // With ERMS advertised, `rep` string instructions would count one instruction per byte.
        (false, Clock::Instructions) => {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max,-erms"])
        }
    };
    command.args(["-serial", "stdio"]);
    command
}

/// Returns the command for a PC without further devices, its serial line on standard output.
pub fn bare_command(accelerator: Accelerator, clock: Clock, cpus: u32, memory: &str) -> Command {
    let mut command = base_command(accelerator == Accelerator::Kvm, clock);
    command.args(["-smp", &cpus.to_string(), "-m", memory, "-no-reboot", "-monitor", "none", "-display", "none"]);
    command
}

/// Adds a monitor at a connection that QEMU inherits.
pub fn monitor(command: &mut Command, end: RawFd) -> &mut Command {
    command.args(["-chardev", &format!("socket,id=monitor,fd={end}")]);
    command.args(["-mon", "chardev=monitor,mode=readline"])
}

/// Adds a socket for QEMU's machine protocol.
fn machine_protocol(command: &mut Command, socket: &Path) {
    let path = socket.display().to_string().replace(',', ",,");
    command.args(["-qmp", &format!("unix:{path},server=on,wait=off")]);
}

/// Adds a port whose bytes go to a file.
fn debug_console(command: &mut Command, name: &str, port: &str, path: &Path) {
    // A single comma would end the value; a doubled one stands for itself.
    let path = path.display().to_string().replace(',', ",,");
    command.args(["-chardev", &format!("file,id={name},path={path}")]);
    command.args(["-device", &format!("isa-debugcon,iobase={port},chardev={name}")]);
}

impl Pc<'_> {
    /// Returns the command that runs the PC, its serial line on standard input and output.
    pub fn command(&self) -> Command {
        let kvm = match self.accelerator {
            Accelerator::Auto => self.clock == Clock::Real && kvm_is_usable(),
            accelerator => accelerator == Accelerator::Kvm,
        };
        let mut command = base_command(kvm, self.clock);
        command.args(["-smp", &self.cpus.to_string(), "-m", self.memory]);
        command.args(["-device", &format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT},iosize=4")]);
        match self.medium {
            Medium::Kernel(image) => command.arg("-kernel").arg(image).args(["-append", self.command_line]),
            Medium::Iso(iso) => command.arg("-cdrom").arg(iso).args(["-boot", "d"]),
        };
        match self.display {
            true => command.args(["-device", "VGA"]),
            false => command.args(["-display", "none"]),
        };
        match self.monitor {
            Some(end) => monitor(&mut command, end),
            None => command.args(["-monitor", "none"]),
        };
        debug_console(&mut command, "crash", CRASH_PORT, self.crash);
        if let Some(socket) = qmp::socket_beside(self.crash) {
            machine_protocol(&mut command, &socket);
        }
        if let Some(path) = self.trace {
            debug_console(&mut command, "trace", TRACE_PORT, path);
        }
        command.args(self.extra);
        command
    }
}
