//! The prompt after a crash, a report of the watchdog, or `break`: on one CPU, all others stopped, by polling the console. Nothing is
//! trusted but this code and the console's device; commands run as `kernel::sandbox` says.

use core::fmt::{self, Write};
use core::time::Duration;

use arrayvec::ArrayString;
use kernel::arch::{Architecture, Machine};
use kernel::debug::{Reason, Stop};
use kernel::output;
use kernel::time::spin_until;

use crate::breakpoints::{Answer, Breakpoints};
use crate::execute::execute_stopped;

const PROMPT: &str = "post-mortem> ";
/// While the machine can go on.
const LIVE_PROMPT: &str = "stopped> ";
const OWN_COMMANDS: &str =
    "at this prompt also: continue; step; break [ADDRESS | FUNCTION]; delete [ADDRESS | FUNCTION]";
/// Longest line, in bytes.
const LINE_LIMIT: usize = 256;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CONTROL_C: u8 = 0x03;
const CONTROL_U: u8 = 0x15;

/// Time between two looks whether something was typed.
const POLL: Duration = Duration::from_micros(20);

/// Straight to the console.
struct Direct;

impl Write for Direct {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        output::print(format_args!("{text}"));
        Ok(())
    }
}

/// Reads lines and runs commands, until `continue`, which there is unless the machine has crashed. gdb can attach meanwhile.
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
        let Some(byte) = Machine::console_read() else {
            // Looking all the time would keep an emulated device from what comes for it.
            spin_until(POLL, || false);
            continue;
        };
        match byte {
            b'\r' | b'\n' => {
                kernel::println!("");
                match breakpoints.execute(&line, stop, &mut Direct) {
                    Answer::GoOn => return,
                    Answer::Stay => {}
                    // SAFETY: all other CPUs are stopped.
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
            // What does not fit is not shown either.
            b' '..=b'~' if line.try_push(char::from(byte)).is_ok() => output::write_bytes(&[byte]),
            _ => {}
        }
    }
}
