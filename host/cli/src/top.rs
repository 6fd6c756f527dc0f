//! `aero top`: shows a live view of a running kernel, over its telemetry line.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use wire::snapshot::{self, Snapshot};
use wire::telemetry::{self, Answer, FRAME_END, Request};

use machine::files::telemetry_directory;
use machine::status;

use crate::top_view::{self, View};

/// Options of `aero top`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The machine's socket; without, that of the machine that was booted last with --telemetry
    socket: Option<PathBuf>,
    #[command(flatten)]
    looks: Looks,
}

/// How often to look, and what to do then.
#[derive(clap::Args, Clone, Debug)]
pub struct Looks {
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    every: f64,
    /// Print two looks' difference as text, and end
    #[arg(long)]
    once: bool,
}

/// Time limit for an answer of the kernel.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for the kernel's first answer to a hello, which includes its boot.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two hellos.
const HELLO_PAUSE: Duration = Duration::from_millis(500);

/// Returns the socket of the running machine that was booted last.
fn newest_socket() -> Result<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(telemetry_directory()).into_iter().flatten().flatten().collect();
    entries.sort_by_key(|entry| entry.metadata().and_then(|file| file.modified()).ok());
    // An `aero` that was killed leaves its socket behind, but connecting to it fails.
    let mut running = entries.iter().rev().map(fs::DirEntry::path).filter(|path| UnixStream::connect(path).is_ok());
    running.next().context("no running machine was booted with --telemetry")
}

/// The connection to a kernel.
pub struct Line {
    stream: UnixStream,
    frame: Vec<u8>,
}

impl Line {
    /// Connects to a socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no machine listens at {}; boot with --telemetry", socket.display()))?;
        Ok(Self { stream, frame: Vec::new() })
    }

    fn send(&mut self, request: Request) -> Result<()> {
        // The leading end marker separates the request from anything sent on the line before.
        let mut bytes = vec![FRAME_END];
        bytes.extend(telemetry::encode(&request).map_err(|error| anyhow!("{error}"))?);
        self.stream.write_all(&bytes).context("the machine has ended")
    }

    /// Returns the next answer that can be decoded, or `None` if none arrives within the limit.
    fn receive(&mut self, limit: Duration) -> Result<Option<Answer>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 4096];
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the machine has ended"),
                Ok(length) => length,
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("the machine cannot be read from"),
            };
            self.frame.extend(&buffer[..length]);
            while let Some(end) = self.frame.iter().position(|&byte| byte == FRAME_END) {
                let mut frame: Vec<u8> = self.frame.drain(..=end).collect();
                if let Some(version) = foreign_version(&mut frame.clone()) {
                    bail!("{version}");
                }
                if let Ok(answer) = telemetry::decode::<Answer>(&mut frame) {
                    return Ok(Some(answer));
                }
            }
        }
    }

    /// Makes a request and returns its answer.
    pub fn ask(&mut self, request: Request) -> Result<Answer> {
        self.send(request)?;
        let answer = self.receive(ANSWER_LIMIT)?;
        answer.with_context(|| {
            format!("the kernel does not answer within {} s; it may have crashed", ANSWER_LIMIT.as_secs())
        })
    }

    /// Says hello until the kernel answers, because it may still be booting.
    pub fn hello(&mut self) -> Result<Snapshot> {
        let deadline = Instant::now() + HELLO_LIMIT;
        while Instant::now() < deadline {
            self.send(Request::Hello(telemetry::MAGIC))?;
            if let Some(Answer::Hello(_, _, _, machine)) = self.receive(HELLO_PAUSE)? {
                return Ok(Snapshot { machine, ..Snapshot::default() });
            }
        }
        bail!("the kernel does not say hello within {} s: it has no telemetry, or has crashed", HELLO_LIMIT.as_secs())
    }
}

/// Returns an error message if a frame is a hello of another version. A hello begins with the same
/// fields in all versions.
fn foreign_version(frame: &mut [u8]) -> Option<String> {
    let (variant, magic, version, snapshot_version): (u32, u32, u32, u32) = telemetry::decode(frame).ok()?;
    let is_hello = variant == 0 && magic == telemetry::MAGIC;
    let ours = (telemetry::VERSION, snapshot::VERSION);
    (is_hello && (version, snapshot_version) != ours).then(|| {
        format!(
            "the kernel's telemetry is version {version}.{snapshot_version}, this aero's is {}.{}: build both from the same source",
            ours.0, ours.1
        )
    })
}

/// Runs `aero top`.
pub fn run(options: &Options) -> Result<u8> {
    let socket = match &options.socket {
        Some(socket) => socket.clone(),
        None => newest_socket()?,
    };
    look_at(&socket, &options.looks)
}

/// Shows the kernel whose telemetry line is at a socket.
pub fn look_at(socket: &Path, options: &Looks) -> Result<u8> {
    ensure!((0.05..=3600.0).contains(&options.every), "--every is from 0.05 to 3600 seconds");
    let mut line = Line::connect(socket)?;
    let machine = line.hello()?;
    let mut view = View { before: machine.clone(), now: machine, latencies: Vec::new(), tracing: false };
    let pause = Duration::from_secs_f64(options.every);
    look(&mut line, &mut view)?;
    if options.once {
        std::thread::sleep(pause);
        look(&mut line, &mut view)?;
        print!("{}", top_view::text(&view));
        return Ok(status::DONE);
    }
    let mut terminal =
        ratatui::try_init().context("this is no terminal that can be drawn on; --once prints the state once")?;
    let ended = interact(&mut terminal, &mut line, &mut view, pause);
    ratatui::restore();
    ended.map(|()| status::DONE)
}

fn look(line: &mut Line, view: &mut View) -> Result<()> {
    match line.ask(Request::Look)? {
        Answer::Changes(changes) => view.take(changes),
        other => bail!("the kernel gives the unexpected answer {other:?}"),
    }
    Ok(())
}

fn interact(terminal: &mut ratatui::DefaultTerminal, line: &mut Line, view: &mut View, pause: Duration) -> Result<()> {
    let mut next = Instant::now() + pause;
    loop {
        terminal.draw(|frame| top_view::draw(frame, view))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            // A change of the terminal's size is also an event; it needs no handling, because every
            // round of the loop draws.
            if let Event::Key(key) = event::read()? {
                let is_control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    _ if is_control_c => return Ok(()),
                    KeyCode::Char('t') => match line.ask(Request::Trace(!view.tracing))? {
                        Answer::Done => view.tracing = !view.tracing,
                        Answer::Refused(reason) => bail!("the kernel does not trace: {reason}"),
                        other => bail!("the kernel answers {other:?}"),
                    },
                    _ => {}
                }
            }
        }
        if Instant::now() >= next {
            look(line, view)?;
            next = Instant::now() + pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told() {
        let hello =
            |version: u32| telemetry::encode(&(0u32, telemetry::MAGIC, version, snapshot::VERSION, 5u8)).unwrap();
        assert_eq!(foreign_version(&mut hello(telemetry::VERSION)), None);
        let told = foreign_version(&mut hello(telemetry::VERSION + 1)).expect("it is another one");
        assert!(told.contains(&format!("version {}.", telemetry::VERSION + 1)), "{told}");
        assert_eq!(foreign_version(&mut [3, 4, 0]), None);
    }
}
