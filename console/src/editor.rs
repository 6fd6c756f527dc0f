//! The line editor: turns bytes from a terminal into an edited line, independently of any device.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Maximum length of a line in bytes. Bytes typed beyond it are dropped, and Enter rejects the
/// line.
pub const LINE_LIMIT: usize = 1024;
/// Maximum number of lines in the history.
const HISTORY_LIMIT: usize = 50;
/// Columns of the terminal used for prompt and line; longer lines scroll sideways.
const COLUMNS: usize = 79;
/// Maximum length of an escape sequence in bytes.
const SEQUENCE_LIMIT: usize = 8;

const CONTROL_A: u8 = 0x01;
const CONTROL_B: u8 = 0x02;
const CONTROL_C: u8 = 0x03;
const CONTROL_D: u8 = 0x04;
const CONTROL_E: u8 = 0x05;
const CONTROL_F: u8 = 0x06;
const BELL: u8 = 0x07;
const BACKSPACE: u8 = 0x08;
const TAB: u8 = 0x09;
const LINE_FEED: u8 = 0x0a;
const CONTROL_K: u8 = 0x0b;
const CONTROL_L: u8 = 0x0c;
const CARRIAGE_RETURN: u8 = 0x0d;
const CONTROL_N: u8 = 0x0e;
const CONTROL_P: u8 = 0x10;
const CONTROL_U: u8 = 0x15;
const CONTROL_W: u8 = 0x17;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// Returns the number of columns available for the line behind a prompt.
fn room(prompt: &str) -> usize {
    COLUMNS.saturating_sub(prompt.len()).max(8)
}

/// The result of feeding a byte to the editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The line is still being edited.
    More,
    /// Enter completed the line.
    Line(String),
    /// Enter was pressed after more than [`LINE_LIMIT`] bytes; contains the number of bytes typed.
    TooLong(usize),
    /// Ctrl-C discarded the line.
    Cancelled,
}

/// A line editor with its history. It accepts only ASCII and rejects other characters with the
/// bell.
#[derive(Default)]
pub struct Editor {
    line: Vec<u8>,
    cursor: usize,
    /// Number of bytes that did not fit the line.
    dropped: usize,
    /// Index of the first visible byte.
    first: usize,
    history: Vec<Vec<u8>>,
    /// Index of the history line shown; the history's length while the new line is shown.
    recalled: usize,
    /// The new line, kept while a history line is shown.
    stash: Vec<u8>,
    /// Bytes of an incomplete escape sequence.
    sequence: Vec<u8>,
    last_was_return: bool,
}

impl Editor {
    /// Creates an editor with an empty line and history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws prompt and line again from the start of the terminal's line.
    pub fn redraw(&mut self, prompt: &str, out: &mut dyn Write) {
        let room = room(prompt);
        if self.cursor < self.first {
            self.first = self.cursor;
        } else if self.cursor >= self.first + room {
            self.first = self.cursor + 1 - room;
        }
        self.draw(prompt, "\x1b[K", out);
    }

    /// Returns the text that shows prompt and line as [`Editor::redraw`] left them, for an erased
    /// line.
    pub fn on_screen(&self, prompt: &str) -> String {
        let mut text = String::new();
        self.draw(prompt, "", &mut text);
        text
    }

    fn draw(&self, prompt: &str, erase: &str, out: &mut dyn Write) {
        let visible = &self.line[self.first..self.line.len().min(self.first + room(prompt))];
        let back = self.first + visible.len() - self.cursor;
        // The line holds only printable ASCII, so this conversion cannot fail.
        let visible = core::str::from_utf8(visible).unwrap_or("");
        let _ = write!(out, "\r{prompt}{visible}{erase}");
        if back > 0 {
            let _ = write!(out, "\x1b[{back}D");
        }
    }

