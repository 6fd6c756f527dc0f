//! `aero boot`: the kernel in QEMU, with a person at its prompt or with commands to run.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use wire::console::{CANCEL, CONTROL_C, END_OF_TEXT, NEGATIVE_ACKNOWLEDGE, PROMPT, START_OF_TEXT};

use crate::card::Card;
use crate::hrt::{self, Isa};
use crate::image::{Image, Which};
use crate::qemu::{self, Accelerator};
use crate::running::Running;
use crate::source_lines::SourceLines;
use crate::status;
use crate::terminal::RawTerminal;
use crate::trace_file;

/// Begins a command to `aero` itself at the terminal.
const ESCAPE_KEY: u8 = 0x01;
/// Deadline of `--run` unless told otherwise.
const DEFAULT_RUN_LIMIT: Duration = Duration::from_secs(60);
/// How often a machine is looked at that says nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a machine may take to end after input ended.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Options of `aero boot`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Number of CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Memory, as QEMU takes it
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    pub mem: String,
    /// What executes guest instructions
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Accelerator,
    /// Boot from a CD with GRUB (BIOS, Multiboot2) instead of QEMU's own loader (PVH)
    #[arg(long)]
    pub iso: bool,
    /// Run commands at the kernel's prompt, print only their output, and end
    #[arg(long, value_name = "CMD; CMD", value_parser = script)]
    pub run: Option<String>,
    /// Write how it ended as JSON: `ended` is finished, crashed, timed-out, ended or failed; `status` that of the commands
    #[arg(long, value_name = "FILE", requires = "run")]
    pub json: Option<PathBuf>,
    /// Seconds after which the machine is ended; for --run 60 unless given
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Open a window with a screen and a keyboard, with a session of its own
    #[arg(long)]
    pub display: bool,
    /// Let `aero top` watch, at a socket (target/telemetry/... if none is given)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1)]
    pub telemetry: Option<Option<PathBuf>>,
    /// Let a debugger attach, at a socket (target/gdb/... if none is given)
    #[arg(long, value_name = "SOCKET", num_args = 0..=1)]
    pub gdb: Option<Option<PathBuf>>,
    /// Words for the kernel's command line (`help boot` at the prompt explains them)
    #[arg(long, value_name = "ARGS", default_value = "")]
    pub append: String,
    /// Put the program of a directory into the image, to be started by `run NAME`. May be given several times
    #[arg(long, value_name = "DIR")]
    pub hrt: Vec<PathBuf>,
    /// The instructions programs may use
    #[arg(long, value_enum, default_value = "x86-64")]
    pub isa: Isa,
    /// Trace from the start, and write a file for Perfetto when the machine ends by itself
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write the trace while the machine runs, so that it loses nothing as long as writing keeps up
    #[arg(long, requires = "trace")]
    pub stream: bool,
    /// Count instructions instead of time: a nanosecond each, the same in every run
    #[arg(long)]
    pub icount: bool,
    /// A Knights Corner card instead of a PC: `aero knc` sets it.
    #[arg(skip)]
    pub card: bool,
    /// Further arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<String>,
}

/// Commands for `--run`, which the kernel gets in double quotes on its command line: those in them become single ones.
fn script(text: &str) -> Result<String, String> {
    match text.contains('"') && text.contains('\'') {
        true => Err("quotes in commands are all single or all double ones".into()),
        false => Ok(text.replace('"', "'")),
    }
}

impl Options {
    /// A machine for commands, as nobody asked for another, that may take so long.
    pub fn for_commands(limit: Duration) -> Self {
        Self {
            cpus: 2,
            mem: "512M".into(),
            accel: Accelerator::Tcg,
            iso: false,
            run: Some(String::new()),
            json: None,
            timeout: Some(limit.as_secs()),
            display: false,
            telemetry: None,
            gdb: None,
            append: String::new(),
            hrt: Vec::new(),
            isa: Isa::default(),
            trace: None,
            stream: false,
            icount: false,
            card: false,
            qemu: Vec::new(),
        }
    }
}

/// Runs `aero boot`.
pub fn run(options: &Options) -> Result<u8> {
    match hrt::build(Which::X64, &options.hrt, options.isa) {
        Ok(image) => run_image(&image, options),
        Err(error) => summarise(options, Err(error)).map(|outcome| outcome.status),
    }
}

/// Boots an image, for a person or for commands.
pub fn run_image(image: &Image, options: &Options) -> Result<u8> {
    match &options.run {
        Some(script) => {
            let outcome = run_script(image, options, script, &mut std::io::stdout());
            let outcome = summarise(options, outcome)?;
            if !outcome.report.is_empty() {
                eprint!("{}", outcome.report);
            }
            finish_trace(options, outcome.status)
        }
        None => interact(image, options).and_then(|status| finish_trace(options, status)),
    }
}

