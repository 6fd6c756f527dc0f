//! A machine that runs: QEMU as a process, a PC or a card, and what goes to it and comes from it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::MissingTool;
use crate::boot::Options;
use crate::card::Card;
use crate::gdb_line::GdbLine;
use crate::image::{Image, root};
use crate::iso;
use crate::memory;
use crate::qemu::{self, Clock, Machine, Medium};
use crate::qmp;
use crate::top;
use crate::trace_file;

/// How often a card's console is looked at.
const RING_INTERVAL: Duration = Duration::from_millis(1);
/// Longest command line of the kernel, in bytes: what loaders pass on whole, of the 4,096 that the kernel keeps.
const LINE_LIMIT: usize = 4000;
/// How long QEMU may take to end after it closed its output.
const EXIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a kernel that did not finish may take to report where it is, and how often it is asked.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
const INTERROGATIONS: u32 = 3;
/// How long one that reports may take to write what is left.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// A running QEMU.
pub struct Running {
    child: Child,
    /// What is typed at it.
    pub input: Option<Box<dyn Write + Send>>,
    /// What comes on the console.
    pub output: Receiver<Vec<u8>>,
    /// QEMU's monitor.
    monitor: UnixStream,
    /// The card that QEMU plays, if it does. It does not end by itself.
    pub card: Option<Card>,
    /// The CD made for it, removed with it.
    iso: Option<PathBuf>,
    /// Where the kernel leaves what is left after a crash. Removed with the machine if it is empty.
    crash: PathBuf,
    is_crash_told: bool,
    /// The socket of its telemetry, removed with it.
    telemetry: Option<PathBuf>,
    /// Where its trace goes, as long as nothing is to be told of that.
    trace: Option<PathBuf>,
    /// Its line to gdb.
    pub gdb: Option<GdbLine>,
}

