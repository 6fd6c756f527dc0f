//! Command lines: several commands separated by `;`, aliases, and filters behind `|`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use kernel::lock::SpinLock;
use kernel::sandbox;

use crate::commands::{self, Command, Context};
use crate::state::{Here, Needs, State};
use crate::words;

/// Lines of a page unless told otherwise.
pub const PAGE_LINES: usize = 24;
/// Most aliases.
const ALIAS_LIMIT: usize = 64;
/// Aliases that may stand for each other.
const ALIAS_DEPTH: usize = 8;

/// Commands whose arguments are command lines: filters are part of them.
const RAW: [&str; 2] = ["alias", "watch"];

/// Names that stand for the beginning of a command line.
static ALIASES: SpinLock<Aliases> = SpinLock::new(Aliases(Vec::new()));

/// Who may be asked to press a key.
pub trait Person {
    /// The next key. Blocks.
    fn key(&self) -> u8;
}

/// What a command line runs with.
#[derive(Clone, Copy)]
pub struct Execution<'a> {
    /// The image's commands.
    pub extra: &'static [Command],
    /// What the commands show.
    pub state: &'a dyn State,
    /// Whoever typed it, if somebody did.
    pub person: Option<&'a dyn Person>,
}

impl Execution<'_> {
    /// Runs a line; its status, that of the worst command: 0 done, 1 failed, 2 wrongly used.
    pub fn run(&self, line: &str, out: &mut dyn Write) -> u8 {
        let mut run = |part: &str| {
            // What a crashed machine has left is looked at elsewhere, where there are none.
            let has_aliases = self.state.offers() != Needs::Nothing;
            let part = if has_aliases { ALIASES.lock().expand(part) } else { part.trim().to_string() };
            let is_raw = part.split_whitespace().next().is_some_and(|name| RAW.contains(&name));
            if is_raw { self.run_command(&part, out) } else { self.run_filtered(&part, out) }
        };
        words::parts(line, |character| character == ';').map(&mut run).max().unwrap_or(0)
    }

    /// Runs a command with its filters.
    fn run_filtered(&self, line: &str, out: &mut dyn Write) -> u8 {
        match words::last_filter(line) {
            None => self.run_command(line, out),
            Some((before, filter)) => match Filter::parse(filter, self.person) {
                Err(reason) => {
                    let _ = writeln!(out, "error: {reason}");
                    2
                }
                Ok(kind) => {
                    let mut filter =
                        Filter { kind, line: String::new(), seen: 0, kept: Vec::new(), out, is_over: false };
                    let status = self.run_filtered(before, &mut filter);
                    filter.finish();
                    status
                }
            },
        }
    }

    fn run_command(&self, line: &str, out: &mut dyn Write) -> u8 {
        let is_raw = line.split_whitespace().next().is_some_and(|name| RAW.contains(&name));
        let words = if is_raw { Ok(line.split_whitespace().collect()) } else { words::words(line) };
        let words = match words {
            Ok(words) => words,
            Err(error) => {
                let _ = writeln!(out, "error: {error}");
                return 2;
            }
        };
        let Some((&name, arguments)) = words.split_first() else { return 0 };
        let Some(command) = commands::all(self.extra).find(|command| command.name == name) else {
            let near = commands::all(self.extra).map(|command| command.name);
            let near = near.min_by_key(|known| distance(known, name)).unwrap_or("help");
            let _ = writeln!(out, "error: there is no command `{name}`; did you mean `{near}`? `help` lists all");
            return 2;
        };
        if command.needs > self.state.offers() {
            let lacking = match self.state.offers() {
                Needs::Nothing => "needs the machine, which is gone",
                _ => "needs CPUs that run, and all are stopped",
            };
            let _ = writeln!(out, "error: {name}: {lacking}; `help` lists what works now");
            return 1;
        }
        let mut context = Context { arguments, out, extra: self.extra, state: self.state, person: self.person };
        match (command.run)(&mut context) {
            Ok(()) => 0,
            Err(error) => {
                let _ = writeln!(out, "error: {name}: {}", error.text);
                if error.is_usage() {
                    let _ = writeln!(out, "usage: {name} {}", command.arguments);
                }
                error.status
            }
        }
    }
}

/// Runs a command line on a stopped machine, as far as its commands work there; its status.
///
/// # Safety
/// All other CPUs are stopped, and interrupts are off.
pub unsafe fn execute_stopped(line: &str, out: &mut dyn Write) -> u8 {
    let mut status = 0;
    let execution = Execution { extra: &[], state: &Here, person: None };
    // SAFETY: by the caller's word; what is printed goes out, or into the caller's memory.
    if let Err(abandoned) = unsafe { sandbox::attempt(&mut || status = execution.run(line, out)) } {
        let _ = writeln!(out, "\nerror: the command was ended: {abandoned}");
        status = 1;
    }
    status
}

