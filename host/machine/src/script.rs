//! Commands at a kernel's prompt, on any machine: their output, and how they ended.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use build::Image;
use serde::Serialize;
use wire::console::{CANCEL, END_OF_TEXT, NEGATIVE_ACKNOWLEDGE, START_OF_TEXT};

use crate::machine::Machine;
use crate::settings::Settings;
use crate::source_lines::SourceLines;
use crate::status;

/// How often a machine is looked at that says nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How a machine with commands to run ended.
pub struct Outcome {
    /// For `aero` to exit with.
    pub status: u8,
    /// What to tell the person, if it did not end well.
    pub report: String,
    /// Why the commands did not finish, if they did not.
    pub failure: Option<Failure>,
}

/// Why a machine's commands did not finish.
pub struct Failure {
    /// In a word.
    pub ended: Ended,
    /// In a sentence.
    pub reason: String,
    /// Where the kernel has left its state, if it has.
    pub crash_file: Option<PathBuf>,
}

/// How commands ended, in a word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The commands finished.
    Finished,
    /// The kernel crashed.
    Crashed,
    /// They did not finish in time.
    TimedOut,
    /// The machine was gone before.
    Ended,
    /// `aero` failed: there was no machine, or not until the end.
    Failed,
}

/// Boots an image, runs the commands of a script, and writes their output as it comes.
///
/// # Errors
/// What [`crate::start`] refuses, output that cannot be written, and a machine on which the kernel cannot run.
pub fn run(image: &Image, settings: &Settings, script: &str, out: &mut dyn Write) -> Result<Outcome> {
    let words = format!("panic=exit {} run=\"{script}\"", settings.append);
    let mut machine = crate::start(image, settings, &words)?;
    let mut listener = Listener { lines: SourceLines::new(image), filter: Filter::default() };
    let timed_out = !listener.follow(&mut *machine, settings.limit, out)?;
    let answered = timed_out && listener.interrogate(&mut *machine);
    let end = machine.end()?;
    let filter = listener.filter;
    if let (Some(refusal), false, true) = (&end.refusal, timed_out, filter.has_seen_nothing()) {
        bail!("{refusal}");
    }
    let finished = filter.status();
    let has_crashed = filter.has_crashed() || (finished.is_none() && end.status == Some(status::CRASHED));
    // A command of the script may have been to switch the machine off.
    if let (Some(status), false, false) = (finished.or(end.status), timed_out, has_crashed) {
        return Ok(Outcome { status, report: String::new(), failure: None });
    }
    let (ended, reason) = match (timed_out, has_crashed) {
        (true, _) => (Ended::TimedOut, not_finished(script, settings.limit, answered, machine.shows())),
        (false, true) => (Ended::Crashed, "the kernel crashed".into()),
        (false, false) => (Ended::Ended, end.how),
    };
    Ok(failed(&mut *machine, &filter, ended, reason))
}

fn not_finished(script: &str, limit: Duration, was_asked: bool, shows: Option<String>) -> String {
    let asked = if was_asked { " and was asked where it is" } else { "" };
    let shows = shows.map_or_else(String::new, |shows| format!(" ({shows})"));
    format!("the kernel did not finish `{script}` within {} s{asked}{shows}", limit.as_secs())
}

fn failed(machine: &mut dyn Machine, filter: &Filter, ended: Ended, reason: String) -> Outcome {
    let console = String::from_utf8_lossy(&filter.other).replace(['\r', '\u{2}', '\u{3}', '\u{18}'], "");
    let note = machine.crash_note().map_or_else(String::new, |note| format!("aero: {note}\n"));
    let report = format!("{console}\naero: {reason}; its console is above\n{note}");
    let crash_file = machine.crash_file().map(Path::to_path_buf);
    Outcome { status: status::CRASHED, report, failure: Some(Failure { ended, reason, crash_file }) }
}

/// What hears a machine.
struct Listener {
    lines: SourceLines,
    filter: Filter,
}