/// Makes the trace what was asked for; the status stays the machine's.
fn finish_trace(options: &Options, status: u8) -> Result<u8> {
    if let Some(path) = &options.trace {
        trace_file::convert(path, options.stream)?;
    }
    Ok(status)
}

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
    end: End,
    reason: String,
    crash_file: Option<PathBuf>,
}

/// How, in a word for programs.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum End {
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

impl Outcome {
    /// The commands finished with a status.
    pub fn finished(status: u8) -> Self {
        Self { status, report: String::new(), failure: None }
    }

    /// They did not.
    pub fn failed(report: String, timed_out: bool, reason: String) -> Self {
        let end = if timed_out { End::TimedOut } else { End::Ended };
        Self { status: status::CRASHED, report, failure: Some(Failure { end, reason, crash_file: None }) }
    }
}

/// What `--json` writes.
#[derive(Serialize)]
struct Summary<'a> {
    ended: End,
    /// The commands' status; that of a program, if it was the worst.
    status: Option<u8>,
    reason: Option<String>,
    crash_file: Option<&'a Path>,
}

/// Writes how it ended where `--json` says, and passes it on.
pub fn summarise(options: &Options, result: Result<Outcome>) -> Result<Outcome> {
    let Some(path) = &options.json else { return result };
    let summary = match &result {
        Ok(Outcome { failure: Some(failure), .. }) => Summary {
            ended: failure.end,
            status: None,
            reason: Some(failure.reason.clone()),
            crash_file: failure.crash_file.as_deref(),
        },
        Ok(outcome) => Summary { ended: End::Finished, status: Some(outcome.status), reason: None, crash_file: None },
        Err(error) => {
            Summary { ended: End::Failed, status: None, reason: Some(format!("{error:#}")), crash_file: None }
        }
    };
    let text = serde_json::to_string(&summary)? + "\n";
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    result
}

