//! Filters: the part of a command line behind `|`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::command::Person;
use crate::words;

/// Default number of lines of a page.
const PAGE_LINES: usize = 24;

/// The kind of a filter.
pub enum Kind<'a> {
    /// Passes only lines that contain `text`, or only the others if `without` is set.
    Grep { text: String, without: bool },
    /// Passes the first lines.
    Head(usize),
    /// Passes the last lines.
    Tail(usize),
    /// Waits for a key after each page of so many lines.
    More(usize, &'a dyn Person),
}

/// A writer that passes on filtered text.
pub struct Filter<'a> {
    kind: Kind<'a>,
    line: String,
    seen: usize,
    kept: Vec<String>,
    out: &'a mut dyn Write,
    is_over: bool,
}

const SPACE: u8 = b' ';
const MORE: &str = "-- more: space, enter, q --";

impl<'a> Filter<'a> {
    /// Creates a filter in front of a writer.
    pub fn new(kind: Kind<'a>, out: &'a mut dyn Write) -> Self {
        Self { kind, line: String::new(), seen: 0, kept: Vec::new(), out, is_over: false }
    }

    /// Parses a filter.
    ///
    /// # Errors
    /// The reason why the text is no filter, as a sentence.
    pub fn parse(text: &str, person: Option<&'a dyn Person>) -> Result<Kind<'a>, String> {
        let words = words::words(text).map_err(|error| error.to_string())?;
        let count = |word: &str| word.parse().map_err(|_| alloc::format!("`{word}` is not a number of lines"));
        match words[..] {
            ["grep", "-v", ref rest @ ..] if !rest.is_empty() => Ok(Kind::Grep { text: rest.join(" "), without: true }),
            ["grep", ref rest @ ..] if !rest.is_empty() => Ok(Kind::Grep { text: rest.join(" "), without: false }),
            ["head", lines] => Ok(Kind::Head(count(lines)?)),
            ["tail", lines] => Ok(Kind::Tail(count(lines)?)),
            ["more"] | ["more", _] => {
                let lines = words.get(1).map_or(Ok(PAGE_LINES), |word| count(word))?;
                person
                    .map(|person| Kind::More(lines.max(2), person))
                    .ok_or_else(|| "there is no keyboard to press a key on".into())
            }
            _ => Err("after `|` there can be: grep [-v] TEXT, head LINES, tail LINES, more [LINES]".into()),
        }
    }

    fn pass(&mut self, line: &str) {
        let _ = self.out.write_str(line);
        let _ = self.out.write_str("\n");
    }

    fn take(&mut self, line: String) {
        self.seen += 1;
        match &self.kind {
            Kind::Grep { text, without } => {
                if line.contains(text.as_str()) != *without {
                    self.pass(&line);
                }
            }
            Kind::Head(lines) => {
                if self.seen <= *lines {
                    self.pass(&line);
                }
            }
            Kind::Tail(lines) => {
                let lines = *lines;
                self.kept.push(line);
                if self.kept.len() > lines {
                    self.kept.remove(0);
                }
            }
            Kind::More(lines, person) => {
                let (lines, person) = (*lines, *person);
                self.pass(&line);
                if self.seen + 1 >= lines {
                    // The carriage return makes a session write the unfinished line at once.
                    let _ = write!(self.out, "{MORE}\r");
                    let key = person.key();
                    // Spaces erase the words.
                    let _ = write!(self.out, "{:1$}\r", "", MORE.len());
                    match key {
                        SPACE => self.seen = 0,
                        b'q' | 0x03 => self.is_over = true,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Passes on the text kept until the end: an unfinished line, and the lines of `tail`.
    pub fn finish(&mut self) {
        if !self.line.is_empty() && !self.is_over {
            let rest = core::mem::take(&mut self.line);
            self.take(rest);
        }
        for line in core::mem::take(&mut self.kept) {
            self.pass(&line);
        }
    }
}

impl Write for Filter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive('\n') {
            if self.is_over {
                return Ok(());
            }
            match piece.strip_suffix('\n') {
                None => self.line.push_str(piece),
                Some(end) => {
                    let mut line = core::mem::take(&mut self.line);
                    line.push_str(end);
                    self.take(line);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(filter: &str, text: &str) -> String {
        let mut out = String::new();
        let kind = Filter::parse(filter, None).unwrap_or_else(|reason| panic!("{reason}"));
        let mut filter = Filter::new(kind, &mut out);
        // The pieces do not end where lines do.
        text.as_bytes()
            .chunks(3)
            .for_each(|piece| filter.write_str(core::str::from_utf8(piece).unwrap_or("")).unwrap());
        filter.finish();
        out
    }

    #[test]
    fn filters_keep_what_they_say() {
        let text = "one load\ntwo\nthree load\nfour";
        assert_eq!(filtered("grep load", text), "one load\nthree load\n");
        assert_eq!(filtered("grep -v load", text), "two\nfour\n");
        assert_eq!(filtered("head 1", text), "one load\n");
        assert_eq!(filtered("tail 2", text), "three load\nfour\n");
        assert!(Filter::parse("more", None).is_err() && Filter::parse("head x", None).is_err());
        assert!(Filter::parse("sort", None).is_err() && Filter::parse("grep", None).is_err());
    }
}
