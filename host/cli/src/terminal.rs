//! This terminal, while it belongs to the kernel: every key goes there.

use std::io::IsTerminal;
use std::os::fd::AsRawFd;

/// The terminal in raw mode; as it was before once this is dropped.
pub struct RawTerminal {
    before: Option<libc::termios>,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal.
    pub fn enter() -> Self {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Self { before: None };
        }
        // SAFETY: an all-zero termios is a valid value to be filled in.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: standard input is open and `settings` is a termios.
        if unsafe { libc::tcgetattr(input.as_raw_fd(), &raw mut settings) } != 0 {
            return Self { before: None };
        }
        let before = settings;
        // SAFETY: as above.
        unsafe {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(input.as_raw_fd(), libc::TCSANOW, &raw const settings);
        }
        Self { before: Some(before) }
    }

    /// True if there is a person.
    pub fn is_interactive(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: standard input is open and `before` came from it.
            unsafe { libc::tcsetattr(std::io::stdin().as_raw_fd(), libc::TCSANOW, &raw const before) };
        }
    }
}
