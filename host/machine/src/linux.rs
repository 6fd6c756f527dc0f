//! Runs Linux in QEMU: Debian's cloud kernel and an initial file system with our programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use build::archive::Archive;
use build::project::{MissingTool, cargo, root, run};
use build::scratch::Directory;

use crate::machine::{End, Machine};
use crate::packages::{self, Apt, Suite};
use crate::process::{die_with_parent, pump, qemu_missing};
use crate::qemu::{self, Accelerator, Clock};

/// Debian's package that depends on the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Memory that suffices for Linux and our static programs.
pub const MEMORY: &str = "1G";

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Markers that the first process prints around the commands' output; see `bench/linux`.
const BEGIN: &str = "linux: begin";
const END: &str = "linux: end ";
/// Options that favour Linux: no mitigations, no address randomization, no self-tests, and the
/// cheapest clock source.
const COMMAND_LINE: &str = "console=ttyS0 quiet mitigations=off nokaslr norandmaps clocksource=tsc tsc=reliable \
                            cryptomgr.notests panic=-1";

/// A Linux kernel with the modules that make it a host for virtual machines.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel, a bzImage.
    pub image: PathBuf,
    /// The modules' files, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
}

/// The modules of KVM for an AMD CPU, by their paths below a kernel's modules.
const MODULES: [&str; 3] =
    ["kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko", "kernel/arch/x86/kvm/kvm-amd.ko"];

/// Returns the kernel's path: `given`, or a kernel from Debian's package, which is fetched once and
/// kept.
pub fn kernel(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        ensure!(path.is_file(), "{} is no file; give a bzImage", path.display());
        return Ok(path.to_path_buf());
    }
    Ok(kernel_with_modules().context("give a Linux kernel with --linux FILE")?.image)
}

/// Returns a kernel with its modules from Debian's package, which is fetched once and kept.
///
/// # Errors
/// Fails if the package cannot be fetched.
pub fn kernel_with_modules() -> Result<Kernel> {
    let kept = root().join("target/linux/kernel");
    let kernel = |directory: &Path| -> Kernel {
        let modules = MODULES.map(|module| directory.join(Path::new(module).file_name().unwrap_or_default()));
        Kernel { image: directory.join("vmlinuz"), modules: modules.into() }
    };
    packages::keep(&kept, fetch).context(MissingTool("a Linux kernel"))?;
    Ok(kernel(&kept))
}

/// Fetches the kernel and its modules into a directory.
fn fetch(apt: &Apt, into: &Path) -> Result<()> {
    let package = apt.dependency(PACKAGE, "linux-image")?;
    let version = package.strip_prefix("linux-image-").context("the package is no kernel's")?;
    let unpacked = Directory::new(into.join("package"))?;
    apt.unpack(Suite::Release, &[&package], &unpacked.path)?;
    fs::rename(unpacked.path.join("boot").join(format!("vmlinuz-{version}")), into.join("vmlinuz"))
        .with_context(|| format!("{package} has no kernel"))?;
    for module in MODULES {
        let from = unpacked.path.join("lib/modules").join(version).join(module);
        fs::rename(&from, into.join(from.file_name().unwrap_or_default()))
            .with_context(|| format!("{package} has no {module}"))?;
    }
    Ok(())
}