    /// Processes a byte. `complete` returns the words that may stand at the cursor, given the text
    /// before it.
    pub fn feed(
        &mut self,
        byte: u8,
        prompt: &str,
        complete: &dyn Fn(&str) -> Vec<String>,
        out: &mut dyn Write,
    ) -> Edit {
        let after_return = core::mem::replace(&mut self.last_was_return, byte == CARRIAGE_RETURN);
        if !self.sequence.is_empty() {
            self.escape(byte);
            if self.sequence.is_empty() {
                self.redraw(prompt, out);
            }
            return Edit::More;
        }
        match byte {
            ESCAPE => {
                self.sequence.push(byte);
                return Edit::More;
            }
            // A terminal that sends CR LF means one Enter.
            LINE_FEED if after_return => return Edit::More,
            CARRIAGE_RETURN | LINE_FEED => return self.enter(out),
            CONTROL_C => {
                let _ = out.write_str("^C\n");
                self.forget();
                return Edit::Cancelled;
            }
            CONTROL_L => {
                let _ = out.write_str("\x1b[2J\x1b[H");
            }
            TAB => self.complete(complete, out),
            BACKSPACE | DELETE => self.delete_before(1),
            CONTROL_A => self.cursor = 0,
            CONTROL_E => self.cursor = self.line.len(),
            CONTROL_B => self.cursor = self.cursor.saturating_sub(1),
            CONTROL_F => self.cursor = self.line.len().min(self.cursor + 1),
            CONTROL_D => self.delete_after(),
            CONTROL_K => self.line.truncate(self.cursor),
            CONTROL_U => self.delete_before(self.cursor),
            CONTROL_W => self.delete_before(self.word_before()),
            CONTROL_P => self.recall(self.recalled.checked_sub(1)),
            CONTROL_N => self.recall(Some(self.recalled + 1)),
            b' '..=b'~' => {
                if self.line.len() >= LINE_LIMIT {
                    self.dropped += 1;
                    return Edit::More;
                }
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
                let at_end = self.cursor == self.line.len();
                if at_end && self.first == 0 && prompt.len() + self.line.len() < COLUMNS {
                    let _ = out.write_char(char::from(byte));
                    return Edit::More;
                }
            }
            // The remaining bytes of a UTF-8 character whose first byte was rejected.
            0x80..=0xbf => return Edit::More,
            _ => {
                let _ = out.write_char(char::from(BELL));
                return Edit::More;
            }
        }
        self.redraw(prompt, out);
        Edit::More
    }

    fn enter(&mut self, out: &mut dyn Write) -> Edit {
        let _ = out.write_str("\n");
        let typed = self.line.len() + self.dropped;
        let line = core::mem::take(&mut self.line);
        let dropped = self.dropped > 0;
        self.forget();
        if dropped {
            return Edit::TooLong(typed);
        }
        let text = String::from_utf8(line.clone()).unwrap_or_default();
        if !text.trim().is_empty() && self.history.last() != Some(&line) {
            if self.history.len() == HISTORY_LIMIT {
                self.history.remove(0);
            }
            self.history.push(line);
        }
        self.recalled = self.history.len();
        Edit::Line(text)
    }

    fn forget(&mut self) {
        self.line.clear();
        self.stash.clear();
        (self.cursor, self.first, self.dropped) = (0, 0, 0);
        self.recalled = self.history.len();
    }

    /// Processes the next byte of an escape sequence (ECMA-48: CSI, parameters, final byte; SS3
    /// from some terminals).
    fn escape(&mut self, byte: u8) {
        self.sequence.push(byte);
        let done = match self.sequence.as_slice() {
            [_, b'[' | b'O'] => false,
            [_, _] => true,
            [_, _, .., last] => (b'@'..=b'~').contains(last) || !(b' '..=b'~').contains(last),
            _ => false,
        };
        if !done && self.sequence.len() < SEQUENCE_LIMIT {
            return;
        }
        let sequence = core::mem::take(&mut self.sequence);
        match &sequence[1..] {
            b"[A" | b"OA" => self.recall(self.recalled.checked_sub(1)),
            b"[B" | b"OB" => self.recall(Some(self.recalled + 1)),
            b"[C" | b"OC" => self.cursor = self.line.len().min(self.cursor + 1),
            b"[D" | b"OD" => self.cursor = self.cursor.saturating_sub(1),
            b"[H" | b"OH" | b"[1~" | b"[7~" => self.cursor = 0,
            b"[F" | b"OF" | b"[4~" | b"[8~" => self.cursor = self.line.len(),
            b"[3~" => self.delete_after(),
            b"[1;5D" | b"b" => self.cursor -= self.word_before(),
            b"[1;5C" | b"f" => {
                let word = self.line[self.cursor..].iter().skip_while(|&&byte| byte == b' ');
                let spaces = self.line[self.cursor..].len() - word.clone().count();
                self.cursor += spaces + word.take_while(|&&byte| byte != b' ').count();
            }
            _ => {}
        }
    }

    /// Returns the length of the word before the cursor, including the spaces after it.
    fn word_before(&self) -> usize {
        let before = &self.line[..self.cursor];
        let spaces = before.iter().rev().take_while(|&&byte| byte == b' ').count();
        let word = before[..before.len() - spaces].iter().rev().take_while(|&&byte| byte != b' ').count();
        spaces + word
    }

