//! A Linux to compare with, in the same QEMU: Debian's cloud kernel, and an initial file system with static programs of ours.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image::{cargo, root, run};
use crate::qemu::{self, Clock};

/// Debian's package that depends on the newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";
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
    let directory = root().join("target/linux/kernel");
    let kept = directory.join("vmlinuz");
    if kept.is_file() {
        return Ok(kept);
    }
    let advice = "where there is no apt-get, give a Linux kernel with --linux FILE";
    let fetch = directory.join("fetch");
    let _ = fs::remove_dir_all(&fetch);
    fs::create_dir_all(&fetch)?;
    eprintln!("aero: fetching Debian's {PACKAGE} to compare with");
    let described = output(Command::new("apt-cache").args(["depends", PACKAGE])).context(advice)?;
    let package = described
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image"))
        .with_context(|| format!("apt knows no kernel for {PACKAGE}; run `apt-get update`, or {advice}"))?;
    output(Command::new("apt-get").args(["-q", "download", package]).current_dir(&fetch)).context(advice)?;
    let files = |directory: &Path, begin: &str| -> Result<PathBuf> {
        let mut paths = fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let found = paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin)));
        found.with_context(|| format!("the package {package} has no {begin} file"))
    };
    let archive = files(&fetch, "linux-image")?;
    output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&fetch)).context(advice)?;
    fs::rename(files(&fetch.join("boot"), "vmlinuz")?, &kept)?;
    fs::remove_dir_all(&fetch)?;
    Ok(kept)
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
    let mut command = cargo();
    command
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C target-cpu=x86-64 -C strip=symbols")
        .args(["build", "--release", "--target", TARGET, "--bin", binary, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&directory);
    run(command).with_context(|| format!("`{binary}` for Linux does not build"))?;
    Ok(directory.join(TARGET).join("release").join(binary))
}

/// A file system in memory: the first process, programs at its root, and the commands to run.
pub fn file_system(programs: &[PathBuf], commands: &[String]) -> Result<Vec<u8>> {
    let init = build(&root().join("bench/linux/Cargo.toml"), "init")?;
    let mut archive = Archive::default();
    for path in std::iter::once(&init).chain(programs) {
        let name = path.file_name().context("a program has no name")?.to_string_lossy().into_owned();
        let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        archive.add(&name, 0o100_755, &bytes);
    }
    archive.add("commands", 0o100_644, commands.join("\n").as_bytes());
    Ok(archive.finish())
}

/// An archive as the kernel unpacks it (Linux, Documentation/driver-api/early-userspace/buffer-format.rst: "newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name_size = name.len() as u32 + 1;
        let size = u32::try_from(content.len()).expect("programs are smaller than 4 GiB");
        // Magic, inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let header = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        header.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// Boots a kernel with a file system, and returns what the commands printed.
pub fn execute(kernel: &Path, file_system: &[u8], cpus: u32, clock: Clock, limit: Duration) -> Result<String> {
    let initrd = root().join(format!("target/linux/initrd-{}", std::process::id()));
    fs::write(&initrd, file_system)?;
    let output = execute_file(kernel, &initrd, cpus, clock, limit);
    let _ = fs::remove_file(&initrd);
    output
}

fn execute_file(kernel: &Path, initrd: &Path, cpus: u32, clock: Clock, limit: Duration) -> Result<String> {
    // Where instructions are counted, Linux cannot start the other CPUs while it boots; the first process does.
    let line = if clock == Clock::Instructions { format!("{COMMAND_LINE} maxcpus=1") } else { COMMAND_LINE.into() };
    let mut command = qemu::linux_command(cpus, clock, kernel, initrd, &line);
    crate::boot::die_with_parent(&mut command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("QEMU cannot be started for Linux")?;
    let from = BufReader::new(child.stdout.take().context("QEMU has no output")?);
    let (send, lines) = mpsc::channel();
    thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
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
    let _ = child.kill();
    child.wait()?;
    match (failed, wanted) {
        (Some(0), Some(wanted)) => Ok(wanted),
        (Some(failed), _) => bail!("{failed} commands failed on Linux:\n{all}"),
        _ if timed_out => bail!("Linux did not finish within {} s:\n{all}", limit.as_secs()),
        _ => bail!("Linux ended early:\n{all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_is_as_the_format_says() {
        let mut archive = Archive::default();
        archive.add("a", 0o100_644, b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081a4"), "{text}");
        // The header has 110 bytes, the name two: padded to 112; the content five: padded to eight.
        assert_eq!(&bytes[110..120], b"a\0hello\0\0\0");
        assert_eq!(&text[120..126], "070701");
        assert!(bytes.len() % 4 == 0 && text.contains("TRAILER!!!"));
    }
}
