//! A person at a terminal: `aero boot` on a pseudo-terminal, keys in, text out, with deadlines.

pub mod gdb;
pub mod screen;
pub mod transcript;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use transcript::Transcript;

/// Longest wait for something that must appear.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for what is built before a machine starts: the first program of a clean clone brings libraries with it.
pub const BUILD_LIMIT: Duration = Duration::from_secs(600);

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
    output: Transcript,
}

impl Session {
    /// Boots with further options and waits for the prompt.
    pub fn start(options: &[&str]) -> Self {
        Self::start_until(options, "aero> ")
    }

    /// Boots with further options and waits for a text.
    pub fn start_until(options: &[&str], text: &str) -> Self {
        let arguments: Vec<&str> = ["boot"].iter().chain(options).copied().collect();
        let mut session = Self::spawn(&arguments);
        session.output.wait_at_most(BUILD_LIMIT, "aero: booting");
        session.wait_for(text);
        session
    }

    /// All that came so far.
    pub fn all(&self) -> &str {
        self.output.all()
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.terminal, columns, rows);
    }

    /// Runs `aero` with these arguments and waits for a text.
    pub fn start_command(arguments: &[&str], text: &str) -> Self {
        let mut session = Self::spawn(arguments);
        session.wait_for(text);
        session
    }

    fn spawn(arguments: &[&str]) -> Self {
        let (controller, terminal) = open_terminal();
        let side = || Stdio::from(terminal.try_clone().expect("a descriptor can be duplicated"));
        set_size(&controller, 100, 40);
        let child =
            aero().args(arguments).stdin(side()).stdout(side()).stderr(side()).spawn().expect("aero can be run");
        drop(terminal);
        let reader = controller.try_clone().expect("a descriptor can be duplicated");
        Self { child, terminal: controller, output: Transcript::new("aero", reader) }
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
        self.output.wait_for(text)
    }

    /// Types a command and returns its output, up to the next prompt.
    pub fn command(&mut self, line: &str) -> String {
        self.keys(line);
        self.keys("\r");
        // A new prompt ends with "erase to the end of the line"; one that other output moved down does not.
        let output = self.wait_for("> \x1b[K");
        let end = output.rfind("\raero").unwrap_or(output.len());
        // The echo, and what stands before it.
        let begin = output.find(&format!("{line}\r\n")).map_or(0, |at| at + line.len() + 2);
        output[begin..end].to_string()
    }

    /// Waits for aero's end and returns its exit status.
    pub fn end(&mut self) -> i32 {
        // Its side of the terminal is closed when it ends.
        self.output.wait_for_end();
        self.child.wait().expect("aero can be waited for").code().unwrap_or(-1)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pseudo-terminal: the side we hold, and the side the program gets.
fn set_size(terminal: &File, columns: u16, rows: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads a size of this type.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(result, 0, "the terminal takes no size: {}", std::io::Error::last_os_error());
}

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