/// Builds a crate's binary, linked statically, and returns its path.
pub fn build(manifest: &Path, binary: &str) -> Result<PathBuf> {
    let directory = root().join("target/linux");
    let path = directory.join(TARGET).join("release").join(binary);
    let mut command = cargo();
    command
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C target-cpu=x86-64 -C strip=symbols")
        .args(["build", "--release", "--target", TARGET, "--bin", binary, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&directory);
    run(command).with_context(|| format!("`{binary}` for Linux does not build"))?;
    Ok(path)
}

/// Returns an initial file system with the first process and the commands it runs, but no programs
/// yet.
fn file_system(commands: &[String]) -> Result<Archive> {
    let init = build(&root().join("bench/linux/Cargo.toml"), "init")?;
    let mut archive = Archive::default();
    archive.add_file(Path::new("/init"), &init)?;
    archive.add("/commands", commands.join("\n").as_bytes());
    Ok(archive)
}

/// Returns an initial file system with programs at its root and commands to run.
pub fn file_system_with(programs: &[PathBuf], commands: &[String]) -> Result<Archive> {
    let mut archive = file_system(commands)?;
    for path in programs {
        let name = path.file_name().context("a program has no name")?;
        archive.add_file(&Path::new("/").join(name), path)?;
    }
    Ok(archive)
}

/// The configuration of a Linux machine.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The kernel, a bzImage.
    pub kernel: &'a Path,
    /// Number of CPUs.
    pub cpus: u32,
    /// The accelerator that executes guest instructions.
    pub accelerator: Accelerator,
    /// The source of guest time.
    pub clock: Clock,
    /// Further words for the kernel's command line. Words of the form `NAME=value` that the kernel
    /// does not know become environment variables.
    pub words: &'a str,
    /// Time limit for the commands.
    pub limit: Duration,
}

impl Settings<'_> {
    /// Boots with a file system and returns the commands' output.
    ///
    /// # Errors
    /// Fails if a command fails, or if the machine ends early or exceeds the time limit. The error
    /// contains all output.
    pub fn execute(&self, file_system: Archive) -> Result<String> {
        let mut machine = Linux::start(self, file_system)?;
        let output = read(machine.output(), self.limit);
        machine.end()?;
        output
    }
}

/// A Linux machine in QEMU.
pub struct Linux {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Holds the initial file system, and is removed with the machine.
    _directory: Directory,
}

impl Linux {
    /// Boots with a file system.
    ///
    /// # Errors
    /// Fails if QEMU is missing or does not start, or if files cannot be created.
    pub fn start(settings: &Settings<'_>, file_system: Archive) -> Result<Self> {
        let directory = Directory::new(root().join(format!("target/linux/run-{}", std::process::id())))?;
        let initrd = directory.path.join("initrd");
        fs::write(&initrd, file_system.finish())?;
        // With counted instructions, Linux cannot start the other CPUs during boot; the first
        // process starts them later.
        let one = if settings.clock == Clock::Instructions { " maxcpus=1" } else { "" };
        let line = format!("{COMMAND_LINE}{one} {}", settings.words);
        let mut command = qemu::bare_command(settings.accelerator, settings.clock, settings.cpus, MEMORY);
        command.arg("-kernel").arg(settings.kernel).arg("-initrd").arg(&initrd).args(["-append", &line]);
        die_with_parent(&mut command);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(qemu_missing)?;
        let output = pump(child.stdout.take().context("QEMU has no output")?);
        Ok(Self { child, output, _directory: directory })
    }
}

impl Machine for Linux {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn end(&mut self) -> Result<End> {
        let _ = self.child.kill();
        let code = self.child.wait()?.code();
        let how = format!("QEMU ended with {code:?}");
        Ok(End { status: None, is_switched_off: code == Some(0), how, refusal: None })
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a machine's output and returns the part that the commands printed.
fn read(output: &Receiver<Vec<u8>>, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let (mut all, mut wanted, mut failed) = (String::new(), None::<String>, None);
    let mut bytes = Vec::new();
    let timed_out = 'machine: loop {
        match output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(more) => bytes.extend(more),
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            all.push_str(line);
            all.push('\n');
            if let Some(count) = line.strip_prefix(END) {
                failed = count.parse::<u32>().ok();
                break 'machine false;
            } else if let Some(wanted) = &mut wanted {
                wanted.push_str(line);
                wanted.push('\n');
            } else if line.ends_with(BEGIN) {
                wanted = Some(String::new());
            }
        }
    };
    match (failed, wanted) {
        (Some(0), Some(wanted)) => Ok(wanted),
        (Some(failed), _) => bail!("{failed} commands failed on Linux:\n{all}"),
        _ if timed_out => bail!("Linux did not finish within {} s:\n{all}", limit.as_secs()),
        _ => bail!("Linux ended early:\n{all}"),
    }
}
