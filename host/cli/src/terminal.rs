//! The user's terminal in raw mode, so that every key reaches the kernel.

use std::io::IsTerminal;
use std::os::fd::AsRawFd;

/// Returns the rows and columns of the terminal on standard output, if it is one.
pub fn size() -> Option<(u16, u16)> {
    // SAFETY: winsize is a C structure of integers, for which all zeros is a valid value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes only to `size`, a winsize, and fails where there is no terminal.
    let result = unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// A terminal in raw mode. Its previous settings return when this value is dropped.
pub struct RawTerminal {
    before: Option<libc::termios>,
}

impl RawTerminal {
    /// Puts standard input into raw mode if it is a terminal.
    pub fn enter() -> Self {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Self { before: None };
        }
        // SAFETY: termios is a C structure of integers, for which all zeros is a valid value.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: standard input is open, and tcgetattr writes only to `settings`, a termios.
        if unsafe { libc::tcgetattr(input.as_raw_fd(), &raw mut settings) } != 0 {
            return Self { before: None };
        }
        let before = settings;
        // SAFETY: tcgetattr has filled `settings` in, standard input is open, and both calls access
        // only this termios.
        unsafe {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(input.as_raw_fd(), libc::TCSANOW, &raw const settings);
        }
        Self { before: Some(before) }
    }

    /// Returns true if standard input is a terminal that was put into raw mode.
    pub fn is_interactive(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: standard input is open, and `before` holds the settings that tcgetattr
            // returned for it.
            unsafe { libc::tcsetattr(std::io::stdin().as_raw_fd(), libc::TCSANOW, &raw const before) };
        }
    }
}