/// What a command line needs, that of its most demanding command; `None` if there is no such command, or the line cannot be looked
/// at: [`execute_stopped`] then says why.
///
/// # Safety
/// As for [`execute_stopped`].
pub unsafe fn needs_of(line: &str, extra: &'static [Command]) -> Option<Needs> {
    let mut needs = None;
    // On a stopped machine, where names are looked up, nothing is allocated outside.
    let mut look = || {
        let need_of = |part: &str| {
            let part = ALIASES.lock().expand(part);
            let name = part.split_whitespace().next()?;
            commands::all(extra).find(|command| command.name == name).map(|command| command.needs)
        };
        let parts = words::parts(line, |character| character == ';').filter(|part| !part.trim().is_empty());
        needs = parts.map(need_of).try_fold(Needs::Nothing, |most, need| Some(most.max(need?)));
    };
    // SAFETY: by the caller's word; the result is not allocated.
    let _ = unsafe { sandbox::attempt(&mut look) };
    needs
}

/// Runs a command line as the serial line's session does; its status.
pub fn execute_running(line: &str, extra: &'static [Command], out: &mut dyn Write) -> u8 {
    Execution { extra, state: &Here, person: None }.run(line, out)
}

/// Runs a command line on what a crashed machine has left; its status.
pub fn execute_on(line: &str, state: &dyn State, out: &mut dyn Write) -> u8 {
    Execution { extra: &[], state, person: None }.run(line, out)
}

/// Names with what they stand for.
struct Aliases(Vec<(String, String)>);

impl Aliases {
    fn set(&mut self, name: &str, meaning: &str) -> Result<(), &'static str> {
        self.0.retain(|(known, _)| *known != name);
        if meaning.is_empty() {
            return Ok(());
        }
        if self.0.len() == ALIAS_LIMIT || self.0.try_reserve(1).is_err() {
            return Err("there is no room for another alias");
        }
        self.0.push((name.to_string(), meaning.to_string()));
        Ok(())
    }

    /// The line with the alias that it begins with replaced.
    fn expand(&self, line: &str) -> String {
        let mut line = line.trim().to_string();
        let mut used: Vec<String> = Vec::new();
        for _ in 0..ALIAS_DEPTH {
            let name = line.split_whitespace().next().unwrap_or("").to_string();
            let known = self.0.iter().find(|(known, _)| *known == name && !used.contains(known));
            let Some((_, meaning)) = known else { break };
            line.replace_range(..name.len(), meaning);
            used.push(name);
        }
        line
    }
}

/// Makes a name stand for the beginning of a command line; an empty one forgets the name.
///
/// # Errors
/// If there are too many.
pub fn set_alias(name: &str, meaning: &str) -> Result<(), &'static str> {
    ALIASES.lock().set(name, meaning)
}

/// All aliases.
pub fn aliases() -> Vec<(String, String)> {
    ALIASES.lock().0.clone()
}

/// What is done with a command's text.
enum Kind<'a> {
    /// Only lines that have a text in them, or that have not.
    Grep { text: String, without: bool },
    /// The first lines.
    Head(usize),
    /// The last lines.
    Tail(usize),
    /// Waits for a key after so many lines.
    More(usize, &'a dyn Person),
}

/// A writer behind `|`.
struct Filter<'a> {
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
    fn parse(text: &str, person: Option<&'a dyn Person>) -> Result<Kind<'a>, String> {
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
                    .ok_or_else(|| "nobody is here to press a key".into())
            }
            _ => Err("behind `|` there can be: grep [-v] TEXT, head LINES, tail LINES, more [LINES]".into()),
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
                    // The return makes it visible.
                    let _ = write!(self.out, "{MORE}\r");
                    // Over the words.
                    let key = person.key();
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

    fn finish(&mut self) {
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

/// How many letters have to change to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(filter: &str, text: &str) -> String {
        let mut out = String::new();
        let kind = Filter::parse(filter, None).unwrap_or_else(|reason| panic!("{reason}"));
        let mut filter = Filter { kind, line: String::new(), seen: 0, kept: Vec::new(), out: &mut out, is_over: false };
        // In pieces that are no lines.
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

    #[test]
    fn an_alias_stands_for_words_and_never_for_itself() {
        let mut aliases = Aliases(Vec::new());
        for (name, meaning) in [("t", "threads | grep"), ("a", "b 1"), ("b", "a 2")] {
            assert_eq!(aliases.set(name, meaning), Ok(()));
        }
        assert_eq!(aliases.expand("t load"), "threads | grep load");
        assert_eq!(aliases.expand("a"), "a 2 1");
        assert_eq!(aliases.set("t", ""), Ok(()));
        assert_eq!(aliases.expand("t load"), "t load");
        let room = ALIAS_LIMIT - aliases.0.len();
        assert!((0..room).all(|number| aliases.set(&number.to_string(), "x").is_ok()));
        assert!(aliases.set("one more", "x").is_err());
    }

    #[test]
    fn near_misses_have_small_distances() {
        assert_eq!(distance("threads", "thraeds"), 2);
        assert_eq!(distance("mem", "mem"), 0);
        assert_eq!(distance("", "abc"), 3);
    }
}
