//! Commands: each is a function from arguments to text and a status.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};

use firmware::words::number;

use crate::state::{Needs, State};

/// Lists of commands, in the order in which `help` shows them, followed by the image's own
/// commands.
#[derive(Clone, Copy)]
pub struct Catalog {
    /// The console's lists.
    pub lists: &'static [&'static [Command]],
    /// The image's own commands.
    pub extra: &'static [Command],
}

impl Catalog {
    /// Returns all commands.
    pub fn all(self) -> impl Iterator<Item = &'static Command> {
        self.lists.iter().flat_map(|list| list.iter()).chain(self.extra)
    }

    /// Returns the command with this name.
    pub fn find(self, name: &str) -> Option<&'static Command> {
        self.all().find(|command| command.name == name)
    }
}

/// The person at a session's keys.
pub trait Person: Sync {
    /// Waits for a key and returns it.
    fn key(&self) -> u8;
    /// Returns true if Ctrl-C was typed since the command began. Long commands ask.
    fn is_interrupted(&self) -> bool;
}

/// A command.
pub struct Command {
    /// The name, as typed.
    pub name: &'static str,
    /// The least that the command needs.
    pub needs: Needs,
    /// The arguments, as `help` shows them.
    pub arguments: &'static str,
    /// A summary in one line.
    pub about: &'static str,
    /// Further explanation; may be empty.
    pub details: &'static str,
    /// Words that Tab offers as arguments.
    pub words: &'static [&'static str],
    /// Executes the command.
    pub run: fn(&mut Context<'_>) -> CommandResult,
}

/// The context of a running command.
pub struct Context<'a> {
    /// Words typed after the command's name.
    pub arguments: &'a [&'a str],
    /// The state that the command shows.
    pub state: &'a dyn State,
    /// The destination of the command's text.
    pub out: &'a mut dyn Write,
    /// All available commands.
    pub catalog: Catalog,
    /// The person who typed the command, if any.
    pub person: Option<&'a dyn Person>,
    /// Replaces the alias at the beginning of a command; `None` without aliases.
    pub expand: Option<fn(&str) -> String>,
}

/// The result of a command.
pub type CommandResult = Result<(), CommandError>;

/// The reason why a command failed.
#[derive(Debug)]
pub struct CommandError {
    /// The reason as a sentence.
    pub text: String,
    /// The status: 1 if the command failed, 2 if it was used wrongly, or that of a program.
    pub status: u8,
    kind: Kind,
}

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failure,
    Usage,
}

impl CommandError {
    /// Creates the error of a command that failed, with status 1.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self { text: format!("{reason}"), status: 1, kind: Kind::Failure }
    }

    /// Creates the error of a command that was used wrongly, with status 2.
    pub fn usage(reason: impl fmt::Display) -> Self {
        Self { text: format!("{reason}"), status: 2, kind: Kind::Usage }
    }

    /// Returns the error with another status, for example a program's.
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// Returns true if the command's usage should be shown.
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
    /// Checks that there are no arguments.
    ///
    /// # Errors
    /// A usage error.
    pub fn no_arguments(&self) -> CommandResult {
        match self.arguments {
            [] => Ok(()),
            [first, ..] => Err(CommandError::usage(format!("takes no arguments, got `{first}`"))),
        }
    }

    /// Returns the only argument as a number. `what` names the argument in the error.
    ///
    /// # Errors
    /// A usage error.
    pub fn one_number(&self, what: &str) -> Result<u64, CommandError> {
        match self.arguments {
            [text] => parse_number(text, what),
            _ => Err(CommandError::usage(format!("needs one argument: {what}"))),
        }
    }
}

/// Parses a typed number. `what` names it in the error.
///
/// # Errors
/// A usage error.
pub fn parse_number(text: &str, what: &str) -> Result<u64, CommandError> {
    number(text).ok_or_else(|| {
        CommandError::usage(format!("`{text}` is not a number ({what}; decimal, or hexadecimal with 0x)"))
    })
}