impl Running {
    /// Boots, with further words for the kernel's command line.
    pub fn start(image: &Image, options: &Options, words: &str) -> Result<Self> {
        let trace_words = options.trace.as_ref().map_or_else(String::new, |_| qemu::trace_words(options.stream));
        let line = format!("{} {trace_words} {words}", qemu::kernel_words());
        ensure!(
            line.len() <= LINE_LIMIT,
            "the kernel's command line would have {} bytes, and loaders take {LINE_LIMIT}: shorten `--run` or `--append`",
            line.len()
        );
        memory::check(&image.boot, &options.mem)?;
        let trace = options.trace.as_deref().map(trace_file::raw_path);
        let iso = if options.iso { Some(iso::make(&image.boot, &line)?) } else { None };
        let mut extra = options.qemu.clone();
        if options.run.is_some() {
            extra.push("-no-reboot".into());
        }
        let telemetry = options.telemetry.clone().map(|given| given.map_or_else(telemetry_path, Ok)).transpose()?;
        if let Some(socket) = &telemetry {
            extra.extend(qemu::telemetry_arguments(socket));
        }
        let mut gdb = None;
        if let Some(given) = options.gdb.clone() {
            let socket = given.map_or_else(gdb_path, Ok)?;
            let (ours, qemus) = UnixStream::pair().context("there is no connection for the line to gdb")?;
            // Before what the caller adds: it is the second line, whatever else there is.
            extra.splice(0..0, qemu::gdb_arguments(qemus.as_raw_fd()));
            let line = GdbLine::listen(&socket, ours)?;
            gdb = Some((line, qemus));
        }
        let crash = crash_path()?;
        let (monitor, qemus_end) = UnixStream::pair().context("there is no connection for QEMU's monitor")?;
        let machine = Machine {
            cpus: options.cpus,
            memory: &options.mem,
            accelerator: options.accel,
            clock: if options.icount { Clock::Instructions } else { Clock::Real },
            display: options.display,
            medium: iso.as_deref().map_or(Medium::Kernel(&image.boot), Medium::Iso),
            command_line: &line,
            monitor: Some(qemus_end.as_raw_fd()),
            crash: &crash,
            trace: trace.as_deref(),
            extra: &extra,
        };
        let mut command = machine.command();
        die_with_parent(&mut command);
        inherit(&mut command, qemus_end.as_raw_fd());
        if let Some((_, qemus)) = &gdb {
            inherit(&mut command, qemus.as_raw_fd());
        }
        // Ctrl-C at the terminal is not meant for the machine as a process.
        command.process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(qemu_missing)?;
        let input = child.stdin.take().map(|input| Box::new(input) as Box<dyn Write + Send>);
        let mut from = child.stdout.take().context("QEMU has no output")?;
        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            output,
            monitor,
            card: None,
            iso,
            crash,
            is_crash_told: false,
            telemetry,
            trace: trace.filter(|_| !options.stream),
            gdb: gdb.map(|(line, _)| line),
        })
    }

    /// Boots what the options ask for.
    pub fn start_either(image: &Image, options: &Options, words: &str) -> Result<Self> {
        if options.card { Self::start_card(image, options, words) } else { Self::start(image, options, words) }
    }

    /// Boots a Knights Corner card.
    fn start_card(image: &Image, options: &Options, words: &str) -> Result<Self> {
        let card = Card::new(&image.boot, options.cpus, words)?;
        let (monitor, qemus_end) = UnixStream::pair().context("there is no connection for QEMU's monitor")?;
        let mut command = card.command(options.cpus);
        qemu::monitor(&mut command, qemus_end.as_raw_fd());
        command.args(&options.qemu);
        die_with_parent(&mut command);
        inherit(&mut command, qemus_end.as_raw_fd());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(qemu_missing)?;
        let mut from = child.stdout.take().context("QEMU has no output")?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = has_ended.clone();
        thread::spawn(move || {
            // It says nothing there, but closes it at its end.
            let _ = std::io::copy(&mut from, &mut std::io::sink());
            ends.store(true, Ordering::Relaxed);
        });
        let rings = card.rings()?;
        let (send, output) = mpsc::channel();
        let (post_code, mut was_up) = (card.post_code()?, false);
        thread::spawn(move || {
            loop {
                let is_up = rings.is_up().unwrap_or(false);
                let bytes = rings.receive().unwrap_or_default();
                let is_quiet = bytes.is_empty();
                let has_ended = has_ended.load(Ordering::Relaxed) || post_code.error().is_some() || (was_up && !is_up);
                if (!is_quiet && send.send(bytes).is_err()) || (is_quiet && has_ended) {
                    return;
                }
                was_up |= is_up || !is_quiet;
                if is_quiet {
                    thread::sleep(RING_INTERVAL);
                }
            }
        });
        let input: Box<dyn Write + Send> = Box::new(card.rings()?);
        let crash = crash_path()?;
        Ok(Self {
            child,
            input: Some(input),
            output,
            monitor,
            card: Some(card),
            iso: None,
            crash,
            is_crash_told: false,
            telemetry: None,
            trace: None,
            gdb: None,
        })
    }

    /// Where the crash file is, once the kernel has begun to write it; told once.
    pub fn crash_note(&mut self) -> Option<String> {
        let is_new = !self.is_crash_told && fs::metadata(&self.crash).is_ok_and(|file| file.len() > 0);
        self.is_crash_told |= is_new;
        is_new.then(|| format!("`./aero inspect {}` shows what was left", self.crash.display()))
    }

    /// The crash file, if there is one and its name was told.
    pub fn crash_file(&self) -> Option<&Path> {
        self.is_crash_told.then_some(&self.crash)
    }

    /// That the trace loses its oldest events, once it does; told once.
    pub fn trace_note(&mut self) -> Option<&'static str> {
        let loses = |trace: &mut PathBuf| {
            let mut begin = [0; 64];
            let length = File::open(trace).and_then(|mut file| file.read(&mut begin)).unwrap_or(0);
            wire::trace::begins_with_loss(&begin[..length])
        };
        self.trace.take_if(loses).map(|_| "the trace loses its oldest events from now on, which `--stream` avoids")
    }

    /// Makes the kernel report where its CPUs are, by a non-maskable interrupt, and end; what it says, as far as it does.
    pub fn interrogate(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        // One may be taken for what the kernel sent itself.
        for _ in 0..INTERROGATIONS {
            if !said.is_empty() || self.monitor.write_all(b"nmi\n").is_err() {
                break;
            }
            self.listen(&mut said);
        }
        said
    }

    /// Adds what it says to `said`, as long as it says something or writes its crash file, or for a while.
    fn listen(&self, said: &mut Vec<u8>) {
        let size = || fs::metadata(&self.crash).map_or(0, |file| file.len());
        let (mut written, end) = (size(), Instant::now() + WRITE_LIMIT);
        let mut deadline = Instant::now() + REPORT_LIMIT;
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => said.extend(bytes),
                Err(RecvTimeoutError::Timeout) if size() > written && Instant::now() < end => {
                    written = size();
                    deadline = Instant::now() + REPORT_LIMIT;
                }
                Err(_) => return,
            }
        }
    }

    /// Ends QEMU if it has not ended; its exit code.
    pub fn end(&mut self) -> Result<Option<i32>> {
        if self.card.is_some() {
            // Its status says nothing of the kernel.
            let _ = self.child.kill();
            self.child.wait()?;
            return Ok(None);
        }
        // QEMU closes its output right before it ends by itself.
        let deadline = Instant::now() + EXIT_LIMIT;
        while self.output.try_recv() == Err(mpsc::TryRecvError::Disconnected) && Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Running {
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
            // A card has none.
            let _ = fs::remove_file(socket);
        }
    }
}

fn qemu_missing(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => MissingTool("qemu-system-x86_64").into(),
        _ => anyhow::Error::new(error).context("QEMU cannot be started"),
    }
}

/// A socket for a machine of this process, where `aero top` looks for one.
fn telemetry_path() -> Result<PathBuf> {
    let directory = top::default_directory();
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    Ok(directory.join(format!("{}.socket", std::process::id())))
}

/// A socket for a debugger of a machine of this process.
pub fn gdb_path() -> Result<PathBuf> {
    let directory = root().join("target/gdb");
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    remove_left_over(&directory);
    Ok(directory.join(format!("{}-0.socket", std::process::id())))
}

/// A file for a machine of this process.
fn crash_path() -> Result<PathBuf> {
    static MACHINES: AtomicU32 = AtomicU32::new(0);
    let directory = root().join("target/crashes");
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    remove_left_over(&directory);
    let number = MACHINES.fetch_add(1, Ordering::Relaxed);
    Ok(directory.join(format!("{}-{number}.crash", std::process::id())))
}

/// Removes the sockets and the empty files of an `aero` that was killed before it could: `PID-...`, the crash files apart.
fn remove_left_over(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.split_once('-')).and_then(|(owner, _)| owner.parse::<u32>().ok());
        let is_left = owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        let is_crash = entry.path().extension().is_some_and(|extension| extension == "crash");
        if is_left && (!is_crash || entry.metadata().is_ok_and(|file| file.len() == 0)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Keeps a file open in the program.
fn inherit(command: &mut Command, file: RawFd) {
    // SAFETY: fcntl is async-signal-safe and touches nothing else; the file is this process's, open until the program runs.
    unsafe {
        command.pre_exec(move || match libc::fcntl(file, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Makes the program end when this one does, however it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches nothing else.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}
