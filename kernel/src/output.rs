//! The console's output side, and the kernel log: a line a record, kept in a ring as well.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::{Architecture, Machine};
use crate::cpu;
use crate::lock::SpinLock;
use crate::time;

/// Bytes of log kept for `log` at the prompt.
const RING_SIZE: usize = 8 * 1024;

/// Serialises whole writes, so that lines of several CPUs do not mix.
static CONSOLE: SpinLock<()> = SpinLock::new(());
/// Set when the kernel has crashed: locks no longer mean anything.
static CRASHED: AtomicBool = AtomicBool::new(false);

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

/// Writes formatted text to the machine, `\n` as `\r\n`.
struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut lines = text.split('\n');
        if let Some(first) = lines.next() {
            Machine::console_write(first.as_bytes());
        }
        for line in lines {
            Machine::console_write(b"\r\n");
            Machine::console_write(line.as_bytes());
        }
        Ok(())
    }
}

/// From now on, output takes no locks. Called when the kernel crashes.
pub(crate) fn enter_crash() {
    CRASHED.store(true, Ordering::SeqCst);
}

/// Writes formatted text to the console. Any context.
pub fn print(arguments: fmt::Arguments<'_>) {
    if CRASHED.load(Ordering::Relaxed) {
        let _ = Raw.write_fmt(arguments);
        return;
    }
    let _console = CONSOLE.lock();
    let _ = Raw.write_fmt(arguments);
}

/// Writes bytes to the console as they are. Any context.
pub fn write_bytes(bytes: &[u8]) {
    let _console = (!CRASHED.load(Ordering::Relaxed)).then(|| CONSOLE.lock());
    Machine::console_write(bytes);
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
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
        print(line);
    }

    fn flush(&self) {}
}

/// Starts logging. Once.
pub(crate) fn init(level: LevelFilter) {
    // A second call finds the logger set, which is what it wants.
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
