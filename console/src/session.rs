//! Sessions: each is a source of keys and a destination for text.

use kernel::input::Input;
use kernel::memory::OutOfMemory;
use kernel::output;

/// A session, which belongs to one thread.
pub trait Session: Sync {
    /// Returns the next key as terminals send it. Blocks.
    fn key(&self) -> u8;
    /// Shows text, with `\n` at the end of each line.
    fn print(&self, text: &str);
    /// Replaces the line being typed, prompt included, by `line`; `""` once the line has been given
    /// to a command. `change` turns the line as shown into the new one.
    fn edit(&self, change: &str, line: &str);
    /// Returns true if Ctrl-C was typed since [`Session::clear_interrupted`].
    fn is_interrupted(&self) -> bool;
    /// Forgets an earlier Ctrl-C.
    fn clear_interrupted(&self);
}

/// The session on the serial line.
pub struct Serial(&'static Input);

impl Serial {
    /// Opens the serial line permanently.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn open() -> Result<Self, OutOfMemory> {
        Input::open().map(Self)
    }
}

impl Session for Serial {
    fn key(&self) -> u8 {
        self.0.next()
    }

    fn print(&self, text: &str) {
        output::print_to_serial(text);
    }

    fn edit(&self, change: &str, line: &str) {
        output::edit_serial_line(change, line);
    }

    fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }

    fn clear_interrupted(&self) {
        self.0.clear_interrupted();
    }
}

/// The serial line without a person at it.
pub struct Unattended;

impl Session for Unattended {
    fn key(&self) -> u8 {
        0
    }

    fn print(&self, text: &str) {
        output::print_to_serial(text);
    }

    fn edit(&self, _: &str, _: &str) {}

    fn is_interrupted(&self) -> bool {
        false
    }

    fn clear_interrupted(&self) {}
}