/// Boots, runs the commands, and writes their output as it comes.
pub fn run_script(image: &Image, options: &Options, script: &str, out: &mut dyn Write) -> Result<Outcome> {
    let line = format!("panic=exit {} run=\"{script}\"", options.append);
    let mut machine = Running::start_either(image, options, &line)?;
    let limit = options.timeout.map_or(DEFAULT_RUN_LIMIT, Duration::from_secs);
    let deadline = Instant::now() + limit;
    let mut lines = SourceLines::new(image);
    let mut filter = Filter::default();
    let timed_out = loop {
        if let Some(note) = machine.trace_note() {
            eprintln!("aero: {note}");
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match machine.output.recv_timeout(left.min(LOOK_INTERVAL)) {
            Ok(bytes) => {
                out.write_all(&filter.take(&lines.add(&bytes)))?;
                out.flush()?;
                if let Some(reason) = filter.refusal() {
                    bail!("the machine cannot run the kernel. {reason}");
                }
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => break true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    if timed_out {
        let said = machine.interrogate();
        filter.take(&lines.add(&said));
    }
    let code = machine.end()?;
    if !timed_out && filter.has_seen_nothing() {
        check_start(&machine, code)?;
    }
    let reported = filter.status();
    if let (Some(status), false) = (reported, timed_out) {
        return Ok(Outcome::finished(status));
    }
    let post_code = machine.card.as_ref().map(Card::post_code).transpose()?;
    let has_crashed = filter.has_crashed() || code.and_then(qemu::kernel_status).is_some();
    let reason = match timed_out {
        true => {
            let shows =
                post_code.map_or_else(String::new, |code| format!(" (the card's POST code is \"{}\")", code.text()));
            let limit = limit.as_secs();
            format!("the kernel did not finish `{script}` within {limit} s and was asked where it is{shows}")
        }
        false if has_crashed => "the kernel crashed".into(),
        false => match post_code {
            Some(post_code) => post_code.end(),
            None => format!("QEMU ended with {code:?} before the kernel finished"),
        },
    };
    let console = String::from_utf8_lossy(&filter.other).replace(['\r', '\u{2}', '\u{3}', '\u{18}'], "");
    let note = machine.crash_note().map_or_else(String::new, |note| format!("aero: {note}\n"));
    let report = format!("{console}\naero: {reason}; its console is above\n{note}");
    let mut outcome = Outcome::failed(report, timed_out, reason);
    if let Some(failure) = &mut outcome.failure {
        failure.crash_file = machine.crash_file().map(Path::to_path_buf);
        if has_crashed && !timed_out {
            failure.end = End::Crashed;
        }
    }
    Ok(outcome)
}

/// An error if a machine that has said nothing was never there: then it is QEMU that failed, not the kernel.
fn check_start(machine: &Running, code: Option<i32>) -> Result<()> {
    let has_started = machine.card.is_some() || matches!(code, Some(0) | None);
    ensure!(
        has_started,
        "QEMU did not start the machine and ended with status {}; what it said is above. It is about the machine's options: `--mem`, \
         `--trace`, `--iso`, and what follows `--`",
        code.unwrap_or(-1)
    );
    Ok(())
}

/// Tells the output of commands from the rest of what a machine sends.
#[derive(Default)]
pub struct Filter {
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
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
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
    pub fn status(&self) -> Option<u8> {
        (self.state == State::After || self.state == State::Status).then(|| self.digits.parse().ok()).flatten()
    }
}

/// A person, or a pipe, at the prompt.
fn interact(image: &Image, options: &Options) -> Result<u8> {
    let mut machine = Running::start_either(image, options, &options.append)?;
    let terminal = RawTerminal::enter();
    if terminal.is_interactive() {
        eprint!("aero: booting; Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends Ctrl-A\r\n");
    }
    if let Some(line) = &machine.gdb {
        let (debug, socket) = (image.debug.display(), line.socket.display());
        eprint!("aero: `gdb {debug} -ex 'target remote {socket}'` attaches to it\r\n");
    }
    let (ended_by_person, ended_input) = mpsc::channel();
    let keys = read_keys(terminal.is_interactive(), ended_by_person);
    // A serial port loses what comes before the kernel listens.
    let mut listens = Some(write_keys(machine.input.take().context("QEMU has no input")?, keys));
    let mut seen = Vec::new();
    let mut deadline = options.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut lines = SourceLines::new(image);
    let mut out = std::io::stdout();
    let (mut quit, mut timed_out, mut is_silent) = (false, false, true);
    loop {
        match machine.output.recv_timeout(Duration::from_millis(20)) {
            Ok(bytes) => {
                is_silent = false;
                out.write_all(&lines.add(&bytes))?;
                out.flush()?;
                if listens.is_some() {
                    seen.extend(bytes);
                    if seen.windows(PROMPT.len()).any(|window| window == PROMPT.as_bytes()) {
                        listens.take().and_then(|listens| listens.send(()).ok());
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(note) = machine.crash_note() {
            eprint!("\raero: {note}\r\n");
        }
        if let Some(note) = machine.trace_note() {
            eprint!("\raero: {note}\r\n");
        }
        match ended_input.try_recv() {
            Ok(InputEnd::Quit) => quit = true,
            // The commands typed before are being executed; `poweroff` was added.
            Ok(InputEnd::EndOfFile) => deadline = deadline.or(Some(Instant::now() + END_LIMIT)),
            Err(_) => {}
        }
        timed_out = deadline.is_some_and(|deadline| Instant::now() > deadline);
        if quit || timed_out {
            break;
        }
    }
    let code = machine.end()?;
    drop(terminal);
    if is_silent && !quit && !timed_out {
        check_start(&machine, code)?;
    }
    ensure!(quit || !timed_out, "the machine did not end in time, and was ended; --timeout S gives it more");
    match code.and_then(qemu::kernel_status) {
        _ if quit => Ok(status::DONE),
        Some(kernel_status) => Ok(kernel_status),
        None if code == Some(0) => Ok(status::DONE),
        None => match &machine.card {
            Some(card) => {
                let post_code = card.post_code()?;
                post_code.status().with_context(|| post_code.end())
            }
            None => bail!("QEMU ended with {code:?}"),
        },
    }
}

enum InputEnd {
    /// Ctrl-A x.
    Quit,
    /// The input is not a terminal and is over.
    EndOfFile,
}

/// Reads what is typed until its end, and passes on what is the machine's.
fn read_keys(interactive: bool, ended: mpsc::Sender<InputEnd>) -> Receiver<Vec<u8>> {
    let (send, keys) = mpsc::channel();
    thread::spawn(move || {
        let mut escaped = false;
        let mut buffer = [0; 1024];
        loop {
            let length = match std::io::stdin().read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if length == 0 {
                // Ctrl-C gives up what stands on the line; with the pipe closed, nobody else could end the machine.
                let _ = send.send([&[CONTROL_C], &b"poweroff\r"[..]].concat());
                let _ = ended.send(InputEnd::EndOfFile);
                return;
            }
            let mut bytes = Vec::with_capacity(length);
            for &byte in &buffer[..length] {
                match (escaped, byte) {
                    (true, b'x' | b'X') => {
                        let _ = ended.send(InputEnd::Quit);
                        return;
                    }
                    (false, ESCAPE_KEY) if interactive => escaped = true,
                    _ => {
                        bytes.push(byte);
                        escaped = false;
                    }
                }
            }
            if send.send(bytes).is_err() {
                return;
            }
        }
    });
    keys
}

/// Sends keys to the machine, from the moment on that the returned end is told that it listens.
fn write_keys(mut to: Box<dyn Write + Send>, keys: Receiver<Vec<u8>>) -> mpsc::Sender<()> {
    let (listens, wait) = mpsc::channel();
    thread::spawn(move || {
        if wait.recv().is_err() {
            return;
        }
        for bytes in keys {
            if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    });
    listens
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
