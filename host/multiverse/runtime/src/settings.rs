//! What the runtime is told when it starts.

use std::borrow::Cow;
use std::ffi::CString;

use multiverse::overrides::Override;

use crate::process;

/// The settings, by words `NAME=VALUE`.
pub struct Settings {
    /// Where the program's registers are.
    pub registers: u64,
    /// A page to give back once the C library has started; 0 for none.
    pub guard: u64,
    /// Descriptor of the runtime's file.
    pub runtime_file: i32,
    /// Descriptor of the HRT's image.
    pub image_file: i32,
    /// The lowest number of the HVM's descriptors.
    pub descriptors_from: i32,
    /// Number of the HRT's own CPUs.
    pub cpus: u32,
    /// The HRT's own memory, in bytes.
    pub memory: u64,
    /// Statistics are printed at the end.
    pub counts: bool,
    /// The HRT's lines are put on sockets.
    pub is_shared: bool,
    /// The kernel's command line.
    pub line: String,
    /// Address of the program's first instruction, and where its interpreter is; 0 for none.
    pub program_entry: u64,
    /// See `program_entry`.
    pub interpreter: u64,
    /// For how long a waiting thread's CPU polls, in microseconds.
    pub poll_us: u64,
    /// The command line that starts programs which the program executes; empty to have them run
    /// natively.
    pub follow: Vec<CString>,
    /// What is to be overridden.
    pub overrides: Vec<Override>,
}

impl Settings {
    /// Reads the words. Unknown ones, and values that are no numbers, are the launcher's mistakes
    /// and leave what is usual.
    pub fn parse<'a>(words: impl Iterator<Item = Cow<'a, str>>) -> Self {
        let mut settings = Self {
            registers: 0,
            guard: 0,
            runtime_file: -1,
            image_file: -1,
            descriptors_from: 0,
            cpus: 1,
            memory: 64 << 20,
            counts: false,
            is_shared: false,
            line: String::new(),
            program_entry: 0,
            interpreter: 0,
            poll_us: 0,
            follow: Vec::new(),
            overrides: Vec::new(),
        };
        for word in words {
            let Some((name, value)) = word.split_once('=') else { continue };
            let number = value.parse::<u64>().unwrap_or_default();
            match name {
                "registers" => settings.registers = number,
                "guard" => settings.guard = number,
                "runtime-file" => settings.runtime_file = number as i32,
                "image-file" => settings.image_file = number as i32,
                "descriptors-from" => settings.descriptors_from = number as i32,
                "cpus" => settings.cpus = number as u32,
                "memory" => settings.memory = number,
                "stats" => settings.counts = number != 0,
                "share" => settings.is_shared = number != 0,
                "line" => settings.line = value.into(),
                "program-entry" => settings.program_entry = number,
                "interpreter" => settings.interpreter = number,
                "poll" => settings.poll_us = number,
                "follow" => settings.follow.extend(CString::new(value)),
                "override" => match Override::parse(value) {
                    Ok(one) => settings.overrides.extend(one),
                    Err(error) => process::fail(&error),
                },
                _ => {}
            }
        }
        settings
    }
}
