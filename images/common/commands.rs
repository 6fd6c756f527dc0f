//! The commands of this image, in addition to those of the console.

use console::Command;
#[cfg(feature = "suite")]
use console::{CommandError, CommandResult, Context, Needs};

use super::bench_command;

/// The additional commands.
pub static COMMANDS: &[Command] = &[
    bench_command::BENCH,
    #[cfg(feature = "suite")]
    Command {
        name: "test",
        needs: Needs::Cpus,
        arguments: "[NAME]",
        about: "runs the kernel's tests whose names contain NAME, or all",
        details: "",
        words: &[],
        run: |context| test(kernel_tests::all(), context),
    },
    #[cfg(feature = "suite")]
    Command {
        name: "crash",
        needs: Needs::Cpus,
        arguments: "frames | probing",
        about: "crashes in a way that is hard on the report",
        details: "",
        words: super::crashes::KINDS,
        run: super::crashes::crash,
    },
    #[cfg(feature = "suite")]
    Command {
        name: "soak",
        needs: Needs::Cpus,
        arguments: "[NAME]",
        about: "runs the long tests",
        details: "",
        words: &[],
        run: |context| test(kernel_tests::soak(), context),
    },
];

#[cfg(feature = "suite")]
fn test(tests: impl Iterator<Item = &'static kernel_tests::Test>, context: &mut Context<'_>) -> CommandResult {
    let filter = context.arguments.first().copied().unwrap_or("");
    match kernel_tests::run(tests, filter, context.out) {
        0 => Ok(()),
        failed => Err(CommandError::failed(alloc::format!("{failed} tests failed"))),
    }
}
