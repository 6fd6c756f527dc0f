//! `monitor`: the console's commands, from gdb, while all CPUs are stopped.

use core::fmt::{self, Write};

use console::{Command, Needs};
use gdbstub::target::ext::monitor_cmd::ConsoleOutput;

use crate::deferred;

/// Bytes sent to gdb in a packet, at most.
const CHUNK: usize = 256;
/// Selects no thread.
const OFF: &str = "off";

/// Gives gdb text in larger pieces than it is written in.
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

/// Executes a command line, one with an unknown command as far as it goes. `thread N` also selects a thread, whose registers gdb then sees; `thread off` none.
pub fn execute(line: &str, extra: &'static [Command], selected: &mut Option<u64>, out: &mut ConsoleOutput<'_>) {
    let mut out = Pieces { out, kept: [0; CHUNK], length: 0 };
    let mut words = line.split_whitespace();
    let thread = words.next().filter(|&command| command == "thread").and_then(|_| words.next());
    if thread == Some(OFF) {
        *selected = None;
    // SAFETY: in a stop.
    } else if unsafe { console::needs_of(line, extra) } == Some(Needs::Cpus) {
        let _ = match deferred::leave(line) {
            Ok(()) => out.write_str("it needs CPUs that run: `continue`, and what it says comes then\n"),
            Err(reason) => writeln!(out, "error: {reason}"),
        };
    // SAFETY: in a stop.
    } else if unsafe { console::execute_stopped(line, &mut out) } == 0 && thread.is_some() {
        *selected = thread.and_then(firmware::words::number);
        let _ = out.write_str("its registers are shown; `monitor thread off` shows the CPUs' again\n");
    }
    out.flush();
}
