//! A Debian Linux with a KVM that can be relied on: the regular operating system (ROS) beside which
//! a hybrid runtime runs where this host has no usable KVM.
//!
//! QEMU emulates an AMD CPU with SVM, in which the Linux's own KVM runs virtual machines. Before
//! version 10, QEMU's emulator loses interrupts there and forgets the shadow of STI, so an older
//! one is never used: its place takes a newer one from Debian's backports.
//!
//! That one (10.0.2) has a fault too, with several CPUs only: after some ten million exits of a
//! virtual machine whose CPUs change places, it walks the machine's page tables in the Linux's own
//! memory, as if they were not nested, and sets accessed bits there. A page of that memory which
//! nothing else used, full of present entries, had them set after a crash, at the entries of the
//! program and of the kernel.

use std::fs;
use std::io::Write;
use std::path::{self, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use build::archive::Archive;
use build::project::{MissingTool, root};
use build::scratch::Directory;

use crate::linux::{self, Kernel};
use crate::machine::{End, Machine};
use crate::packages::{self, Suite};
use crate::process::{die_with_parent, exit_code, pump, qemu_missing};
use crate::qemu;
use crate::script::Filter;

/// The first version of QEMU whose emulated SVM a KVM can be trusted with.
const QEMU_VERSION: u32 = 10;
/// Packages of Debian's backports that make up such a QEMU; its libraries are those of the release.
const QEMU_PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Only a failure of the Linux itself may appear between the lines of a command.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off tsc=reliable nokaslr audit=0";
/// Where files of the host are put; commands run here.
const HOME: &str = "/root";

/// How a Linux runs in the emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speed {
    /// As fast as the emulator can.
    #[default]
    Fast,
    /// By its instructions, which its time counter counts: figures repeat.
    Counted,
}

/// The configuration of a Linux to run beside.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory size, in QEMU's syntax.
    pub memory: &'a str,
    /// How it runs.
    pub speed: Speed,
    /// Files of the host to put into the Linux, by their names, as executables. Programs have the
    /// libraries they need with them.
    pub files: &'a [PathBuf],
    /// Files and directories of the host that are put into the Linux at other places.
    pub trees: &'a [Tree],
}

/// A file or directory of the host, and its place in the Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it is on the host. A program that keeps its path has the libraries it needs with it.
    pub host: PathBuf,
    /// Its absolute path in the Linux.
    pub place: PathBuf,
}

impl Tree {
    /// One that keeps its absolute path.
    ///
    /// # Errors
    /// Fails if this process has no directory.
    pub fn at_own_path(host: &Path) -> Result<Self> {
        let host = path::absolute(host)?;
        Ok(Self { place: host.clone(), host })
    }

    /// A package of Debian with all that it depends on.
    ///
    /// # Errors
    /// Fails if it cannot be fetched.
    pub fn of_package(name: &str) -> Result<Self> {
        Ok(Self { host: packages::with_dependencies(name)?, place: "/".into() })
    }

    /// Reads `PATH` or `PATH:PLACE`, as options have it.
    ///
    /// # Errors
    /// Fails if the place is no absolute path.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((host, place)) = text.split_once(':') else { return Self::at_own_path(Path::new(text)) };
        ensure!(place.starts_with('/'), "`{place}` is no absolute path in the Linux");
        Ok(Self { host: path::absolute(host)?, place: place.into() })
    }
}

/// What the Linux is booted for.
#[derive(Clone, Copy, Debug)]
pub enum Task<'a> {
    /// A shell at the console, whose terminal has so many rows and columns.
    Shell {
        /// Rows and columns, if they are known.
        size: Option<(u16, u16)>,
    },
    /// A command line at the console, as with a shell.
    Terminal {
        /// The command line.
        line: &'a str,
        /// Rows and columns, if they are known.
        size: Option<(u16, u16)>,
    },
    /// As [`Task::Terminal`], with marks around: [`BEGINS`], and behind it [`ENDS`] and the exit
    /// status in digits, in a line.
    Marked {
        /// The command line.
        line: &'a str,
        /// Rows and columns, if they are known.
        size: Option<(u16, u16)>,
    },
    /// A command line, without input.
    Command(&'a str),
}

/// What comes before the output of a marked command.
pub const BEGINS: &str = "\u{2}\u{2}";
/// What comes behind the output of a marked command.
pub const ENDS: &str = "\u{3}\u{3}";

/// A QEMU.
#[derive(Clone, Debug)]
struct Emulator {
    program: PathBuf,
    /// Where its firmware is.
    data: Vec<PathBuf>,
}

