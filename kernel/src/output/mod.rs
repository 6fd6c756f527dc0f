//! The console's output and the kernel log. A log record is one line; recent records are also kept
//! in a ring.
//!
//! Once the console's device interrupts, output goes through a queue, so that no CPU waits for a
//! slow line with interrupts off. Before that, and in a crash, writing polls the device.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::{ConsoleEvent, PowerAction};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::*;
use crate::cpu;
use crate::debug;
use crate::lock::SpinLock;
use crate::time;
use crate::trace;
use queue::{CAPACITY, Queue};
pub use typed::TypedLine;

mod queue;
mod typed;

/// Size of the kept log, which the prompt's `log` shows, in bytes.
const RING_SIZE: usize = 8 * 1024;

/// Time a full queue has to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The console's device. The lock serialises whole writes, so that lines of several CPUs do not
/// mix.
static CONSOLE: SpinLock<Device> = SpinLock::new(Device::new());
/// Bytes the device has not taken yet. Used under the lock of [`CONSOLE`], or without it after a
/// crash and while a debugger has stopped the machine.
static QUEUE: Queue = Queue::new();
/// Set when the kernel has crashed. Output then takes no locks, because a stopped CPU may hold
/// them.
static CRASHED: AtomicBool = AtomicBool::new(false);

/// The state of writing to the console's device.
struct Device {
    /// The device interrupts, so output goes through the queue.
    queued: bool,
    /// The device was asked to interrupt when it takes more bytes.
    watched: bool,
    /// The line being typed at the device.
    typed: TypedLine,
}

impl Device {
    const fn new() -> Self {
        Self { queued: false, watched: false, typed: TypedLine::new() }
    }

    /// Writes formatted text above the line being typed.
    fn write_above(&mut self, arguments: fmt::Arguments<'_>) {
        let before = self.typed.hide();
        self.write(before.as_bytes());
        let mut raw = Raw { device: self, ends_line: false };
        let _ = raw.write_fmt(arguments);
        if raw.ends_line {
            let mut typed = core::mem::take(&mut self.typed);
            self.write(typed.bring_back().as_bytes());
            self.typed = typed;
        }
    }

    /// Writes all bytes: to the queue, or by polling if the queue is full or not in use.
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.queued {
            rest = &rest[QUEUE.push(rest)..];
            while !rest.is_empty() {
                QUEUE.send(poll_once());
                rest = &rest[QUEUE.push(rest)..];
            }
        } else {
            ConsoleDevice::write(rest);
        }
    }

    /// Gives the device as many bytes as it takes, and asks for an interrupt if some are left.
    fn pump(&mut self) {
        QUEUE.send(ConsoleDevice::try_write);
        let wanted = QUEUE.len() > 0;
        if wanted != self.watched {
            self.watched = wanted;
            match wanted {
                true => ConsoleDevice::watch(ConsoleEvent::Output),
                false => ConsoleDevice::ignore(ConsoleEvent::Output),
            }
        }
    }
}

static RING: SpinLock<Ring> = SpinLock::new(Ring { bytes: [0; RING_SIZE], next: 0, wrapped: false });

struct Ring {
    bytes: [u8; RING_SIZE],
    next: usize,
    wrapped: bool,
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.bytes[self.next] = byte;
            self.next += 1;
            if self.next == RING_SIZE {
                self.next = 0;
                self.wrapped = true;
            }
        }
        Ok(())
    }
}

/// Writes formatted text to the device, with `\n` as `\r\n`.
struct Raw<'a> {
    device: &'a mut Device,
    /// The last byte ended a line.
    ends_line: bool,
}

impl Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut lines = text.split('\n');
        if let Some(first) = lines.next() {
            self.device.write(first.as_bytes());
        }
        for line in lines {
            self.device.write(b"\r\n");
            self.device.write(line.as_bytes());
        }
        if !text.is_empty() {
            self.ends_line = text.ends_with('\n');
        }
        Ok(())
    }
}

/// Returns a device for [`Queue::send`] that takes one offer by polling and then no more.
fn poll_once() -> impl FnMut(&[u8]) -> usize {
    let mut polled = false;
    move |bytes| {
        if core::mem::replace(&mut polled, true) {
            return 0;
        }
        ConsoleDevice::write(bytes);
        bytes.len()
    }
}

/// Sends everything in the queue by polling the device.
fn flush() {
    QUEUE.send(|bytes| {
        ConsoleDevice::write(bytes);
        bytes.len()
    });
}

/// Counts the bytes [`Raw`] would write.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len() + text.bytes().filter(|&byte| byte == b'\n').count();
        Ok(())
    }
}

/// Runs `write` with the device. If interrupts are on, this CPU first waits for the queue to have
/// room for `length` bytes.
fn with_device(length: usize, write: impl FnOnce(&mut Device)) {
    if CRASHED.load(Ordering::Relaxed) || debug::is_stopped() {
        // Earlier output comes first. The caller is the host, and no other CPU runs.
        flush();
        write(&mut Device::new());
        return;
    }
    let has_room = || {
        let mut device = CONSOLE.lock();
        if !device.queued || QUEUE.room() >= length.min(CAPACITY) {
            return true;
        }
        device.pump();
        false
    };
    if Core::interrupts_enabled() {
        // If there is no room by then, the line is stuck, and `write` polls the device.
        time::spin_until(DRAIN_LIMIT, has_room);
    }
    let mut device = CONSOLE.lock();
    write(&mut device);
    if device.queued {
        device.pump();
    }
}

