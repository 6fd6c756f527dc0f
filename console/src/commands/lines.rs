//! Commands about command lines: aliases, repetition.

use alloc::format;
use core::time::Duration;

use kernel::thread;

use super::{Command, CommandError, CommandResult, Context, Needs, parse_number};
use crate::execute::{self, Execution};
use crate::session;

/// Longest pause of `watch`, in seconds.
const PAUSE_LIMIT: u64 = 3600;
/// Time between two looks whether Ctrl-C was typed.
const POLL: Duration = Duration::from_millis(20);
/// Clears the screen (ECMA-48: cursor home, erase in page).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "watch",
        needs: Needs::Cpus,
        arguments: "SECONDS COMMAND",
        about: "shows a command's text again and again, until Ctrl-C",
        details: "The command may have filters: watch 1 threads | grep load.",
        words: &[],
        run: watch,
    },
    Command {
        name: "alias",
        needs: Needs::Cpus,
        arguments: "[NAME [COMMAND]]",
        about: "makes a name stand for a command; lists the names",
        details: "What follows the name when it is used stands behind the command. Without a command, the name is forgotten.",
        words: &[],
        run: alias,
    },
];

fn watch(context: &mut Context<'_>) -> CommandResult {
    let [seconds, command @ ..] = context.arguments else {
        return Err(CommandError::usage("needs seconds and a command"));
    };
    let seconds = parse_number(seconds, "how many seconds")?;
    if !(1..=PAUSE_LIMIT).contains(&seconds) {
        return Err(CommandError::usage(format!("from 1 to {PAUSE_LIMIT} seconds")));
    }
    if command.is_empty() {
        return Err(CommandError::usage("needs a command"));
    }
    let line = command.join(" ");
    let execution = Execution { extra: context.extra, state: context.state, person: context.person };
    loop {
        write!(context.out, "{CLEAR}every {seconds} s: {line}\n\n")?;
        let status = execution.run(&line, context.out);
        if status != 0 {
            return Err(CommandError::failed("the command failed"));
        }
        let deadline = kernel::time::Deadline::after(Duration::from_secs(seconds));
        while !deadline.has_passed() {
            if session::interrupted() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }
}

fn alias(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => {
            for (name, meaning) in execute::aliases() {
                writeln!(context.out, "  {name:<16} {meaning}")?;
            }
            Ok(())
        }
        [name, meaning @ ..] => execute::set_alias(name, &meaning.join(" ")).map_err(CommandError::failed),
    }
}
