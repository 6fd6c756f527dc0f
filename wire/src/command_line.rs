//! The words of the kernel's command line: `key=value`, typed by a person after `--append` or put
//! there by the host.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// A word, as `help boot` explains it. The kernel has the parser (`kernel::command_line`), or the
/// architecture's start-up code.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    /// What stands before the `=`.
    pub key: &'static str,
    /// What may stand behind it.
    pub values: &'static str,
    /// What it does, and in parentheses its default.
    pub about: &'static str,
}

impl Word {
    const fn new(key: &'static str, values: &'static str, about: &'static str) -> Self {
        Self { key, values, about }
    }

    /// The word with a value. The value has no quotation marks in it.
    pub fn with(&self, value: impl fmt::Display) -> String {
        let value = format!("{value}");
        let quote = if value.contains(char::is_whitespace) { "\"" } else { "" };
        format!("{}={quote}{value}{quote}", self.key)
    }
}

/// The most detailed level logged.
pub const LOG: Word = Word::new("log", "off|error|warn|info|debug|trace", "most detailed level logged (info)");
/// The maximum number of CPUs started.
pub const CPUS: Word = Word::new("cpus", "N", "start at most so many CPUs, at least 1 (all)");
/// The scheduler's quantum.
pub const QUANTUM: Word =
    Word::new("quantum_us", "N", "time slice where several threads are ready, from 10 to 1000000 (5000)");
/// What an idle CPU does.
pub const IDLE: Word = Word::new("idle", "halt|poll", "what an idle CPU does; one that polls wakes sooner (halt)");
/// What the kernel does after a crash.
pub const PANIC: Word =
    Word::new("panic", "halt|exit|reboot", "what to do after a crash; halt gives the prompt `post-mortem>` (halt)");
/// Tracing from the start.
pub const TRACE: Word =
    Word::new("trace", "on|off|stream", "trace from the start (off), written as it is recorded (stream)");
/// How a debugger attaches.
pub const GDB: Word = Word::new(
    "gdb",
    "wait|cpus",
    "wait for gdb on the debugger's line before the first thread runs; show gdb the CPUs in place of threads",
);
/// The watchdog's limit.
pub const WATCHDOG: Word = Word::new(
    "watchdog",
    "SECONDS|off",
    "report CPUs and threads that hang, from 1 to 3600 s, then give the prompt `post-mortem>` (off)",
);
/// Commands in place of a session.
pub const RUN: Word = Word::new("run", "\"CMD; CMD\"", "run commands, then power off with their status");
/// The keyboard's layout.
pub const KEYBOARD: Word = Word::new("keyboard", "us|de", "the keyboard's layout, where there is a screen (us)");
/// Commands before a session.
pub const SCRIPT: Word = Word::new("script", "\"CMD; CMD\"", "run commands before the first prompt");
/// Where the exit status goes.
pub const DEBUG_EXIT: Word = Word::new("debug-exit", "PORT", "port of QEMU's isa-debug-exit device");
/// Where the trace goes.
pub const TRACE_PORT: Word =
    Word::new("trace-port", "PORT", "port of QEMU's isa-debugcon device, which gets the trace at the end");
/// Where the crash file goes.
pub const CRASH_PORT: Word = Word::new("crash-port", "PORT", "port of another one, which gets the crash file");
/// Where the console's rings are.
pub const RINGS: Word =
    Word::new("phi.ring", "BASE,SIZE", "where a Knights Corner card's host has the console's rings");
/// How the card's APIC numbers its CPUs.
pub const APIC: Word = Word::new("apic", "pc", "that card's APIC has a PC's ids: QEMU plays it");

/// All words, in the order of `help boot`.
pub const WORDS: [&Word; 16] = [
    &LOG,
    &CPUS,
    &QUANTUM,
    &IDLE,
    &PANIC,
    &TRACE,
    &GDB,
    &WATCHDOG,
    &RUN,
    &KEYBOARD,
    &SCRIPT,
    &DEBUG_EXIT,
    &TRACE_PORT,
    &CRASH_PORT,
    &RINGS,
    &APIC,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_spaces_is_quoted() {
        assert_eq!(RUN.with("cpus; mem"), "run=\"cpus; mem\"");
        assert_eq!(DEBUG_EXIT.with(format_args!("{:#x}", 0xf4)), "debug-exit=0xf4");
    }
}
