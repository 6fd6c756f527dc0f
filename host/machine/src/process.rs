//! Emulators as processes.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use build::project::MissingTool;

/// Most attempts to ask a kernel where its CPUs are.
const INTERROGATIONS: u32 = 3;
/// How long a kernel may take to report where its CPUs are.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// How long a kernel that reports may take to write what is left.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Returns the error for a QEMU that cannot be started.
pub fn qemu_missing(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => MissingTool("qemu-system-x86_64").into(),
        _ => anyhow::Error::new(error).context("QEMU cannot be started"),
    }
}

/// Forwards a process's output until the process closes it.
pub fn pump(mut from: ChildStdout) -> Receiver<Vec<u8>> {
    let (send, output) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if send.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    output
}

/// How long an emulator may take to end after it has closed its output.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Returns an emulator's exit code, and kills it if it does not end by itself. `output` is what
/// [`pump`] returned for it.
pub fn exit_code(child: &mut Child, output: &Receiver<Vec<u8>>) -> Result<Option<i32>> {
    // An emulator closes its output right before it ends by itself.
    let deadline = Instant::now() + EXIT_LIMIT;
    while output.try_recv() == Err(TryRecvError::Disconnected) && Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    Ok(child.wait()?.code())
}

/// Returns a flag that is set once a process has closed its output. The output itself is discarded.
pub fn end_of(mut from: ChildStdout) -> Arc<AtomicBool> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = has_ended.clone();
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        ends.store(true, Ordering::Relaxed);
    });
    has_ended
}

/// Asks the kernel in a QEMU where its CPUs are, by non-maskable interrupts from QEMU's monitor.
/// Returns what the kernel says within [`REPORT_LIMIT`] of each question, or, while `is_writing`
/// reports progress with what is left, within [`WRITE_LIMIT`].
pub fn interrogate(
    monitor: &mut UnixStream,
    output: &Receiver<Vec<u8>>,
    mut is_writing: impl FnMut() -> bool,
) -> Vec<u8> {
    let mut said = Vec::new();
    // The kernel may take one NMI for an NMI that it sent itself.
    for _ in 0..INTERROGATIONS {
        if !said.is_empty() || monitor.write_all(b"nmi\n").is_err() {
            break;
        }
        let end = Instant::now() + WRITE_LIMIT;
        let mut deadline = Instant::now() + REPORT_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match output.recv_timeout(left) {
                Err(RecvTimeoutError::Disconnected) => return said,
                Ok(bytes) => said.extend(bytes),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Also checked after output, because a kernel may never fall silent.
            if Instant::now() >= deadline {
                if Instant::now() >= end || !is_writing() {
                    break;
                }
                deadline = Instant::now() + REPORT_LIMIT;
            }
        }
    }
    said
}

/// Keeps a file descriptor open in the program that a command runs.
pub fn inherit(command: &mut Command, file: RawFd) {
    // SAFETY: the closure runs between fork and exec and calls only fcntl, which is
    // async-signal-safe. The caller keeps the descriptor open until the program runs.
    unsafe {
        command.pre_exec(move || match libc::fcntl(file, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Makes the host's kernel kill a command's program when this process ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and calls only prctl, which touches no memory
    // and takes no locks, so it is safe there.
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
