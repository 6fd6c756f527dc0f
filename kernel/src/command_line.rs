//! The kernel's command line: what each of [`wire::command_line::WORDS`] sets. The prompt's `help
//! boot` explains them.

use core::time::Duration;

use firmware::words::{number, words};
use log::LevelFilter;
use wire::command_line::{self, Word};

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

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
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
        }
    }
}

/// A word of the command line that was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: &'a str,
    /// The word of that key, if there is one; its value is wrong then.
    pub known: Option<&'static Word>,
}

/// Sets what a word stands for; returns false if its value is none of the word's.
type Set = for<'a> fn(&mut Options<'a>, &'a str) -> bool;

/// What each word sets. Words of the architecture's start-up code, which has read them, are only
/// checked.
const SETTERS: [(&Word, Set); 16] = [
    (&command_line::LOG, |options, value| set(&mut options.log, level(value))),
    (&command_line::CPUS, |options, value| {
        let count = number(value).filter(|&count| count > 0);
        set(&mut options.cpus, count.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }),
    (&command_line::QUANTUM, |options, value| {
        let microseconds = number(value).filter(|microseconds| (10..=1_000_000).contains(microseconds));
        set(&mut options.quantum, microseconds.map(Duration::from_micros))
    }),
    (&command_line::IDLE, |options, value| {
        set(&mut options.idle, choose(value, [("halt", Idle::Halt), ("poll", Idle::Poll)]))
    }),
    (&command_line::PANIC, |options, value| {
        let choices = [("halt", AfterCrash::Halt), ("exit", AfterCrash::Exit), ("reboot", AfterCrash::Reboot)];
        set(&mut options.after_crash, choose(value, choices))
    }),
    (&command_line::TRACE, |options, value| {
        let choice = choose(value, [("off", (false, false)), ("on", (true, false)), ("stream", (true, true))]);
        choice.is_some_and(|choice| {
            (options.trace, options.streams_trace) = choice;
            true
        })
    }),
    (&command_line::GDB, |options, value| match value {
        "wait" => set(&mut options.waits_for_debugger, Some(true)),
        "cpus" => set(&mut options.debugs_cpus_only, Some(true)),
        _ => false,
    }),
    (&command_line::WATCHDOG, |options, value| match (value, number(value)) {
        ("off", _) => set(&mut options.watchdog, Some(None)),
        (_, Some(seconds @ 1..=3600)) => set(&mut options.watchdog, Some(Some(Duration::from_secs(seconds)))),
        _ => false,
    }),
    (&command_line::RUN, |options, value| set(&mut options.run, Some(Some(value)))),
    (&command_line::KEYBOARD, |options, value| {
        set(&mut options.keyboard, choose(value, [("us", Keyboard::Us), ("de", Keyboard::German)]))
    }),
    (&command_line::SCRIPT, |options, value| set(&mut options.script, Some(Some(value)))),
    (&command_line::DEBUG_EXIT, |_, value| is_port(value)),
    (&command_line::TRACE_PORT, |_, value| is_port(value)),
    (&command_line::CRASH_PORT, |_, value| is_port(value)),
    (&command_line::RINGS, |_, _| true),
    (&command_line::APIC, |_, _| true),
];

/// Sets a field to a value, if there is one; returns whether there was.
fn set<T>(field: &mut T, value: Option<T>) -> bool {
    value.map(|value| *field = value).is_some()
}

/// The choice of that name.
fn choose<T, const N: usize>(name: &str, choices: [(&str, T); N]) -> Option<T> {
    choices.into_iter().find(|choice| choice.0 == name).map(|choice| choice.1)
}

fn is_port(value: &str) -> bool {
    number(value).is_some_and(|port| port <= u64::from(u16::MAX))
}

/// Parses the command line. Calls `unknown` for each word that is not understood; the option keeps
/// its value.
pub fn parse<'a>(line: &'a str, mut unknown: impl FnMut(Unknown<'a>)) -> Options<'a> {
    let mut options = Options::default();
    for word in words(line) {
        let known = SETTERS.iter().find(|(known, _)| known.key == word.key);
        if !known.is_some_and(|(_, set)| set(&mut options, word.value)) {
            unknown(Unknown { key: word.key, value: word.value, known: known.map(|(known, _)| *known) });
        }
    }
    options
}

/// Returns the log level of that name.
pub fn level(name: &str) -> Option<LevelFilter> {
    let choices = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    choose(name, choices)
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

    #[test]
    fn every_word_that_is_explained_is_known() {
        let known = SETTERS.map(|(word, _)| word);
        assert_eq!(known, command_line::WORDS);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_panic(line in "\\PC{0,200}") {
            parse(&line, |_| ());
        }
    }
}
