//! Execution of command lines: commands separated by `;`, with filters behind `|`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use crate::command::Context;
pub use crate::command::{Catalog, Person};
use crate::commands;
use crate::filter::Filter;
use crate::state::{Needs, State};
use crate::words;

/// Commands whose arguments are command lines, so that filters are part of the arguments.
const RAW: [&str; 2] = ["alias", "watch"];

/// The context in which command lines run.
#[derive(Clone, Copy)]
pub struct Execution<'a> {
    /// The available commands.
    pub catalog: Catalog,
    /// The state that the commands show.
    pub state: &'a dyn State,
    /// The person who typed the line, if any.
    pub person: Option<&'a dyn Person>,
    /// Replaces the alias at the beginning of a command; `None` without aliases.
    pub expand: Option<fn(&str) -> String>,
}

impl Execution<'_> {
    /// Runs a line. Returns the highest status of its commands: 0 done, 1 failed, 2 used wrongly,
    /// or that of a program.
    pub fn run(&self, line: &str, out: &mut dyn Write) -> u8 {
        let mut run = |part: &str| {
            let part = self.expand.map_or_else(|| part.trim().to_string(), |expand| expand(part));
            let is_raw = part.split_whitespace().next().is_some_and(|name| RAW.contains(&name));
            if is_raw { self.run_command(&part, out) } else { self.run_filtered(&part, out) }
        };
        words::parts(line, |character| character == ';').map(&mut run).max().unwrap_or(0)
    }

    /// Runs a command with its filters and returns its status.
    fn run_filtered(&self, line: &str, out: &mut dyn Write) -> u8 {
        match words::last_filter(line) {
            None => self.run_command(line, out),
            Some((before, filter)) => match Filter::parse(filter, self.person) {
                Err(reason) => {
                    let _ = writeln!(out, "error: {reason}");
                    2
                }
                Ok(kind) => {
                    let mut filter = Filter::new(kind, out);
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
        let offers = self.state.offers();
        let found = self.catalog.find(name);
        let needs = match found {
            Some(command) => command.needs,
            None if offers == Needs::Nothing && commands::ON_A_MACHINE.contains(&name) => Needs::Machine,
            None => {
                let near = self.catalog.all().map(|command| command.name);
                let near = near.min_by_key(|known| distance(known, name)).unwrap_or("help");
                let _ = writeln!(out, "error: there is no command `{name}`; did you mean `{near}`? `help` lists all");
                return 2;
            }
        };
        let Some(command) = found.filter(|_| needs <= offers) else {
            let lacking = match offers {
                Needs::Nothing => "needs the machine, which is gone",
                _ => "needs CPUs that run, and all are stopped",
            };
            let _ = writeln!(out, "error: {name}: {lacking}; `help` lists what works now");
            return 1;
        };
        let Self { catalog, state, person, expand } = *self;
        let mut context = Context { arguments, out, catalog, state, person, expand };
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

/// Runs a command line, of the commands that only inspect, on the state that a crashed machine has
/// left, and returns its status.
pub fn execute_on(line: &str, state: &dyn State, out: &mut dyn Write) -> u8 {
    let catalog = Catalog { lists: commands::ALL, extra: &[] };
    Execution { catalog, state, person: None, expand: None }.run(line, out)
}

/// Returns the number of bytes to change, insert or delete to turn one word into the other
/// (Levenshtein).
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

    #[test]
    fn near_misses_have_small_distances() {
        assert_eq!(distance("threads", "thraeds"), 2);
        assert_eq!(distance("mem", "mem"), 0);
        assert_eq!(distance("", "abc"), 3);
    }
}