/// Switches output to the queue. From now on the console's device interrupts, and its handler
/// (`crate::input`) calls [`device_interrupted`].
pub(crate) fn use_interrupts() {
    CONSOLE.lock().queued = true;
}

/// Handles an interrupt of the console's device, which may be ready for more output.
pub(crate) fn device_interrupted() {
    let mut device = CONSOLE.lock();
    if device.watched {
        device.pump();
    }
}

/// Makes output take no locks from now on. Called in a crash, when the other CPUs have been told to
/// stop.
pub(crate) fn enter_crash() {
    CRASHED.store(true, Ordering::SeqCst);
    flush();
}

/// Ends the machine after pending output is written. `status` reaches the host of an emulated
/// machine.
pub fn power(action: PowerAction, status: u8) -> ! {
    trace::export();
    if !CRASHED.load(Ordering::Relaxed) {
        let _console = CONSOLE.lock();
        flush();
    }
    Platform::power(action, status)
}

/// Address of the function that receives a copy of all output of [`print`] and the log, 0 for none.
static MIRROR: AtomicUsize = AtomicUsize::new(0);

/// Sends a copy of all output of [`print`] and the log to `mirror`. It is called in any context,
/// once per piece of text.
pub fn set_mirror(mirror: fn(&str)) {
    MIRROR.store(mirror as usize, Ordering::Release);
}

/// Returns whether the kernel has crashed.
pub fn has_crashed() -> bool {
    CRASHED.load(Ordering::Relaxed)
}

/// Writes to the mirror, if there is one.
struct Mirror;

impl Write for Mirror {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mirror = MIRROR.load(Ordering::Acquire);
        if mirror != 0 {
            // SAFETY: the word is nonzero, and `set_mirror` stores only addresses of a `fn(&str)`.
            unsafe { core::mem::transmute::<usize, fn(&str)>(mirror)(text) };
        }
        Ok(())
    }
}

/// Writes formatted text to the console and the mirror. Callable from any context.
pub fn print(arguments: fmt::Arguments<'_>) {
    let _ = Mirror.write_fmt(arguments);
    write_to_device(arguments);
}

fn write_to_device(arguments: fmt::Arguments<'_>) {
    let mut length = Length(0);
    let _ = length.write_fmt(arguments);
    with_device(length.0 + 2 * typed::LIMIT, |device| device.write_above(arguments));
}

/// Writes text only to the serial line, with `\n` as `\r\n`. Callable from any context.
pub fn print_to_serial(text: &str) {
    write_to_device(format_args!("{text}"));
}

/// Replaces the line being typed at the serial line by `line`, `""` for none; see
/// [`TypedLine::edit`]. Other output moves the line down from now on. Callable from any context.
pub fn edit_serial_line(change: &str, line: &str) {
    with_device(change.len() + typed::LIMIT, |device| {
        let mut typed = core::mem::take(&mut device.typed);
        for piece in typed.edit(change, line) {
            let _ = Raw { device, ends_line: false }.write_str(piece);
        }
        device.typed = typed;
    });
}

/// Writes bytes to the console unchanged. Callable from any context.
pub fn write_bytes(bytes: &[u8]) {
    with_device(bytes.len(), |device| device.write(bytes));
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Colours of log lines in the mirror (ECMA-48, 8.3.117).
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // While all CPUs are stopped, another CPU may have been stopped in the middle of a line.
        metadata.level() <= log::max_level() && !debug::is_stopped()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = time::now_ns();
        let (seconds, microseconds) = (now / 1_000_000_000, now / 1_000 % 1_000_000);
        let cpu = cpu::this_index();
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        let line = format_args!("[{seconds:4}.{microseconds:06} cpu{cpu}] {level}{}\n", record.args());
        if !CRASHED.load(Ordering::Relaxed) {
            let _ = RING.lock().write_fmt(line);
        }
        let (begin, end) = match record.level() {
            _ if has_crashed() => ("", ""),
            Level::Error => (RED, PLAIN),
            Level::Warn => (YELLOW, PLAIN),
            _ => ("", ""),
        };
        let _ = Mirror.write_fmt(format_args!("{begin}{line}{end}"));
        write_to_device(line);
    }

    fn flush(&self) {}
}

/// Starts logging. Called once.
pub(crate) fn init(level: LevelFilter) {
    // The only error is that the logger is already set, and then it is this one.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Calls `each` with the parts of the kept log, oldest first.
pub fn for_kept_log(mut each: impl FnMut(&str)) {
    let ring = RING.lock();
    let (newer, older) = ring.bytes.split_at(ring.next);
    let parts = if ring.wrapped { [older, newer] } else { [&[][..], newer] };
    for part in parts {
        let mut rest = part;
        while !rest.is_empty() {
            // A character cut at the ring's seam is left out.
            match core::str::from_utf8(rest) {
                Ok(text) => {
                    each(text);
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    each(core::str::from_utf8(good).unwrap_or(""));
                    rest = &bad[error.error_len().unwrap_or(bad.len())..];
                }
            }
        }
    }
}
