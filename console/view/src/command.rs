//! What a command is: a function from its arguments to text and a status.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};

use firmware::words::number;

use crate::state::{Needs, State};

/// Lists of commands, in the order `help` shows them, and the image's own commands behind them.
#[derive(Clone, Copy)]
pub struct Catalog {
    /// The console's lists.
    pub lists: &'static [&'static [Command]],
    /// The image's own commands.
    pub extra: &'static [Command],
}

impl Catalog {
    /// All commands.
    pub fn all(self) -> impl Iterator<Item = &'static Command> {
        self.lists.iter().flat_map(|list| list.iter()).chain(self.extra)
    }

    /// A command by its name.
    pub fn find(self, name: &str) -> Option<&'static Command> {
        self.all().find(|command| command.name == name)
    }
}

/// The person at a session's keys.
pub trait Person {
    /// Waits for a key and returns it.
    fn key(&self) -> u8;
}

/// A command.
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// What it works with at least.
    pub needs: Needs,
    /// Its arguments, as `help` shows them.
    pub arguments: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// What else there is to know, or nothing.
    pub details: &'static str,
    /// Words Tab offers as arguments.
    pub words: &'static [&'static str],
    /// Does it.
    pub run: fn(&mut Context<'_>) -> CommandResult,
}

/// What a running command works with.
pub struct Context<'a> {
    /// What was typed after its name.
    pub arguments: &'a [&'a str],
    /// What it shows.
    pub state: &'a dyn State,
    /// Where its text goes.
    pub out: &'a mut dyn Write,
    /// All commands that there are.
    pub catalog: Catalog,
    /// The person who typed it, if there is one.
    pub person: Option<&'a dyn Person>,
    /// Replaces the alias that a command begins with, if there are aliases.
    pub expand: Option<fn(&str) -> String>,
}

/// Done, or why not.
pub type CommandResult = Result<(), CommandError>;

/// Why a command did not do what it should.
#[derive(Debug)]
pub struct CommandError {
    /// A sentence for a person.
    pub text: String,
    /// 1: it failed; 2: it was wrongly used; a program's own.
    pub status: u8,
    kind: Kind,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failure,
    Usage,
}

impl CommandError {
    /// It failed.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self { text: format!("{reason}"), status: 1, kind: Kind::Failure }
    }

    /// It was wrongly used.
    pub fn usage(reason: impl fmt::Display) -> Self {
        Self { text: format!("{reason}"), status: 2, kind: Kind::Usage }
    }

    /// The same with another status, a program's own for example.
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// True if the command's usage should be shown.
    pub fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }
}

impl From<fmt::Error> for CommandError {
    fn from(_: fmt::Error) -> Self {
        Self::failed("its output could not be written")
    }
}

impl Context<'_> {
    /// No arguments, or an error.
    ///
    /// # Errors
    /// Usage.
    pub fn no_arguments(&self) -> CommandResult {
        match self.arguments {
            [] => Ok(()),
            [first, ..] => Err(CommandError::usage(format!("takes no arguments, got `{first}`"))),
        }
    }

    /// The only argument as a number.
    ///
    /// # Errors
    /// Usage.
    pub fn one_number(&self, what: &str) -> Result<u64, CommandError> {
        match self.arguments {
            [text] => parse_number(text, what),
            _ => Err(CommandError::usage(format!("needs one argument: {what}"))),
        }
    }
}

/// A number typed by a person.
///
/// # Errors
/// Usage.
pub fn parse_number(text: &str, what: &str) -> Result<u64, CommandError> {
    number(text).ok_or_else(|| {
        CommandError::usage(format!("`{text}` is not a number ({what}; decimal, or hexadecimal with 0x)"))
    })
}
