//! A Linux in QEMU: Debian's cloud kernel, and an initial file system with programs of ours.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::archive::Archive;
use crate::image::{cargo, root, run};
use crate::qemu::{self, Accelerator, Clock};

/// Debian's package that depends on the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What Linux and our static programs need.
pub const MEMORY: &str = "1G";

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the first process puts around the output of the commands; see `bench/linux`.
const BEGIN: &str = "linux: begin";
const END: &str = "linux: end ";
/// Fair to Linux: no mitigations, no random addresses, no self-tests; the clock source that costs nothing to read.
const COMMAND_LINE: &str = "console=ttyS0 quiet mitigations=off nokaslr norandmaps clocksource=tsc tsc=reliable \
                            cryptomgr.notests panic=-1";

/// The kernel: `given`, or one fetched by the name of its Debian package and kept.
pub fn kernel(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        ensure!(path.is_file(), "{} is no file; give a bzImage", path.display());
        return Ok(path.to_path_buf());
    }
    let kept = root().join("target/linux/vmlinuz");
    if !kept.is_file() {
        fetch(&kept)?;
    }
    Ok(kept)
}

/// Fetches the kernel, to be kept at a path.
fn fetch(kept: &Path) -> Result<()> {
    let advice = "where there is no apt-get, give a Linux kernel with --linux FILE";
    let fetch = root().join("target/linux/fetch");
    let _ = fs::remove_dir_all(&fetch);
    fs::create_dir_all(&fetch)?;
    eprintln!("aero: fetching Debian's {PACKAGE}");
    let described = output(Command::new("apt-cache").args(["depends", PACKAGE])).context(advice)?;
    let package = described
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image"))
        .with_context(|| format!("apt knows no kernel for {PACKAGE}; run `apt-get update`, or {advice}"))?;
    output(Command::new("apt-get").args(["-q", "download", package]).current_dir(&fetch)).context(advice)?;
    let find = |directory: &Path, begin: &str| -> Result<PathBuf> {
        let mut paths = fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let found = paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin)));
        found.with_context(|| format!("the package {package} has no {begin} file"))
    };
    let archive = find(&fetch, "linux-image")?;
    output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&fetch)).context(advice)?;
    fs::rename(find(&fetch.join("boot"), "vmlinuz")?, kept)?;
    fs::remove_dir_all(&fetch)?;
    Ok(())
}

/// Runs a command; its standard output.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be run"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Builds a crate's binary, linked statically; where it is.
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

/// A file system in memory: the first process and the commands it runs. Programs are still to be added.
fn file_system(commands: &[String]) -> Result<Archive> {
    let init = build(&root().join("bench/linux/Cargo.toml"), "init")?;
    let mut archive = Archive::default();
    archive.add_file(Path::new("/init"), &init)?;
    archive.add("/commands", commands.join("\n").as_bytes());
    Ok(archive)
}

/// A file system with programs at its root, and commands to run.
pub fn file_system_with(programs: &[PathBuf], commands: &[String]) -> Result<Archive> {
    let mut archive = file_system(commands)?;
    for path in programs {
        let name = path.file_name().context("a program has no name")?;
        archive.add_file(&Path::new("/").join(name), path)?;
    }
    Ok(archive)
}

/// A machine that runs Linux.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The kernel, a bzImage.
    pub kernel: &'a Path,
    /// CPUs.
    pub cpus: u32,
    /// What executes it.
    pub accelerator: Accelerator,
    /// How its time passes.
    pub clock: Clock,
    /// Further words for the kernel's command line; those like `NAME=value` that it does not know become environment variables.
    pub words: &'a str,
    /// How long it may take.
    pub limit: Duration,
}

impl Machine<'_> {
    /// Boots with a file system, and returns what the commands printed.
    ///
    /// # Errors
    /// A command that failed, a machine that ended early or took too long: with all it printed.
    pub fn execute(&self, file_system: Archive) -> Result<String> {
        let initrd = root().join(format!("target/linux/initrd-{}", std::process::id()));
        fs::write(&initrd, file_system.finish())?;
        let output = self.execute_file(&initrd);
        let _ = fs::remove_file(&initrd);
        output
    }

    fn execute_file(&self, initrd: &Path) -> Result<String> {
        // Where instructions are counted, Linux cannot start the other CPUs while it boots; the first process does.
        let one = if self.clock == Clock::Instructions { " maxcpus=1" } else { "" };
        let mut command = qemu::linux_command(self, initrd, &format!("{COMMAND_LINE}{one} {}", self.words));
        crate::running::die_with_parent(&mut command);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("QEMU cannot be started for Linux")?;
        let from = BufReader::new(child.stdout.take().context("QEMU has no output")?);
        let (send, lines) = mpsc::channel();
        thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let output = read(&lines, self.limit);
        let _ = child.kill();
        child.wait()?;
        output
    }
}

/// What the commands printed, of what a machine prints.
fn read(lines: &Receiver<String>, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let (mut all, mut wanted, mut failed) = (String::new(), None::<String>, None);
    let timed_out = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = line.trim_end();
                all.push_str(line);
                all.push('\n');
                if let Some(count) = line.strip_prefix(END) {
                    failed = count.parse::<u32>().ok();
                    break false;
                } else if let Some(wanted) = &mut wanted {
                    wanted.push_str(line);
                    wanted.push('\n');
                } else if line.ends_with(BEGIN) {
                    wanted = Some(String::new());
                }
            }
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    match (failed, wanted) {
        (Some(0), Some(wanted)) => Ok(wanted),
        (Some(failed), _) => bail!("{failed} commands failed on Linux:\n{all}"),
        _ if timed_out => bail!("Linux did not finish within {} s:\n{all}", limit.as_secs()),
        _ => bail!("Linux ended early:\n{all}"),
    }
}
