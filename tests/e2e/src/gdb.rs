//! A real gdb, driven by its prompt, on a machine whose second serial line is a socket.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

use crate::LIMIT;

const PROMPT: &str = "(gdb) ";

/// Arguments of `aero boot` that give the machine a line to gdb, at this socket.
pub fn line(socket: &Path) -> [String; 3] {
    ["--".into(), "-serial".into(), format!("unix:{},server=on,wait=off", socket.display())]
}

/// A socket's path of this test's own.
pub fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("aero-{name}-{}", std::process::id()))
}

/// The kernel's debug information.
fn symbols() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("target/kernel/x64/x86_64-unknown-none/kernel/aerokernel-x64")
}

/// A gdb.
pub struct Gdb {
    child: Child,
    output: Receiver<Vec<u8>>,
    text: String,
    all: String,
}

impl Gdb {
    /// Starts gdb and attaches it.
    pub fn attach(socket: &Path) -> Self {
        let mut child = Command::new("sh")
            // Its errors are answers too.
            .args(["-c", "exec gdb \"$@\" 2>&1", "gdb"])
            .args([
                "-nx",
                "-q",
                "-iex",
                "set pagination off",
                "-iex",
                "set confirm off",
                "-iex",
                "set style enabled off",
            ])
            .args(["-iex", "set remotetimeout 20"])
            .arg(symbols())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gdb is installed: `./aero doctor`");
        let mut from = child.stdout.take().expect("a pipe");
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut gdb = Self { child, output, text: String::new(), all: String::new() };
        gdb.wait_for(PROMPT);
        let answer = gdb.command(&format!("target remote {}", socket.display()));
        assert!(answer.contains("Remote debugging using"), "gdb does not attach: {answer}");
        gdb
    }

    /// Types a command that ends at the next stop, or at the next prompt.
    pub fn type_in(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("gdb takes commands");
        self.all.push_str(line);
        self.all.push('\n');
    }

    /// Types a command; what it said until the next prompt.
    pub fn command(&mut self, line: &str) -> String {
        self.type_in(line);
        self.wait_for(PROMPT)
    }

    /// Waits for the prompt; what came before it.
    pub fn wait_for_prompt(&mut self) -> String {
        self.wait_for(PROMPT)
    }

    /// Waits for a text; what came before it.
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
                Err(RecvTimeoutError::Timeout) => panic!("gdb: {text:?} did not appear; all of it:\n{}", self.all),
                Err(RecvTimeoutError::Disconnected) => panic!("gdb ended before {text:?}; all of it:\n{}", self.all),
            }
        }
    }

    /// What Ctrl-C at its terminal does.
    pub fn interrupt(&mut self) {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
    }

    /// Dies without a word to the kernel.
    pub fn die(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
