//! What can be typed: the commands that only look, and those that work on the machine.

mod control;
mod lines;
mod memory_access;
mod programs;

use view::command::Catalog;
use view::commands::{HELP, INSPECT, PROGRAMS, TRACE};
pub use view::{Command, CommandError, CommandResult, Context, Needs, parse_number};

/// The console's own commands, in the order `help` lists them.
static COMMANDS: &[&[Command]] = &[
    &[HELP],
    INSPECT,
    memory_access::COMMANDS,
    programs::COMMANDS,
    PROGRAMS,
    TRACE,
    lines::COMMANDS,
    control::COMMANDS,
];

/// All commands, with the image's.
pub fn catalog(extra: &'static [Command]) -> Catalog {
    Catalog { lists: COMMANDS, extra }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the names that `aero inspect` knows of commands for a machine are these.
    #[test]
    fn commands_for_a_machine_are_known_where_there_is_none() {
        let lists = [memory_access::COMMANDS, programs::COMMANDS, lines::COMMANDS, control::COMMANDS];
        let names: Vec<&str> = lists.iter().flat_map(|list| list.iter()).map(|command| command.name).collect();
        assert_eq!(names, view::commands::ON_A_MACHINE);
    }
}