/// Returns a QEMU whose emulated SVM is right: the system's, or one from Debian's backports, which
/// is fetched once and kept.
fn emulator() -> Result<Emulator> {
    if qemu::major_version().is_ok_and(|version| version >= QEMU_VERSION) {
        return Ok(Emulator { program: "qemu-system-x86_64".into(), data: Vec::new() });
    }
    let kept = root().join("target/ros/qemu");
    packages::keep(&kept, |apt, into| apt.unpack(Suite::Backports, &QEMU_PACKAGES, into))
        .context(MissingTool("QEMU 10 or later, whose emulated virtual machines are right,"))?;
    Ok(Emulator {
        program: kept.join("usr/bin/qemu-system-x86_64"),
        data: ["usr/share/seabios", "usr/share/qemu"].map(|part| kept.join(part)).into(),
    })
}

/// Returns a static busybox, which is fetched once and kept.
fn busybox() -> Result<PathBuf> {
    let kept = root().join("target/ros/busybox");
    packages::keep(&kept, |apt, into| apt.unpack(Suite::Release, &[BUSYBOX_PACKAGE], into))
        .context(MissingTool("a static busybox"))?;
    Ok(kept.join("bin/busybox"))
}

/// Returns the script of the first process.
fn first_process(kernel: &Kernel, task: Task<'_>) -> String {
    let modules: String = kernel.modules.iter().map(|module| format!("insmod {}\n", module_place(module))).collect();
    let task = match task {
        Task::Shell { size } => format!("{}setsid cttyhack sh\n", set_size(size)),
        Task::Terminal { size, .. } => format!("{}setsid cttyhack sh /command\n", set_size(size)),
        Task::Marked { size, .. } => {
            let size = set_size(size);
            format!("{size}printf '\\002\\002'\nsetsid cttyhack sh /command\nprintf '\\003\\003%d\\n' $?\n")
        }
        // The framing that a kernel's `run=` uses, in octal.
        Task::Command(_) => "printf '\\002'\nsh /command </dev/null 2>&1\nprintf '\\003%d\\n' $?\n".into(),
    };
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc /sys /dev /tmp {HOME}\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mkdir -p /dev/pts /dev/shm\n\
         ln -s /proc/self/fd /dev/fd\n\
         ln -s fd/0 /dev/stdin\n\
         ln -s fd/1 /dev/stdout\n\
         ln -s fd/2 /dev/stderr\n\
         mount -t devpts devpts /dev/pts\n\
         mount -t tmpfs tmpfs /dev/shm\n\
         chmod 1777 /tmp\n\
         {modules}\
         ip link set lo up\n\
         mkdir -p /etc\n\
         [ -e /etc/hosts ] || echo 127.0.0.1 localhost ros >/etc/hosts\n\
         [ -e /etc/passwd ] || echo root:x:0:0:root:{HOME}:/bin/sh >/etc/passwd\n\
         [ -e /etc/group ] || echo root:x:0: >/etc/group\n\
         hostname ros\n\
         export HOME={HOME} PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:{HOME} TERM=linux\n\
         cd {HOME}\n\
         {task}\
         poweroff -f\n"
    )
}

fn set_size(size: Option<(u16, u16)>) -> String {
    size.map_or_else(String::new, |(rows, columns)| format!("stty rows {rows} cols {columns}\n"))
}

