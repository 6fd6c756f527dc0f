//! The console's commands: those that only inspect, and those that act on the machine.

mod control;
mod lines;
mod memory_access;
mod programs;

use view::command::Catalog;
use view::commands::{GROUPS, HELP, INSPECT, PROGRAMS, TRACE};
pub use view::{Command, CommandError, CommandResult, Context, Needs, parse_number};

/// The console's own commands, in the order `help` lists them.
static COMMANDS: &[&[Command]] = &[
    &[HELP],
    INSPECT,
    GROUPS,
    memory_access::COMMANDS,
    programs::COMMANDS,
    PROGRAMS,
    TRACE,
    lines::COMMANDS,
    control::COMMANDS,
];

/// Returns all commands, including the image's own.
pub fn catalog(extra: &'static [Command]) -> Catalog {
    Catalog { lists: COMMANDS, extra }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that `aero inspect` knows the names of all commands that need a machine.
    #[test]
    fn commands_for_a_machine_are_known_where_there_is_none() {
        let lists = [memory_access::COMMANDS, programs::COMMANDS, lines::COMMANDS, control::COMMANDS];
        let names: Vec<&str> = lists.iter().flat_map(|list| list.iter()).map(|command| command.name).collect();
        assert_eq!(names, view::commands::ON_A_MACHINE);
    }
}
