//! A person at a terminal: `aero boot` on a pseudo-terminal, keys in, text out, with deadlines.

pub mod gdb;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest wait for something that must appear.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The `aero` program under test.
pub fn aero() -> Command {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/aero");
    let path = std::env::var_os("AERO").map_or_else(|| PathBuf::from(built), PathBuf::from);
    assert!(path.exists(), "{} is not there; run `./aero test e2e`", path.display());
    Command::new(path)
}

/// Runs `aero boot --run SCRIPT` with further options.
pub fn boot_and_run(script: &str, options: &[&str]) -> Output {
    aero().args(["boot", "--run", script]).args(options).stdin(Stdio::null()).output().expect("aero can be run")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A session at the kernel's prompt.
pub struct Session {
    child: Child,
    terminal: File,
    output: Receiver<Vec<u8>>,
    /// What came and was not waited for yet.
    text: String,
    /// All that came.
    all: String,
}

impl Session {
    /// Boots with further options and waits for the prompt.
    pub fn start(options: &[&str]) -> Self {
        Self::start_until(options, "aero> ")
    }

    /// Boots with further options and waits for a text.
    pub fn start_until(options: &[&str], text: &str) -> Self {
        let (controller, terminal) = open_terminal();
        let side = || Stdio::from(terminal.try_clone().expect("a descriptor can be duplicated"));
        let child = aero()
            .arg("boot")
            .args(options)
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("aero can be run");
        drop(terminal);
        let mut reader = controller.try_clone().expect("a descriptor can be duplicated");
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut session = Self { child, terminal: controller, output, text: String::new(), all: String::new() };
        session.wait_for(text);
        session
    }

    /// Types keys.
    pub fn keys(&mut self, bytes: impl AsRef<[u8]>) {
        // In pieces: a terminal's input buffer holds 4 KiB.
        for piece in bytes.as_ref().chunks(1024) {
            self.terminal.write_all(piece).expect("the terminal takes keys");
        }
    }

    /// Waits until a text appears; returns what came before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.text.find(text) {
                let before = self.text[..at].to_string();
                self.text.drain(..at + text.len());
                return before;
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.text.push_str(&text);
                    self.all.push_str(&text);
                }
                Err(RecvTimeoutError::Timeout) => panic!("{text:?} did not appear; all output:\n{}", self.all),
                Err(RecvTimeoutError::Disconnected) => panic!("aero ended before {text:?}; all output:\n{}", self.all),
            }
        }
    }

    /// Types a command and returns its output, up to the next prompt.
    pub fn command(&mut self, line: &str) -> String {
        self.keys(line);
        self.keys("\r");
        // The echo ends with the line's end.
        self.wait_for("\r\n");
        // The prompt ends with "erase to the end of the line".
        let output = self.wait_for("\x1b[K");
        let end = output.rfind("\raero").unwrap_or(output.len());
        output[..end].to_string()
    }

    /// Waits for aero's end and returns its exit status.
    pub fn end(&mut self) -> i32 {
        let deadline = Instant::now() + LIMIT;
        loop {
            while let Ok(bytes) = self.output.try_recv() {
                self.all.push_str(&String::from_utf8_lossy(&bytes));
            }
            if let Some(status) = self.child.try_wait().expect("aero can be waited for") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "aero did not end; all output:\n{}", self.all);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pseudo-terminal: the side we hold, and the side the program gets.
fn open_terminal() -> (File, OwnedFd) {
    let (mut controller, mut terminal) = (0, 0);
    // SAFETY: the two integers are written; the other arguments may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut controller,
            &raw mut terminal,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0, "no pseudo-terminal: {}", std::io::Error::last_os_error());
    // SAFETY: both descriptors are new and ours.
    unsafe { (File::from_raw_fd(controller), OwnedFd::from_raw_fd(terminal)) }
}