/// Returns the libraries of a program, by the absolute paths at which it looks for them; none for
/// another file.
///
/// # Errors
/// Fails if `ldd` cannot be run.
pub fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let is_program = fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
    if !is_program {
        return Ok(Vec::new());
    }
    // A static program's answer names none.
    let output = Command::new("ldd").arg(file).output().context("ldd cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "NAME => PATH (ADDRESS)", or "PATH (ADDRESS)" for the loader.
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// The place of a module in the Linux.
fn module_place(module: &Path) -> String {
    format!("/modules/{}", module.file_name().unwrap_or_default().display())
}

/// A Linux with a KVM, in QEMU.
pub struct Ros {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Holds the initial file system, and is removed with the machine.
    _directory: Directory,
}

impl Ros {
    /// Boots for a task.
    ///
    /// # Errors
    /// Fails if a QEMU, a Linux or a busybox is missing and cannot be fetched, or if files cannot
    /// be read or created.
    pub fn start(settings: &Settings<'_>, task: Task<'_>) -> Result<Self> {
        let (emulator, kernel, busybox) = (emulator()?, linux::kernel_with_modules()?, busybox()?);
        let mut archive = Archive::default();
        archive.add_file(Path::new("/bin/busybox"), &busybox)?;
        for module in &kernel.modules {
            archive.add_file(Path::new(&module_place(module)), module)?;
        }
        for file in settings.files {
            let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
            archive.add_file(&Path::new(HOME).join(name), file)?;
            for library in libraries(file)? {
                archive.add_file(&library, &library)?;
            }
        }
        for tree in settings.trees {
            archive.add_tree(&tree.place, &tree.host)?;
            let needed = if tree.place == tree.host { libraries(&tree.host)? } else { Vec::new() };
            for library in needed {
                archive.add_file(&library, &library)?;
            }
        }
        archive.add("/init", first_process(&kernel, task).as_bytes());
        if let Task::Command(line) | Task::Terminal { line, .. } | Task::Marked { line, .. } = task {
            archive.add("/command", format!("{line}\n").as_bytes());
        }
        let directory = Directory::new(root().join(format!("target/ros/run-{}", std::process::id())))?;
        let initrd = directory.path.join("initrd");
        fs::write(&initrd, archive.finish()).with_context(|| format!("{} cannot be written", initrd.display()))?;
        let mut command = Command::new(&emulator.program);
        for data in &emulator.data {
            command.arg("-L").arg(data);
        }
        command.args(["-nodefaults", "-no-user-config", "-machine", "q35"]);
        // A process of the Linux would have MPX, which its KVM does not give a virtual machine: a
        // program that goes from the one to the other would have the wrong size of vector state.
        match settings.speed {
            // With one thread for all CPUs, this emulator delivers an interrupt twice now and then.
            Speed::Fast => command.args(["-cpu", "max,-mpx", "-accel", "tcg,thread=multi"]),
            // An instruction that clears or copies memory counts once for each round: by words,
            // these are the fewest, as in the kernel's own benchmarks.
            Speed::Counted => command.args([
                "-cpu",
                "max,-mpx,-erms,-fsrm",
                "-accel",
                "tcg",
                "-icount",
                "shift=0,sleep=off",
                "-seed",
                "7",
            ]),
        };
        command.args(["-smp", &settings.cpus.to_string(), "-m", settings.memory]);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd).args(["-append", COMMAND_LINE]);
        die_with_parent(&mut command);
        let input = if matches!(task, Task::Command(_)) { Stdio::null() } else { Stdio::piped() };
        let mut child = command.stdin(input).stdout(Stdio::piped()).spawn().map_err(qemu_missing)?;
        let output = pump(child.stdout.take().context("QEMU has no output")?);
        Ok(Self { child, output, _directory: directory })
    }

    /// Boots, runs a command, writes its output as it comes, and returns its exit status.
    ///
    /// # Errors
    /// Fails as [`Ros::start`] does, if the command does not finish within the limit, or if the
    /// Linux ends before it. The error has what the Linux itself said.
    pub fn execute(settings: &Settings<'_>, command: &str, limit: Duration, out: &mut dyn Write) -> Result<u8> {
        let mut ros = Self::start(settings, Task::Command(command))?;
        let deadline = Instant::now() + limit;
        let mut filter = Filter::default();
        let timed_out = loop {
            match ros.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    out.write_all(&filter.take(&bytes))?;
                    out.flush()?;
                }
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
            if filter.has_ended() {
                break false;
            }
        };
        let end = ros.end()?;
        match filter.status() {
            Some(status) if filter.has_ended() => Ok(status),
            _ if timed_out => bail!(
                "`{command}` did not finish within {} s; --timeout S gives it more\n{}",
                limit.as_secs(),
                filter.other().trim()
            ),
            _ => bail!(
                "the Linux ended before `{command}` did, {}; with more memory (--mem) it may not\n{}",
                end.how,
                filter.other().trim()
            ),
        }
    }
}

impl Machine for Ros {
    fn output(&mut self) -> &mut Receiver<Vec<u8>> {
        &mut self.output
    }

    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        self.child.stdin.take().map(|input| Box::new(input) as _)
    }

    fn end(&mut self) -> Result<End> {
        let code = exit_code(&mut self.child, &self.output)?;
        let how = format!("QEMU ended with {code:?}");
        Ok(End { status: None, is_switched_off: code == Some(0), how, refusal: None })
    }
}

impl Drop for Ros {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_before_the_task_begins() {
        let kernel = Kernel { image: "vmlinuz".into(), modules: vec!["/x/kvm.ko".into(), "/x/kvm-amd.ko".into()] };
        let script = first_process(&kernel, Task::Command("true"));
        let places = ["insmod /modules/kvm.ko", "insmod /modules/kvm-amd.ko", "sh /command", "poweroff"];
        let at: Vec<Option<usize>> = places.iter().map(|place| script.find(place)).collect();
        assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{script}");
        assert!(first_process(&kernel, Task::Shell { size: Some((24, 80)) }).contains("stty rows 24 cols 80"));
    }
}
