//! An emulator as a process.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use build::project::MissingTool;

/// How often a kernel is asked where it is.
const INTERROGATIONS: u32 = 3;

/// Why QEMU cannot be started.
pub fn qemu_missing(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => MissingTool("qemu-system-x86_64").into(),
        _ => anyhow::Error::new(error).context("QEMU cannot be started"),
    }
}

/// Passes on what a process writes, until it ends.
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

/// Set once a process has closed its output, in which nothing is looked for.
pub fn end_of(mut from: ChildStdout) -> Arc<AtomicBool> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = has_ended.clone();
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        ends.store(true, Ordering::Relaxed);
    });
    has_ended
}

/// Asks the kernel in a QEMU where it is, by non-maskable interrupts from QEMU's monitor; what it says, as `listen` hears it.
pub fn interrogate(monitor: &mut UnixStream, mut listen: impl FnMut(&mut Vec<u8>)) -> Vec<u8> {
    let mut said = Vec::new();
    // One may be taken for what the kernel sent itself.
    for _ in 0..INTERROGATIONS {
        if !said.is_empty() || monitor.write_all(b"nmi\n").is_err() {
            break;
        }
        listen(&mut said);
    }
    said
}

/// Keeps a file open in the program.
pub fn inherit(command: &mut Command, file: RawFd) {
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
