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
