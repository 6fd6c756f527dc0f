//! Runs commands at a kernel's prompt on any machine, and reports their output and how they ended.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use build::Image;
use serde::Serialize;
use wire::command_line::{PANIC, RUN};
use wire::console::{CANCEL, END_OF_TEXT, NEGATIVE_ACKNOWLEDGE, START_OF_TEXT};

use crate::machine::Machine;
use crate::settings::Settings;
use crate::source_lines::SourceLines;
use crate::status;

/// Interval at which a silent machine is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How a machine with commands to run ended.
pub struct Outcome {
    /// The exit status for `aero`.
    pub status: u8,
    /// The report for the user, empty if all went well.
    pub report: String,
    /// Why the commands did not finish, if they did not.
    pub failure: Option<Failure>,
}

/// Why a machine's commands did not finish.
pub struct Failure {
    /// The kind of failure.
    pub ended: Ended,
    /// The reason, as a sentence.
    pub reason: String,
    /// The file with the crashed kernel's state, if there is one.
    pub crash_file: Option<PathBuf>,
}

/// How commands ended, as a word in machine-readable output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The commands finished.
    Finished,
    /// The kernel crashed.
    Crashed,
    /// The commands did not finish in time.
    TimedOut,
    /// The machine ended before the commands did.
    Ended,
    /// `aero` itself failed: no machine started, or `aero` could not follow it to its end.
    Failed,
}

/// Boots an image, runs the commands of a script, and writes their output as it comes.
///
/// # Errors
/// Fails if [`crate::start`] fails, if output cannot be written, or if the kernel reports that it
/// cannot run on the machine.
pub fn run(image: &Image, settings: &Settings, script: &str, out: &mut dyn Write) -> Result<Outcome> {
    let words = format!("{} {} {}", PANIC.with("exit"), settings.append, RUN.with(script));
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
    // The script may have switched the machine off, which is not a failure.
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

/// Processes a machine's output.
struct Listener {
    lines: SourceLines,
    filter: Filter,
}

impl Listener {
    /// Writes the commands' output until the machine sends no more. Returns false if the time limit
    /// passes first.
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

    /// Asks the kernel where its CPUs are. Returns true if the machine can ask.
    fn interrogate(&mut self, machine: &mut dyn Machine) -> bool {
        let said = machine.interrogate();
        if let Some(said) = &said {
            self.filter.take(&self.lines.add(said));
        }
        said.is_some()
    }
}

/// Separates the commands' output from everything else a machine sends.
#[derive(Default)]
pub(crate) struct Filter {
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
    /// Returns the part of the machine's next bytes that is output of commands.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
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
                // Already written, so it does not go into the report again.
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

    /// Returns why the kernel cannot run, once it has said so in a whole line.
    fn refusal(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.other);
        let said = text.trim_start_matches(|character: char| character.is_control());
        (self.state == State::Refused && said.contains('\n')).then(|| said.trim().into())
    }

    /// Returns true if the machine has sent nothing.
    fn has_seen_nothing(&self) -> bool {
        self.other.is_empty() && self.state == State::Before
    }

    /// Returns true once the exit status has arrived whole.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::After
    }

    /// Returns everything that is no output of commands, as text.
    pub(crate) fn other(&self) -> String {
        String::from_utf8_lossy(&self.other).into_owned()
    }

    /// Returns true if a crash report has begun.
    fn has_crashed(&self) -> bool {
        self.state == State::Crashed
    }

    /// Returns the commands' exit status, once it has arrived.
    pub(crate) fn status(&self) -> Option<u8> {
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
