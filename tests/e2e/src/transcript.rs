//! A program's output as it arrives, with deadlines for what is expected in it.

use std::io::Read;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::LIMIT;

/// The output of a program, with the program's name for messages.
pub struct Transcript {
    of: &'static str,
    output: Receiver<Vec<u8>>,
    /// The output that no wait has consumed yet.
    text: String,
    /// All output, with the notes in between.
    all: String,
}

impl Transcript {
    /// Reads the output to its end on a separate thread.
    pub fn new(of: &'static str, mut from: impl Read + Send + 'static) -> Self {
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { of, output, text: String::new(), all: String::new() }
    }

    /// Returns all output so far.
    pub fn all(&self) -> &str {
        &self.all
    }

    /// Notes a typed line, to be shown when a test fails.
    pub fn note(&mut self, line: &str) {
        self.all.push_str(line);
        self.all.push('\n');
    }

    /// Waits until a text appears and returns the output before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_at_most(LIMIT, text)
    }

    /// Waits for a text no longer than `limit` and returns the output before it.
    pub fn wait_at_most(&mut self, limit: Duration, text: &str) -> String {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.text.find(text) {
                let before = self.text[..at].to_string();
                self.text.drain(..at + text.len());
                return before;
            }
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: {text:?} did not appear; all of it:\n{}", self.of, self.all)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended before {text:?}; all of it:\n{}", self.of, self.all)
                }
            }
        }
    }

    /// Waits for the end of the output.
    pub fn wait_for_end(&mut self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.receive(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => panic!("{} did not end; all of it:\n{}", self.of, self.all),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        let bytes = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let text = String::from_utf8_lossy(&bytes);
        self.text.push_str(&text);
        self.all.push_str(&text);
        Ok(())
    }
}
