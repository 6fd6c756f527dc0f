//! A person, or a pipe, at a machine's console.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use machine::Machine;

/// Ctrl-A, which introduces a command to `aero` itself at the terminal.
const ESCAPE_KEY: u8 = 0x01;
/// Interval at which a silent machine is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a machine may take to end after its input has ended.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Why an interactive session ended.
pub enum Stop {
    /// The machine sends no more output.
    Ended,
    /// The user quit.
    Quit,
    /// The time limit passed.
    TimedOut,
}

/// A person, or a pipe, at a machine's console.
pub struct Session<'a> {
    /// True if the input is a terminal in raw mode.
    pub is_interactive: bool,
    /// The text at which the machine begins to listen. Keys are held back until then, because a
    /// serial port loses what arrives earlier.
    pub ready: &'a str,
    /// Typed when the input, which is not a terminal, has ended.
    pub at_end_of_input: Vec<u8>,
    /// Time limit of the session.
    pub limit: Option<Duration>,
    /// Turns the machine's output into what is shown of it.
    pub show: &'a mut dyn FnMut(&[u8]) -> Vec<u8>,
}

impl Session<'_> {
    /// Forwards typed keys and the machine's output until the session ends. Also returns whether
    /// the machine has sent nothing.
    ///
    /// # Errors
    /// Fails if the machine has no input, or if output cannot be written.
    pub fn attend(self, machine: &mut dyn Machine) -> Result<(Stop, bool)> {
        let Self { is_interactive, ready, at_end_of_input, limit, show } = self;
        let (ended_by_person, ended_input) = mpsc::channel();
        let keys = read_keys(is_interactive, at_end_of_input, ended_by_person);
        let mut listens = Some(write_keys(machine.take_input().context("the machine has no input")?, keys));
        if ready.is_empty() {
            // It listens already.
            listens.take().and_then(|listens| listens.send(()).ok());
        }
        let mut seen = Vec::new();
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        let mut out = std::io::stdout();
        let mut is_silent = true;
        loop {
            match machine.output().recv_timeout(LOOK_INTERVAL) {
                Ok(bytes) => {
                    is_silent = false;
                    out.write_all(&show(&bytes))?;
                    out.flush()?;
                    if listens.is_some() {
                        seen.extend(bytes);
                        if seen.windows(ready.len()).any(|window| window == ready.as_bytes()) {
                            listens.take().and_then(|listens| listens.send(()).ok());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok((Stop::Ended, is_silent)),
            }
            for note in [machine.crash_note(), machine.loss_note()].into_iter().flatten() {
                eprint!("\raero: {note}\r\n");
            }
            match ended_input.try_recv() {
                Ok(InputEnd::Quit) => return Ok((Stop::Quit, is_silent)),
                // The commands typed before may still run.
                Ok(InputEnd::EndOfFile) => deadline = deadline.or(Some(Instant::now() + END_LIMIT)),
                Err(_) => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok((Stop::TimedOut, is_silent));
            }
        }
    }
}

enum InputEnd {
    /// Ctrl-A x.
    Quit,
    /// The input, which is not a terminal, has ended.
    EndOfFile,
}

/// Reads the input until its end and forwards the keys meant for the machine.
fn read_keys(interactive: bool, at_end: Vec<u8>, ended: mpsc::Sender<InputEnd>) -> Receiver<Vec<u8>> {
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
                let _ = send.send(at_end);
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

/// Forwards keys to the machine, starting when the returned sender signals that the kernel listens.
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
