//! `monitor` commands that need running CPUs: a thread executes them once the CPUs run, and the
//! output goes to the console and to gdb, as output of the program being debugged.

use alloc::string::String;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;

use console::{Command, execute_running};
use kernel::capability::StopAllCpus;
use kernel::thread::{self, Builder};
use kernel::{debug, println};

use crate::packet;

/// Longest command line, in bytes.
pub const LINE_LIMIT: usize = 256;
/// Interval at which the thread polls for a command line.
const POLL: Duration = Duration::from_millis(50);
/// Stack size of the thread that executes commands, the same as the console's.
const STACK_SIZE: usize = 64 * 1024;

/// The right to stop all CPUs for a message.
// SAFETY: the message is the output of a command that a person has typed in gdb.
static STOP: StopAllCpus = unsafe { StopAllCpus::claim() };

/// A pending command line: the stub writes it while `length` is 0, the thread reads it while it is
/// not.
struct Waiting {
    bytes: UnsafeCell<[u8; LINE_LIMIT]>,
    length: AtomicUsize,
}

// SAFETY: `length` decides which side may access the bytes, and each side changes it with release
// ordering only after its last access.
unsafe impl Sync for Waiting {}

static WAITING: Waiting = Waiting { bytes: UnsafeCell::new([0; LINE_LIMIT]), length: AtomicUsize::new(0) };

/// Address and length of a command's output, valid while the thread that owns it is stopped.
static OUTPUT: (AtomicPtr<u8>, AtomicUsize) = (AtomicPtr::new(core::ptr::null_mut()), AtomicUsize::new(0));

/// Starts the thread that executes deferred commands, if there is a line to gdb. Call once, when
/// threads can be created.
pub fn serve(extra: &'static [Command]) {
    if !debug::is_installed() {
        return;
    }
    match Builder::new("monitor").stack_size(STACK_SIZE).spawn(move || execute_all(extra)) {
        Ok(thread) => thread.detach(),
        Err(error) => log::warn!("gdb: {error}; `monitor` has only commands that work while all CPUs are stopped"),
    }
}

/// Queues a command line until the CPUs run. All CPUs are stopped.
///
/// # Errors
/// The reason, if another line is pending or the line is empty or too long.
pub fn leave(line: &str) -> Result<(), &'static str> {
    if WAITING.length.load(Ordering::Acquire) != 0 {
        return Err("another command waits for the kernel to go on");
    }
    if line.is_empty() || line.len() > LINE_LIMIT {
        return Err("the line is too long");
    }
    // SAFETY: the length is 0, so the thread does not access the bytes until the store below.
    unsafe { (&mut *WAITING.bytes.get())[..line.len()].copy_from_slice(line.as_bytes()) };
    WAITING.length.store(line.len(), Ordering::Release);
    Ok(())
}

/// Executes queued command lines forever.
fn execute_all(extra: &'static [Command]) {
    loop {
        let length = WAITING.length.load(Ordering::Acquire);
        if length == 0 {
            thread::sleep(POLL);
            continue;
        }
        // SAFETY: the length is not 0, so the stub does not write the bytes until the thread stores
        // 0.
        let bytes = unsafe { &(&*WAITING.bytes.get())[..length] };
        let line = String::from_utf8_lossy(bytes).into_owned();
        WAITING.length.store(0, Ordering::Release);
        let mut said = String::new();
        execute_running(&line, extra, &mut said);
        println!("gdb: {line}\n{}", said.trim_end());
        OUTPUT.1.store(said.len(), Ordering::Relaxed);
        OUTPUT.0.store(said.as_ptr().cast_mut(), Ordering::Release);
        debug::stop_for_message(&STOP);
        OUTPUT.0.store(core::ptr::null_mut(), Ordering::Release);
    }
}

/// Sends a deferred command's output to gdb, if `listens` says that gdb waits for it. All CPUs are
/// stopped.
pub fn send_output(listens: bool) {
    let start = OUTPUT.0.load(Ordering::Acquire);
    if start.is_null() || !listens {
        return;
    }
    // SAFETY: the pointer is non-null only between the two stores in `execute_all`, while the
    // string lives, and the thread that owns the string is stopped.
    let said = unsafe { core::slice::from_raw_parts(start, OUTPUT.1.load(Ordering::Relaxed)) };
    packet::say(said);
}
