//! gdb's `monitor`: the console's commands, while all CPUs are stopped.

use core::fmt::{self, Write};

use console::{Command, Needs};
use gdbstub::target::ext::monitor_cmd::ConsoleOutput;

use crate::deferred;

/// Largest amount of text sent to gdb in one packet, in bytes.
const CHUNK: usize = 256;
/// The argument of `thread` that clears the selection.
const OFF: &str = "off";

/// A writer that collects text for gdb, to send fewer packets than there are writes.
struct Pieces<'a, 'b> {
    out: &'a mut ConsoleOutput<'b>,
    kept: [u8; CHUNK],
    length: usize,
}

impl Write for Pieces<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.kept[self.length] = byte;
            self.length += 1;
            if self.length == CHUNK {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Pieces<'_, '_> {
    fn flush(&mut self) {
        if self.length > 0 {
            self.out.write_raw(&self.kept[..self.length]);
        }
        self.length = 0;
    }
}

/// Executes a command line. `thread N` also selects the thread whose registers gdb sees; `thread
/// off` clears the selection. A command that needs running CPUs is left to [`deferred`].
pub fn execute(line: &str, extra: &'static [Command], selected: &mut Option<u64>, out: &mut ConsoleOutput<'_>) {
    let mut out = Pieces { out, kept: [0; CHUNK], length: 0 };
    let mut words = line.split_whitespace();
    let thread = words.next().filter(|&command| command == "thread").and_then(|_| words.next());
    if thread == Some(OFF) {
        *selected = None;
    // SAFETY: the stub runs on the host of a stop: all other CPUs are stopped and interrupts are
    // off.
    } else if unsafe { console::needs_of(line, extra) } == Some(Needs::Cpus) {
        let _ = match deferred::leave(line) {
            Ok(()) => out.write_str("it needs CPUs that run: `continue`, and what it says comes then\n"),
            Err(reason) => writeln!(out, "error: {reason}"),
        };
    // SAFETY: the stub runs on the host of a stop: all other CPUs are stopped and interrupts are
    // off.
    } else if unsafe { console::execute_stopped(line, &mut out) } == 0 && thread.is_some() {
        *selected = thread.and_then(firmware::words::number);
        let _ = out.write_str("its registers are shown; `monitor thread off` shows the CPUs' again\n");
    }
    out.flush();
}
