//! The line being typed at a terminal. Other output moves it down instead of mixing with it.

use arrayvec::ArrayString;

/// Maximum length of the line with its prompt and the sequences that place the cursor, in bytes.
pub const LIMIT: usize = 128;
/// Moves to the start of the line and erases all of it (ECMA-48, 8.3.41).
const ERASE: &str = "\r\x1b[2K";

/// A prompt and the text typed behind it, as a terminal shows them.
pub struct TypedLine {
    line: ArrayString<LIMIT>,
    /// The line is on the terminal, with the cursor in it.
    is_shown: bool,
}

impl TypedLine {
    /// Creates an empty line.
    pub const fn new() -> Self {
        Self { line: ArrayString::new_const(), is_shown: false }
    }

    /// Hides the line before other text is written. Returns what must be written first.
    pub fn hide(&mut self) -> &'static str {
        if core::mem::take(&mut self.is_shown) { ERASE } else { "" }
    }

    /// Shows the line again after whole lines of other text were written. Returns what to write.
    pub fn bring_back(&mut self) -> &str {
        self.is_shown = !self.line.is_empty();
        &self.line
    }

    /// Sets the line to `line`, `""` for none. `change` turns the line as the terminal shows it
    /// into the new one. Returns the two pieces to write.
    pub fn edit<'a>(&'a mut self, change: &'a str, line: &str) -> [&'a str; 2] {
        let was_hidden = !self.is_shown && !self.line.is_empty();
        self.line.clear();
        // A longer line is cleared here and, after other output, not shown again; that is the only
        // consequence.
        let _ = self.line.try_push_str(line);
        self.is_shown = !self.line.is_empty();
        // The line was hidden by text that did not end its own line.
        if was_hidden && self.is_shown { ["\n", &self.line] } else { [change, ""] }
    }
}

impl Default for TypedLine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;

    use super::*;

    /// A terminal's input, recorded.
    #[derive(Default)]
    struct Terminal {
        typed: TypedLine,
        got: String,
    }

    impl Terminal {
        fn edit(&mut self, change: &str, line: &str) {
            self.typed.edit(change, line).iter().for_each(|piece| self.got.push_str(piece));
        }

        fn print(&mut self, text: &str) {
            self.got.push_str(self.typed.hide());
            self.got.push_str(text);
            if text.ends_with('\n') {
                self.got.push_str(self.typed.bring_back());
            }
        }
    }

    #[test]
    fn other_output_stands_above_the_line_and_the_line_comes_back() {
        let mut terminal = Terminal::default();
        terminal.edit("\r> \x1b[K", "\r> ");
        terminal.edit("a", "\r> a");
        terminal.print("news\n");
        terminal.edit("b", "\r> ab");
        terminal.edit("\n", "");
        terminal.print("result\n");
        assert_eq!(terminal.got, "\r> \x1b[Ka\r\x1b[2Knews\n\r> ab\nresult\n");
    }

    #[test]
    fn a_line_hidden_by_half_a_line_comes_back_with_the_next_key() {
        let mut terminal = Terminal::default();
        terminal.edit("\r> a\x1b[K", "\r> a");
        terminal.print("50%");
        terminal.print(" 60%");
        terminal.edit("b", "\r> ab");
        terminal.print("done\n");
        assert_eq!(terminal.got, "\r> a\x1b[K\r\x1b[2K50% 60%\n\r> ab\r\x1b[2Kdone\n\r> ab");
    }
}
