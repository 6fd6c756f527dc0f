//! `monitor` with a command that needs CPUs that run: a thread executes it as soon as they do, and what it says goes to gdb, as
//! output of what is debugged, and to the console.

use alloc::string::String;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;

use console::{Command, execute_running};
use kernel::thread::{self, Builder};
use kernel::{debug, println};

use crate::packet;

/// Longest command line, in bytes.
pub const LINE_LIMIT: usize = 256;
/// Time between two looks whether there is one.
const POLL: Duration = Duration::from_millis(50);
/// Stack of the thread that executes commands, as the console's.
const STACK_SIZE: usize = 64 * 1024;

/// A command line that waits: written by the stub while its length is 0, read by the thread while it is not.
struct Waiting {
    bytes: UnsafeCell<[u8; LINE_LIMIT]>,
    length: AtomicUsize,
}

// SAFETY: see the struct: who may touch the bytes is told by the length.
unsafe impl Sync for Waiting {}

static WAITING: Waiting = Waiting { bytes: UnsafeCell::new([0; LINE_LIMIT]), length: AtomicUsize::new(0) };

/// What a command has said, while the thread that has it is stopped: its place and length.
static OUTPUT: (AtomicPtr<u8>, AtomicUsize) = (AtomicPtr::new(core::ptr::null_mut()), AtomicUsize::new(0));

/// Starts the thread, if there is a line to gdb. Once, when threads can be made.
pub fn serve(extra: &'static [Command]) {
    if !debug::is_installed() {
        return;
    }
    match Builder::new("monitor").stack_size(STACK_SIZE).spawn(move || execute_all(extra)) {
        Ok(thread) => thread.detach(),
        Err(error) => log::warn!("gdb: {error}; `monitor` has only commands that work while all CPUs are stopped"),
    }
}

/// Leaves a command line for when CPUs run. All are stopped.
///
/// # Errors
/// The reason, if it cannot be.
pub fn leave(line: &str) -> Result<(), &'static str> {
    if WAITING.length.load(Ordering::Acquire) != 0 {
        return Err("another command waits for the kernel to go on");
    }
    if line.is_empty() || line.len() > LINE_LIMIT {
        return Err("the line is too long");
    }
    // SAFETY: the length is 0, so the bytes are the stub's.
    unsafe { (&mut *WAITING.bytes.get())[..line.len()].copy_from_slice(line.as_bytes()) };
    WAITING.length.store(line.len(), Ordering::Release);
    Ok(())
}

/// The life of the thread.
fn execute_all(extra: &'static [Command]) {
    loop {
        let length = WAITING.length.load(Ordering::Acquire);
        if length == 0 {
            thread::sleep(POLL);
            continue;
        }
        // SAFETY: the length is not 0, so the bytes are this thread's.
        let bytes = unsafe { &(&*WAITING.bytes.get())[..length] };
        let line = String::from_utf8_lossy(bytes).into_owned();
        WAITING.length.store(0, Ordering::Release);
        let mut said = String::new();
        execute_running(&line, extra, &mut said);
        println!("gdb: {line}\n{}", said.trim_end());
        OUTPUT.1.store(said.len(), Ordering::Relaxed);
        OUTPUT.0.store(said.as_ptr().cast_mut(), Ordering::Release);
        debug::stop_for_message();
        OUTPUT.0.store(core::ptr::null_mut(), Ordering::Release);
    }
}

/// Tells gdb what a command has said, if it listens. All CPUs are stopped.
pub fn send_output(listens: bool) {
    let start = OUTPUT.0.load(Ordering::Acquire);
    if start.is_null() || !listens {
        return;
    }
    // SAFETY: the thread's string, and the thread is stopped.
    let said = unsafe { core::slice::from_raw_parts(start, OUTPUT.1.load(Ordering::Relaxed)) };
    packet::say(said);
}