    fn delete_before(&mut self, count: usize) {
        let start = self.cursor.saturating_sub(count);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn delete_after(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn recall(&mut self, index: Option<usize>) {
        let Some(index) = index.filter(|&index| index <= self.history.len()) else { return };
        if self.recalled == self.history.len() {
            self.stash = core::mem::take(&mut self.line);
        }
        self.line = match self.history.get(index) {
            Some(line) => line.clone(),
            None => core::mem::take(&mut self.stash),
        };
        self.recalled = index;
        self.cursor = self.line.len();
        self.first = 0;
    }

    fn complete(&mut self, complete: &dyn Fn(&str) -> Vec<String>, out: &mut dyn Write) {
        let before = String::from_utf8(self.line[..self.cursor].to_vec()).unwrap_or_default();
        let word = before.rsplit([' ', ';']).next().unwrap_or("");
        let candidates: Vec<String> =
            complete(&before).into_iter().filter(|candidate| candidate.starts_with(word)).collect();
        let Some(first) = candidates.first() else { return };
        let common = candidates.iter().fold(first.len(), |length, other| {
            first.bytes().zip(other.bytes()).take(length).take_while(|(a, b)| a == b).count()
        });
        let mut addition: Vec<u8> = first.as_bytes()[word.len()..common].to_vec();
        if candidates.len() == 1 {
            addition.push(b' ');
        } else if addition.is_empty() {
            let _ = writeln!(out, "\n{}", candidates.join("  "));
        }
        if self.line.len() + addition.len() <= LINE_LIMIT {
            for byte in addition {
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(_: &str) -> Vec<String> {
        ["threads", "thread", "timers"].map(String::from).to_vec()
    }

    /// Types bytes and returns the last finished edit.
    fn typed(editor: &mut Editor, bytes: &[u8]) -> Edit {
        let mut out = String::new();
        bytes.iter().fold(Edit::More, |last, &byte| match editor.feed(byte, "> ", &words, &mut out) {
            Edit::More => last,
            edit => edit,
        })
    }

    fn line(text: &str) -> Edit {
        Edit::Line(text.into())
    }

    #[test]
    fn arrows_home_end_and_delete_edit_in_the_middle() {
        let mut editor = Editor::new();
        assert_eq!(typed(&mut editor, b"bc\x1b[D\x1b[Da\x1b[Fd\r"), line("abcd"));
        assert_eq!(typed(&mut editor, b"xabc\x1b[H\x1b[3~\r"), line("abc"));
        assert_eq!(typed(&mut editor, b"one two\x17three\r"), line("one three"));
        assert_eq!(typed(&mut editor, b"abc\x7f\x08\r"), line("a"));
        assert_eq!(typed(&mut editor, b"one two\x1b[1;5Dx\r"), line("one xtwo"));
    }

    #[test]
    fn history_comes_back_and_the_new_line_is_kept() {
        let mut editor = Editor::new();
        typed(&mut editor, b"first\rsecond\r");
        assert_eq!(typed(&mut editor, b"\x1b[A\x1b[A\r"), line("first"));
        assert_eq!(typed(&mut editor, b"new\x1b[A\x1b[B\r"), line("new"));
        assert_eq!(typed(&mut editor, b"\x1b[B\x1b[B\x1b[A!\r"), line("new!"));
    }

    #[test]
    fn control_c_gives_the_line_up() {
        let mut editor = Editor::new();
        assert_eq!(typed(&mut editor, b"reboot\x03"), Edit::Cancelled);
        assert_eq!(typed(&mut editor, b"\r"), line(""));
    }

    #[test]
    fn tab_completes_what_is_common_and_lists_the_rest() {
        let mut editor = Editor::new();
        assert_eq!(typed(&mut editor, b"ti\t\r"), line("timers "));
        assert_eq!(typed(&mut editor, b"th\t\r"), line("thread"));
        let mut out = String::new();
        for &byte in b"thread\t" {
            editor.feed(byte, "> ", &words, &mut out);
        }
        assert!(out.contains("threads  thread"), "{out}");
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_is_fine() {
        let mut editor = Editor::new();
        let mut bytes = vec![b'a'; 10_000];
        bytes.push(b'\r');
        assert_eq!(typed(&mut editor, &bytes), Edit::TooLong(10_000));
        assert_eq!(typed(&mut editor, b"help\r"), line("help"));
    }

    #[test]
    fn what_is_not_ascii_is_refused_audibly() {
        let mut editor = Editor::new();
        let mut out = String::new();
        for byte in "aé€b".bytes() {
            editor.feed(byte, "> ", &words, &mut out);
        }
        assert_eq!(out, "a\x07\x07b");
        assert_eq!(typed(&mut editor, b"\r"), line("ab"));
    }

    #[test]
    fn carriage_return_and_line_feed_are_one_enter() {
        let mut editor = Editor::new();
        let mut lines = 0;
        for &byte in b"a\r\nb\n" {
            lines += usize::from(matches!(editor.feed(byte, "> ", &words, &mut String::new()), Edit::Line(_)));
        }
        assert_eq!(lines, 2);
    }

    proptest! {
        #[test]
        fn noise_never_breaks_the_editor(noise in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut editor = Editor::new();
            typed(&mut editor, &noise);
            // These bytes end any state: some of them may complete an escape sequence that was cut
            // off, and the rest cancel the line.
            typed(&mut editor, b"\x03\x03\x03\x03\x03\x03\x03\x03\x03");
            prop_assert_eq!(typed(&mut editor, b"help\r"), line("help"));
        }
    }
}
