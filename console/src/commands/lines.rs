//! Commands about command lines: pauses, repetition, aliases.

use alloc::format;
use core::time::Duration;

use kernel::thread;

use super::{Command, CommandError, CommandResult, Context, Needs, parse_number};
use view::{Execution, Person};

use crate::execute;

/// Maximum pause of `watch` and `sleep`, in seconds.
const PAUSE_LIMIT: u64 = 3600;
/// Time between two checks for Ctrl-C.
const POLL: Duration = Duration::from_millis(20);
/// The sequence that clears the screen (ECMA-48: cursor home, erase in page).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The commands of this module.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "sleep",
        needs: Needs::Cpus,
        arguments: "SECONDS",
        about: "waits for some seconds, or until Ctrl-C",
        details: "With up to three decimals: `sleep 0.25`.",
        words: &[],
        run: sleep,
    },
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
        about: "defines an alias for a command; lists the aliases",
        details: "Arguments given to an alias follow its command. `alias NAME` alone removes the alias.",
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
    let execution =
        Execution { catalog: context.catalog, state: context.state, person: context.person, expand: context.expand };
    loop {
        write!(context.out, "{CLEAR}every {seconds} s: {line}\n\n")?;
        let status = execution.run(&line, context.out);
        if status != 0 {
            return Err(CommandError::failed("the command failed"));
        }
        if !pause(context.person, Duration::from_secs(seconds)) {
            return Ok(());
        }
    }
}

/// Waits. Returns false if Ctrl-C came first.
fn pause(person: Option<&dyn Person>, duration: Duration) -> bool {
    let deadline = kernel::time::Deadline::after(duration);
    while !deadline.has_passed() {
        if person.is_some_and(Person::is_interrupted) {
            return false;
        }
        thread::sleep(POLL.min(duration));
    }
    true
}

fn sleep(context: &mut Context<'_>) -> CommandResult {
    let [seconds] = context.arguments else { return Err(CommandError::usage("needs seconds")) };
    let milliseconds =
        milliseconds(seconds).filter(|&milliseconds| milliseconds <= PAUSE_LIMIT * 1000).ok_or_else(|| {
            CommandError::usage(format!("`{seconds}` is not a time from 0 to {PAUSE_LIMIT} seconds (`2`, `0.25`)"))
        })?;
    if pause(context.person, Duration::from_millis(milliseconds)) {
        Ok(())
    } else {
        Err(CommandError::failed("interrupted"))
    }
}

/// Converts seconds with up to three decimals to milliseconds.
fn milliseconds(text: &str) -> Option<u64> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !(1..=3).contains(&decimals.len()) || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10u64.pow(3 - decimals.len() as u32);
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(decimals.parse::<u64>().ok()? * scale)
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

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn seconds_may_have_decimals() {
        let times = [("0", 0), ("2", 2000), ("0.5", 500), ("1.25", 1250), ("3.007", 3007)];
        assert!(times.iter().all(|&(text, wanted)| milliseconds(text) == Some(wanted)));
        assert!(
            ["", ".", "1.", ".5", "1.2345", "-1", "x", "1.x", "99999999999999999999"]
                .iter()
                .all(|text| milliseconds(text).is_none())
        );
    }
}
