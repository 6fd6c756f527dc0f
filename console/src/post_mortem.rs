//! The prompt after a crash, a report of the watchdog, or `break`. It runs on one CPU while all
//! others are stopped, and polls the console. It relies only on its own code and the console's
//! device; commands run in the sandbox (`kernel::sandbox`).

use core::fmt::{self, Write};
use core::time::Duration;

use arrayvec::ArrayString;
use kernel::arch::*;
use kernel::debug::{Reason, Stop};
use kernel::output;
use kernel::time::spin_until;

use crate::breakpoints::{Answer, Breakpoints};
use crate::execute::execute_stopped;

const PROMPT: &str = "post-mortem> ";
/// The prompt while the machine can still continue.
const LIVE_PROMPT: &str = "stopped> ";
const OWN_COMMANDS: &str =
    "at this prompt also: continue; step; break [ADDRESS | FUNCTION]; delete [ADDRESS | FUNCTION]";
/// Maximum length of a line in bytes.
const LINE_LIMIT: usize = 256;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CONTROL_C: u8 = 0x03;
const CONTROL_U: u8 = 0x15;

/// Time between two polls of the console.
const POLL: Duration = Duration::from_micros(20);

/// A writer straight to the console.
struct Direct;

impl Write for Direct {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        output::print(format_args!("{text}"));
        Ok(())
    }
}

/// Reads lines and runs commands until `continue` or `step`, which are refused after a crash. gdb
/// can attach meanwhile.
pub fn run(stop: &mut Stop) {
    let Some(mut breakpoints) = Breakpoints::begin(stop) else { return };
    let prompt = if stop.has_crashed() { PROMPT } else { LIVE_PROMPT };
    match stop.reason {
        Reason::Breakpoint | Reason::Stepped => breakpoints.tell(stop),
        Reason::Fault { .. } if !stop.has_crashed() => breakpoints.tell(stop),
        _ if !stop.has_crashed() => {
            kernel::println!("All CPUs are stopped. `help` lists what works now, `continue` goes on.");
        }
        _ => kernel::println!("The kernel has crashed. `help` lists what works now, `poweroff` and `reboot` among it."),
    }
    let mut line = ArrayString::<LINE_LIMIT>::new();
    output::print(format_args!("{prompt}"));
    loop {
        if stop.attend_debugger() {
            breakpoints.forget();
            kernel::println!("\ngdb was here");
            output::print(format_args!("{prompt}{line}"));
        }
        let Some(byte) = ConsoleDevice::read() else {
            // Polling without a pause would keep an emulated device from receiving its input.
            spin_until(POLL, || false);
            continue;
        };
        match byte {
            b'\r' | b'\n' => {
                kernel::println!("");
                match breakpoints.execute(&line, stop, &mut Direct) {
                    Answer::GoOn => return,
                    Answer::Stay => {}
                    // SAFETY: this CPU is the host of a stop: all other CPUs are stopped, and
                    // interrupts are off.
                    Answer::Other => unsafe {
                        execute_stopped(&line, &mut Direct);
                    },
                }
                if line.trim() == "help" && !stop.has_crashed() {
                    kernel::println!("{OWN_COMMANDS}");
                }
                line.clear();
                output::print(format_args!("{prompt}"));
            }
            BACKSPACE | DELETE => {
                if line.pop().is_some() {
                    output::write_bytes(b"\x08 \x08");
                }
            }
            CONTROL_C | CONTROL_U => {
                line.clear();
                output::print(format_args!("\n{prompt}"));
            }
            // A character that does not fit the line is not echoed either.
            b' '..=b'~' if line.try_push(char::from(byte)).is_ok() => output::write_bytes(&[byte]),
            _ => {}
        }
    }
}
