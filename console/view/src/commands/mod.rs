//! Commands that only inspect.

mod groups;
mod inspect;
mod programs;
mod trace;

use alloc::format;

use wire::command_line::{WORDS, Word};

use crate::command::{Command, CommandError, CommandResult, Context};
use crate::state::Needs;

/// The commands `groups`, `channel` and others.
pub use groups::COMMANDS as GROUPS;
/// The commands that inspect the kernel: `cpus`, `threads` and others.
pub use inspect::COMMANDS as INSPECT;
/// The command `programs`.
pub use programs::COMMANDS as PROGRAMS;
/// The command `trace`.
pub use trace::COMMANDS as TRACE;

/// Names of the other commands of the kernel's console, so that an error can say that they need a
/// machine. A test of the console keeps the list complete.
pub const ON_A_MACHINE: &[&str] = &[
    "peek", "poke", "run", "sleep", "watch", "alias", "spawn", "kill", "reclaim", "watchdog", "break", "steer",
    "panic", "reboot", "poweroff",
];

/// All inspecting commands, in the order in which `help` lists them.
pub static ALL: &[&[Command]] = &[&[HELP], INSPECT, PROGRAMS, GROUPS, TRACE];

/// The command `help`.
pub const HELP: Command = Command {
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
            for command in context.catalog.all().filter(|command| command.needs <= offered) {
                let usage = format!("{} {}", command.name, command.arguments);
                writeln!(context.out, "  {usage:<36} {}", command.about)?;
            }
            writeln!(context.out, "`help COMMAND` says more; also `help boot`, `help keys`.")?;
            Ok(())
        }
        ["boot"] => {
            writeln!(context.out, "Words of the kernel's command line (aero boot --append \"...\"):")?;
            for Word { key, values, about } in WORDS {
                writeln!(context.out, "  {:<36} {about}", format!("{key}={values}"))?;
            }
            Ok(())
        }
        ["keys"] => Ok(writeln!(context.out, "{KEYS_HELP}")?),
        [name] => {
            let command = context
                .catalog
                .find(name)
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
