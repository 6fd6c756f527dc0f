//! The shell: reads lines, runs commands, and shows the status of each.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use arch_contract::PowerAction;
use kernel::command_line::Options;
use kernel::output;
use view::Person;
use wire::console::{CONTROL_C, END_OF_TEXT, PROMPT, START_OF_TEXT};

use crate::commands::{self, Command};
use crate::editor::{Edit, Editor};
use crate::execute::here;
use crate::screen;
use crate::session::{Serial, Session, Unattended};

/// Writes to a session a line at a time, so that the output of several CPUs does not mix.
struct LineWriter<'a> {
    session: &'a dyn Session,
    line: String,
}

impl<'a> LineWriter<'a> {
    fn new(session: &'a dyn Session) -> Self {
        Self { session, line: String::new() }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.session.print(&self.line);
        }
        self.line.clear();
    }
}

impl Write for LineWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.line.push_str(text);
        if self.line.ends_with(['\n', '\r']) || self.line.len() > 512 {
            self.flush();
        }
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Runs the console. With `run=`, it runs those commands and powers the machine off; otherwise it
/// runs the commands of `script=` and then an endless prompt. Returns only if the serial line
/// cannot be opened.
pub fn run(options: &Options<'static>, extra: &'static [Command]) {
    if let Some(script) = options.run {
        run_script(script, extra);
    }
    let serial = match Serial::open() {
        Ok(serial) => serial,
        Err(error) => {
            log::error!("console: {error}; there is no prompt");
            return;
        }
    };
    if screen::open(options.keyboard, extra).is_err() {
        log::error!("console: out of memory for the screen; there is nothing on it");
    }
    if let Some(script) = options.script {
        execute(script, extra, &serial);
    }
    interact(&serial, extra);
}

fn run_script(script: &str, extra: &'static [Command]) -> ! {
    output::write_bytes(&[START_OF_TEXT]);
    let status = {
        let mut out = LineWriter::new(&Unattended);
        here(extra, None).run(script, &mut out)
    };
    output::write_bytes(&[END_OF_TEXT]);
    output::print(format_args!("{status}\n"));
    output::power(PowerAction::PowerOff, status)
}

/// Runs an interactive session at a terminal. Does not return.
pub fn interact(session: &dyn Session, extra: &'static [Command]) {
    session.print("Type `help` for the commands, `poweroff` to end.\n");
    let mut editor = Editor::new();
    let mut status = 0;
    loop {
        let prompt = if status == 0 { PROMPT.to_string() } else { alloc::format!("aero [{status}]> ") };
        let mut change = String::new();
        editor.redraw(&prompt, &mut change);
        let edit = loop {
            session.edit(&change, &editor.on_screen(&prompt));
            change.clear();
            let byte = session.key();
            let complete = |before: &str| completions(before, extra);
            match editor.feed(byte, &prompt, &complete, &mut change) {
                Edit::More => {}
                edit => break edit,
            }
        };
        session.edit(&change, "");
        session.clear_interrupted();
        status = match edit {
            Edit::Line(line) => {
                let status = execute(&line, extra, session);
                // The Ctrl-C was meant for the command. Keys typed before it are discarded.
                if session.is_interrupted() {
                    while session.key() != CONTROL_C {}
                }
                status
            }
            Edit::TooLong(length) => {
                let limit = crate::editor::LINE_LIMIT;
                let mut out = LineWriter::new(session);
                let _ = writeln!(out, "error: the line of {length} characters is longer than {limit}; it was not run");
                2
            }
            Edit::Cancelled | Edit::More => 0,
        };
    }
}

fn execute(line: &str, extra: &'static [Command], session: &dyn Session) -> u8 {
    let mut out = LineWriter::new(session);
    here(extra, Some(&Attending(session))).run(line, &mut out)
}

/// The person at a session's keyboard.
struct Attending<'a>(&'a dyn Session);

impl Person for Attending<'_> {
    fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }

    fn key(&self) -> u8 {
        let key = self.0.key();
        if key == CONTROL_C {
            self.0.clear_interrupted();
        }
        key
    }
}

/// Returns the words that can complete the end of `before`: command names first, then the words
/// that the command takes.
fn completions(before: &str, extra: &'static [Command]) -> Vec<String> {
    let part = before.rsplit(';').next().unwrap_or("").trim_start();
    let words = || commands::catalog(extra).all().map(|command| command.name.to_string());
    match part.split_once(' ') {
        None => words().collect(),
        Some(("help", _)) => words().collect(),
        Some(("run", _)) => kernel::program::files().map(|file| file.name.to_string()).collect(),
        Some((name, _)) => commands::catalog(extra)
            .all()
            .find(|command| command.name == name)
            .map_or(Vec::new(), |command| command.words.iter().map(ToString::to_string).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_offers_commands_and_then_their_words() {
        assert!(completions("th", &[]).contains(&"threads".to_string()));
        assert!(completions("cpus; sp", &[]).contains(&"spawn".to_string()));
        assert!(completions("spawn ", &[]).contains(&"yield".to_string()));
        assert!(completions("nonsense ", &[]).is_empty());
    }
}
