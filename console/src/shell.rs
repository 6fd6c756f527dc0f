//! The shell: reads lines, runs commands, tells the status of each.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use arch_contract::PowerAction;
use kernel::command_line::Options;
use kernel::output;

use crate::commands::{self, Command, Context};
use crate::editor::{Edit, Editor};
use crate::input::{self, Input};

/// Around the output of `run=` commands, so that `aero` can tell it from the boot's: ASCII start and end of text, the
/// latter followed by the exit status in decimal.
const START_OF_TEXT: u8 = 0x02;
const END_OF_TEXT: u8 = 0x03;

/// Writes to the console, a line at a time so that lines of several CPUs do not mix.
#[derive(Default)]
struct ConsoleWriter {
    line: String,
}

impl Write for ConsoleWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.line.push_str(text);
        if self.line.ends_with('\n') || self.line.len() > 512 {
            self.flush();
        }
        Ok(())
    }
}

impl ConsoleWriter {
    fn flush(&mut self) {
        output::print(format_args!("{}", self.line));
        self.line.clear();
    }
}

impl Drop for ConsoleWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The console's life: the commands of `run=` and then the end of the machine, or a prompt for good.
pub fn run(options: &Options<'static>, extra: &'static [Command]) {
    match options.run {
        Some(script) => run_script(script, extra),
        None => interact(extra),
    }
}

fn run_script(script: &str, extra: &'static [Command]) -> ! {
    output::write_bytes(&[START_OF_TEXT]);
    let mut status = 0;
    for line in script.split(';') {
        status = status.max(execute(line, extra));
    }
    output::write_bytes(&[END_OF_TEXT]);
    output::print(format_args!("{status}\n"));
    output::power(PowerAction::PowerOff, status)
}

fn interact(extra: &'static [Command]) {
    let input = match Input::open() {
        Ok(input) => input,
        Err(error) => {
            log::error!("console: {error}; there is no prompt");
            return;
        }
    };
    kernel::println!("Type `help` for the commands, `poweroff` to end.");
    let mut editor = Editor::new();
    let mut status = 0;
    loop {
        let prompt = if status == 0 { "aero> ".to_string() } else { alloc::format!("aero [{status}]> ") };
        editor.redraw(&prompt, &mut ConsoleWriter::default());
        let edit = loop {
            let byte = input.next();
            let complete = |before: &str| completions(before, extra);
            match editor.feed(byte, &prompt, &complete, &mut ConsoleWriter::default()) {
                Edit::More => {}
                edit => break edit,
            }
        };
        input::clear_interrupted();
        status = match edit {
            Edit::Line(line) => line.split(';').map(|part| execute(part, extra)).max().unwrap_or(0),
            Edit::TooLong(length) => {
                let limit = crate::editor::LINE_LIMIT;
                kernel::println!("error: the line of {length} characters is longer than {limit}; nothing was done");
                2
            }
            Edit::Cancelled | Edit::More => 0,
        };
    }
}

/// Runs one command line; its status: 0 done, 1 failed, 2 wrongly used.
fn execute(line: &str, extra: &'static [Command]) -> u8 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((&name, arguments)) = words.split_first() else { return 0 };
    let mut out = ConsoleWriter::default();
    let Some(command) = commands::all(extra).find(|command| command.name == name) else {
        let near = commands::all(extra).map(|command| command.name).min_by_key(|known| distance(known, name));
        let _ = writeln!(
            out,
            "error: there is no command `{name}`; did you mean `{}`? `help` lists all",
            near.unwrap_or("help")
        );
        return 2;
    };
    let mut context = Context { arguments, out: &mut out, extra };
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

/// Words that can stand at the end of `before`: commands first, then what the command takes.
fn completions(before: &str, extra: &'static [Command]) -> Vec<String> {
    let part = before.rsplit(';').next().unwrap_or("").trim_start();
    let words = || commands::all(extra).map(|command| command.name.to_string());
    match part.split_once(' ') {
        None => words().collect(),
        Some(("help", _)) => words().collect(),
        Some(("run", _)) => kernel::program::files().map(|file| file.name.to_string()).collect(),
        Some((name, _)) => commands::all(extra)
            .find(|command| command.name == name)
            .map_or(Vec::new(), |command| command.words.iter().map(ToString::to_string).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_have_small_distances() {
        assert_eq!(distance("threads", "thraeds"), 2);
        assert_eq!(distance("mem", "mem"), 0);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn completion_offers_commands_and_then_their_words() {
        assert!(completions("th", &[]).contains(&"threads".to_string()));
        assert!(completions("cpus; sp", &[]).contains(&"spawn".to_string()));
        assert!(completions("spawn ", &[]).contains(&"yield".to_string()));
        assert!(completions("nonsense ", &[]).is_empty());
    }
}