impl Listener {
    /// Writes the commands' output until the machine says no more; false if that takes too long.
    fn follow(&mut self, machine: &mut dyn Machine, limit: Duration, out: &mut dyn Write) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(note) = machine.loss_note() {
                eprintln!("aero: {note}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match machine.output().recv_timeout(left.min(LOOK_INTERVAL)) {
                Ok(bytes) => {
                    out.write_all(&self.filter.take(&self.lines.add(&bytes)))?;
                    out.flush()?;
                    if let Some(reason) = self.filter.refusal() {
                        bail!("the machine cannot run the kernel. {reason}");
                    }
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            }
        }
    }

    /// Asks the kernel where it is; true if it can be asked.
    fn interrogate(&mut self, machine: &mut dyn Machine) -> bool {
        let said = machine.interrogate();
        if let Some(said) = &said {
            self.filter.take(&self.lines.add(said));
        }
        said.is_some()
    }
}

/// Tells the output of commands from the rest of what a machine sends.
#[derive(Default)]
struct Filter {
    state: State,
    other: Vec<u8>,
    digits: String,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Before,
    Inside,
    Status,
    After,
    /// A crash report follows.
    Crashed,
    /// A line follows that says why the kernel cannot run.
    Refused,
}

impl Filter {
    /// What is output of commands in the machine's next bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut inside = Vec::new();
        for &byte in bytes {
            match (&self.state, byte) {
                (State::Before, NEGATIVE_ACKNOWLEDGE) => {
                    self.state = State::Refused;
                    self.other.clear();
                }
                (State::Before, START_OF_TEXT) => self.state = State::Inside,
                (State::Inside, END_OF_TEXT) => self.state = State::Status,
                (State::Inside, CANCEL) => self.state = State::Crashed,
                (State::Inside, b'\r') => {}
                // It is printed, and not again with the rest.
                (State::Inside, _) => {
                    inside.push(byte);
                    continue;
                }
                (State::Status, b'0'..=b'9') => self.digits.push(char::from(byte)),
                (State::Status, _) => self.state = State::After,
                _ => {}
            }
            self.other.push(byte);
        }
        inside
    }

    /// Why the kernel cannot run, once it has said so.
    fn refusal(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.other);
        let said = text.trim_start_matches(|character: char| character.is_control());
        (self.state == State::Refused && said.contains('\n')).then(|| said.trim().into())
    }

    /// True if the machine has sent nothing.
    fn has_seen_nothing(&self) -> bool {
        self.other.is_empty() && self.state == State::Before
    }

    /// True if a crash report has begun.
    fn has_crashed(&self) -> bool {
        self.state == State::Crashed
    }

    /// The commands' exit status, once it has come.
    fn status(&self) -> Option<u8> {
        (self.state == State::After || self.state == State::Status).then(|| self.digits.parse().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_commands_output_passes() {
        let mut filter = Filter::default();
        let mut out = filter.take(b"boot log\r\n\x02first\r");
        out.extend(filter.take(b"\nsecond\r\n\x03"));
        out.extend(filter.take(b"1\r\nafterwards"));
        assert_eq!(out, b"first\nsecond\n");
        assert_eq!(filter.status(), Some(1));
    }

    #[test]
    fn a_refusal_is_known_when_its_line_is_over() {
        let mut filter = Filter::default();
        filter.take(b"A\x15\r\nAerokernel: not ");
        assert_eq!(filter.refusal(), None);
        filter.take(b"here\r\n");
        assert_eq!(filter.refusal().as_deref(), Some("Aerokernel: not here"));
    }

    #[test]
    fn a_crash_report_is_not_output() {
        let mut filter = Filter::default();
        assert_eq!(filter.take(b"\x02out\r\n\x18\r\n*** report"), b"out\n");
        assert_eq!(filter.status(), None);
    }

    #[test]
    fn without_the_end_there_is_no_status() {
        let mut filter = Filter::default();
        filter.take(b"boot log\r\n\x02first");
        assert_eq!(filter.status(), None);
    }
}
