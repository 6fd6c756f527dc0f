//! What can be typed. A command is a function from its arguments to text and a status.

mod control;
mod inspect;
mod lines;
mod memory_access;
mod programs;
mod trace;

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};

use firmware::words::number;

use crate::execute::Person;
pub use crate::state::{Needs, State};

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
    pub(crate) extra: &'static [Command],
    pub(crate) person: Option<&'a dyn Person>,
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

/// The console's own commands, in the order `help` lists them.
static COMMANDS: &[&[Command]] = &[
    &[HELP],
    inspect::COMMANDS,
    memory_access::COMMANDS,
    programs::COMMANDS,
    trace::COMMANDS,
    lines::COMMANDS,
    control::COMMANDS,
];

/// All commands, with the image's.
pub fn all(extra: &'static [Command]) -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().flat_map(|group| group.iter()).chain(extra)
}

const HELP: Command = Command {
    name: "help",
    needs: Needs::Nothing,
    arguments: "[COMMAND | boot | keys]",
    about: "lists the commands, or explains one",
    details: "`help boot` explains the kernel's command line, `help keys` the editing keys.\n\
              Several commands can stand on one line, separated by `;`. Behind ` | ` a filter: grep [-v] TEXT, head LINES,\n\
              tail LINES, more [LINES].",
    words: &["boot", "keys"],
    run: help,
};

const BOOT_HELP: &str = "\
Words of the kernel's command line (aero boot --append \"...\"):
  log=off|error|warn|info|debug|trace   most detailed level logged (info)
  cpus=N                                most CPUs started (all)
  quantum_us=N                          time slice where several threads are ready (5000)
  idle=halt|poll                        what a CPU does that has nothing to run; one that polls is woken sooner (halt)
  panic=halt|exit|reboot                what to do after a crash; halt gives the prompt `post-mortem>` (halt)
  trace=on|off|stream                   trace from the start (off), written as it is recorded (stream)
  gdb=wait                              wait for gdb on the second serial line before the first thread runs
  gdb=cpus                              gdb's threads are the CPUs; without it, they are the kernel's threads
  watchdog=SECONDS|off                  report CPUs and threads that hang, then give that prompt (off)
  run=\"CMD; CMD\"                        run commands, then power off with their status
  keyboard=us|de                        the keyboard's layout, where there is a screen (us)
  script=\"CMD; CMD\"                     run commands before the first prompt
  debug-exit=PORT                       port of QEMU's isa-debug-exit device
  trace-port=PORT                       port of QEMU's isa-debugcon device, which gets the trace at the end
  crash-port=PORT                       port of another one, which gets the crash file
  phi.ring=BASE,SIZE                    where a Knights Corner card's host has the console's rings
  apic=pc                               that card's APIC has a PC's ids: QEMU plays it";

const KEYS_HELP: &str = "\
Left, Right, Home, End       move          Ctrl-A, Ctrl-E   start, end of line
Ctrl-Left, Ctrl-Right        move by word  Ctrl-W           delete the word before
Up, Down                     history       Ctrl-U, Ctrl-K   delete to start, to end
Tab                          complete      Ctrl-L           clear the screen
Backspace, Delete            delete        Ctrl-C           give the line up, stop a command";

fn help(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => {
            let offered = context.state.offers();
            for command in all(context.extra).filter(|command| command.needs <= offered) {
                let usage = format!("{} {}", command.name, command.arguments);
                writeln!(context.out, "  {usage:<36} {}", command.about)?;
            }
            writeln!(context.out, "`help COMMAND` says more; also `help boot`, `help keys`.")?;
            Ok(())
        }
        ["boot"] => Ok(writeln!(context.out, "{BOOT_HELP}")?),
        ["keys"] => Ok(writeln!(context.out, "{KEYS_HELP}")?),
        [name] => {
            let command = all(context.extra)
                .find(|command| command.name == *name)
                .ok_or_else(|| CommandError::usage(format!("there is no command `{name}`")))?;
            writeln!(context.out, "{} {}\n  {}", command.name, command.arguments, command.about)?;
            for line in command.details.lines() {
                writeln!(context.out, "  {line}")?;
            }
            Ok(())
        }
        _ => Err(CommandError::usage("explains one command at a time")),
    }
}
