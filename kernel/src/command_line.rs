//! The kernel's command line. The prompt's `help boot` documents it.

use core::time::Duration;

use firmware::words::{number, words};
use log::LevelFilter;

use crate::scheduler::Idle;

/// What the kernel does after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCrash {
    /// Stops, so that a debugger finds the machine as it was.
    Halt,
    /// Powers the machine off; QEMU's exit status reports the crash.
    Exit,
    /// Reboots the machine.
    Reboot,
}

/// A keyboard layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyboard {
    /// American, 104 keys.
    Us,
    /// German, 105 keys.
    German,
}

/// The options, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// `log=`: most detailed level logged.
    pub log: LevelFilter,
    /// `cpus=`: maximum number of CPUs used.
    pub cpus: usize,
    /// `quantum_us=`: the scheduler's quantum.
    pub quantum: Duration,
    /// `idle=`: what an idle CPU does.
    pub idle: Idle,
    /// `panic=`: what the kernel does after a crash.
    pub after_crash: AfterCrash,
    /// `trace=`: whether the tracer is on from the start.
    pub trace: bool,
    /// `trace=stream`: whether recorded events are written out while the machine runs.
    pub streams_trace: bool,
    /// `watchdog=`: how long a CPU may leave interrupts unanswered, and a thread may run without
    /// giving way.
    pub watchdog: Option<Duration>,
    /// `gdb=wait`: whether the kernel waits for a debugger before the first thread runs.
    pub waits_for_debugger: bool,
    /// `gdb=cpus`: whether a debugger sees CPUs instead of threads.
    pub debugs_cpus_only: bool,
    /// `run=`: commands to execute instead of an interactive session.
    pub run: Option<&'a str>,
    /// `keyboard=`: layout of the keyboard.
    pub keyboard: Keyboard,
    /// `script=`: commands to execute before the first prompt.
    pub script: Option<&'a str>,
}

/// A word of the command line that was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a str,
    /// Description of what is accepted.
    pub expected: &'static str,
}

/// Keys that the architecture's start-up code reads.
const ARCHITECTURE_WORDS: [&str; 2] = ["phi.ring", "apic"];
/// Keys of the architecture's start-up code whose values are ports.
const PORT_WORDS: [&str; 3] = ["debug-exit", "trace-port", "crash-port"];

/// Parses the command line. Calls `unknown` for each word that is not understood; the option keeps
/// its value.
pub fn parse<'a>(line: &'a str, mut unknown: impl FnMut(Unknown<'a>)) -> Options<'a> {
    let mut options = Options {
        log: LevelFilter::Info,
        cpus: arch_contract::MAX_CPUS,
        quantum: crate::scheduler::DEFAULT_QUANTUM,
        idle: Idle::Halt,
        after_crash: AfterCrash::Halt,
        trace: false,
        streams_trace: false,
        watchdog: None,
        waits_for_debugger: false,
        debugs_cpus_only: false,
        run: None,
        script: None,
        keyboard: Keyboard::Us,
    };
    for word in words(line) {
        let expected = match word.key {
            "log" => match level(word.value) {
                Some(level) => {
                    options.log = level;
                    continue;
                }
                None => "log=off|error|warn|info|debug|trace",
            },
            "cpus" => match number(word.value) {
                Some(count @ 1..) => {
                    options.cpus = usize::try_from(count).unwrap_or(usize::MAX);
                    continue;
                }
                _ => "cpus=NUMBER, at least 1",
            },
            "quantum_us" => match number(word.value) {
                Some(microseconds @ 10..=1_000_000) => {
                    options.quantum = Duration::from_micros(microseconds);
                    continue;
                }
                _ => "quantum_us=NUMBER, from 10 to 1000000",
            },
            "idle" => match word.value {
                "halt" => {
                    options.idle = Idle::Halt;
                    continue;
                }
                "poll" => {
                    options.idle = Idle::Poll;
                    continue;
                }
                _ => "idle=halt or idle=poll",
            },
            "gdb" => match word.value {
                "wait" => {
                    options.waits_for_debugger = true;
                    continue;
                }
                "cpus" => {
                    options.debugs_cpus_only = true;
                    continue;
                }
                _ => "gdb=wait or gdb=cpus",
            },
            "panic" => match word.value {
                "halt" => {
                    options.after_crash = AfterCrash::Halt;
                    continue;
                }
                "exit" => {
                    options.after_crash = AfterCrash::Exit;
                    continue;
                }
                "reboot" => {
                    options.after_crash = AfterCrash::Reboot;
                    continue;
                }
                _ => "panic=halt|exit|reboot",
            },
            "trace" => match word.value {
                "on" | "off" | "stream" => {
                    options.trace = word.value != "off";
                    options.streams_trace = word.value == "stream";
                    continue;
                }
                _ => "trace=on|off|stream",
            },
            "watchdog" => match (word.value, number(word.value)) {
                ("off", _) => {
                    options.watchdog = None;
                    continue;
                }
                (_, Some(seconds @ 1..=3600)) => {
                    options.watchdog = Some(Duration::from_secs(seconds));
                    continue;
                }
                _ => "watchdog=SECONDS, from 1 to 3600, or watchdog=off",
            },
            "run" => {
                options.run = Some(word.value);
                continue;
            }
            "keyboard" => match word.value {
                "us" => {
                    options.keyboard = Keyboard::Us;
                    continue;
                }
                "de" => {
                    options.keyboard = Keyboard::German;
                    continue;
                }
                _ => "keyboard=us or keyboard=de",
            },
            "script" => {
                options.script = Some(word.value);
                continue;
            }
            key if ARCHITECTURE_WORDS.contains(&key) => continue,
            key if PORT_WORDS.contains(&key) => match number(word.value) {
                Some(0..=0xffff) => continue,
                _ => "a port's number, from 0 to 0xffff",
            },
            _ => {
                "log=, cpus=, quantum_us=, idle=, panic=, trace=, watchdog=, gdb=, script= or run=; `help boot` explains them"
            }
        };
        unknown(Unknown { key: word.key, value: word.value, expected });
    }
    options
}

/// Returns the log level of that name.
pub fn level(name: &str) -> Option<LevelFilter> {
    match name {
        "off" => Some(LevelFilter::Off),
        "error" => Some(LevelFilter::Error),
        "warn" => Some(LevelFilter::Warn),
        "info" => Some(LevelFilter::Info),
        "debug" => Some(LevelFilter::Debug),
        "trace" => Some(LevelFilter::Trace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_words_are_taken_and_others_reported() {
        let mut unknown = Vec::new();
        let line = "log=debug cpus=2 quantum_us=100 idle=poll panic=exit run=\"mem; cpus\" colour=red cpus=none debug-exit=0xf4 crash-port=x trace-port=65536";
        let options = parse(line, |word| unknown.push((word.key, word.value)));
        assert_eq!(options.log, LevelFilter::Debug);
        assert_eq!(options.cpus, 2);
        assert_eq!(options.quantum, Duration::from_micros(100));
        assert_eq!(options.idle, Idle::Poll);
        assert_eq!(options.after_crash, AfterCrash::Exit);
        assert_eq!(options.run, Some("mem; cpus"));
        assert_eq!(unknown, [("colour", "red"), ("cpus", "none"), ("crash-port", "x"), ("trace-port", "65536")]);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic(line in "\\PC{0,200}") {
            parse(&line, |_| ());
        }
    }
}
