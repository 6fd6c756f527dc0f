//! A user at a terminal: runs `aero boot` on a pseudo-terminal, types keys, and waits for text with
//! deadlines.

pub mod gdb;
pub mod ros;
pub mod screen;
pub mod transcript;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use transcript::Transcript;

/// The longest wait for an expected text.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The longest wait for the build before a machine starts. In a clean clone, the first program also
/// builds the libraries.
pub const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// Returns the `aero` program under test.
pub fn program() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/aero");
    let path = std::env::var_os("AERO").map_or_else(|| PathBuf::from(built), PathBuf::from);
    assert!(path.exists(), "{} is not there; run `./aero test e2e`", path.display());
    path
}

/// Returns a command for the `aero` program under test.
pub fn aero() -> Command {
    Command::new(program())
}

/// Runs `aero boot --run SCRIPT` with further options.
pub fn boot_and_run(script: &str, options: &[&str]) -> Output {
    aero().args(["boot", "--run", script]).args(options).stdin(Stdio::null()).output().expect("aero can be run")
}

/// Returns the standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the standard error as text.
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

    /// Returns all output so far.
    pub fn all(&self) -> &str {
        self.output.all()
    }

    /// Changes the terminal's size.
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
        // In pieces, because a terminal's input buffer holds 4 KiB.
        for piece in bytes.as_ref().chunks(1024) {
            self.terminal.write_all(piece).expect("the terminal takes keys");
        }
    }

    /// Waits until a text appears and returns the output before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.output.wait_for(text)
    }

    /// Types a command and returns its output, up to the next prompt.
    pub fn command(&mut self, line: &str) -> String {
        self.keys(line);
        self.keys("\r");
        // A new prompt ends with "erase to the end of the line"; one that other output has pushed
        // down does not.
        let output = self.wait_for("> \x1b[K");
        let end = output.rfind("\raero").unwrap_or(output.len());
        // Skip the echo and everything before it.
        let begin = output.find(&format!("{line}\r\n")).map_or(0, |at| at + line.len() + 2);
        output[begin..end].to_string()
    }

    /// Waits until aero ends and returns its exit status.
    pub fn end(&mut self) -> i32 {
        // The transcript ends when aero ends, because that closes aero's side of the terminal.
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

/// Sets the size of a pseudo-terminal.
fn set_size(terminal: &File, columns: u16, rows: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ only reads a `winsize`, and `size` is one that outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(result, 0, "the terminal takes no size: {}", std::io::Error::last_os_error());
}

/// Opens a pseudo-terminal. Returns the controlling side and the side for the program.
fn open_terminal() -> (File, OwnedFd) {
    let (mut controller, mut terminal) = (0, 0);
    // SAFETY: `openpty` writes the two descriptors to live integers and accepts null for the other
    // arguments.
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
    // SAFETY: `openpty` succeeded, so both descriptors are open and nothing else owns them.
    unsafe { (File::from_raw_fd(controller), OwnedFd::from_raw_fd(terminal)) }
}
