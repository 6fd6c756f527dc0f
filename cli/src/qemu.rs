//! QEMU's arguments.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

/// Port of QEMU's isa-debug-exit device: the kernel's exit status becomes QEMU's, doubled and one more.
const DEBUG_EXIT_PORT: &str = "0xf4";

/// Port of QEMU's isa-debugcon device: the kernel writes its trace there.
const TRACE_PORT: &str = "0xe9";

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

/// How instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time passes as it does.
    Real,
    /// A nanosecond per instruction, the same in every run (`-icount shift=0,sleep=off`).
    Instructions,
}

/// Where the image comes from.
#[derive(Clone, Copy, Debug)]
pub enum Medium<'a> {
    /// QEMU loads it, by PVH.
    Kernel(&'a Path),
    /// GRUB on a CD loads it, by Multiboot2. The command line is on the CD.
    Iso(&'a Path),
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// CPUs.
    pub cpus: u32,
    /// Memory, as QEMU takes it.
    pub memory: &'a str,
    /// What executes it.
    pub accelerator: Accelerator,
    /// How its time passes.
    pub clock: Clock,
    /// What it boots.
    pub medium: Medium<'a>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Where the kernel's trace goes, in its own format.
    pub trace: Option<&'a Path>,
    /// Further arguments.
    pub extra: &'a [String],
}

/// True if KVM is there, may be used, and is not itself emulated.
pub fn kvm_is_usable() -> bool {
    let accessible = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    accessible && flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Words the kernel's command line needs for the devices given here.
pub fn kernel_words() -> String {
    format!("debug-exit={DEBUG_EXIT_PORT}")
}

/// Words that make the kernel trace, and write the trace to the port given here.
pub fn trace_words() -> String {
    format!("trace=on trace-port={TRACE_PORT}")
}

/// The kernel's exit status from QEMU's.
pub fn kernel_status(code: i32) -> Option<u8> {
    (code % 2 == 1).then(|| u8::try_from(code / 2).ok()).flatten()
}

/// What every machine has, and what executes its instructions.
fn base_command(kvm: bool, clock: Clock) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"]);
    match (kvm, clock) {
        (true, _) => command.args(["-accel", "kvm", "-cpu", "host"]),
        (false, Clock::Real) => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        // With ERMS advertised, `rep` string instructions count one per byte.
        (false, Clock::Instructions) => {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max,-erms"])
        }
    };
    command.args(["-serial", "stdio", "-monitor", "none"]);
    command
}

/// The command that runs a Linux in the same machine, emulated, its serial line on standard output.
pub fn linux_command(cpus: u32, clock: Clock, kernel: &Path, initrd: &Path, command_line: &str) -> Command {
    let mut command = base_command(false, clock);
    command.args(["-smp", &cpus.to_string(), "-m", "1G", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", command_line]);
    command
}

impl Machine<'_> {
    /// The command that runs it, its serial line on standard input and output.
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
        if let Some(path) = self.trace {
            // A comma would end the value; doubled it stands for itself.
            let path = path.display().to_string().replace(',', ",,");
            command.args(["-chardev", &format!("file,id=trace,path={path}")]);
            command.args(["-device", &format!("isa-debugcon,iobase={TRACE_PORT},chardev=trace")]);
        }
        command.args(self.extra);
        command
    }
}
