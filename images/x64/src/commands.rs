//! What this image adds to the console's commands.

use console::{Command, CommandError, CommandResult, Context};

/// The commands.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "bench",
        arguments: "[list | NAME...]",
        about: "measures the primitives, in cycles",
        details: "A name stands for all benchmarks that begin with it. Figures mean something on real hardware, or in\n\
                  QEMU with `-icount shift=0,sleep=off`, where a cycle is a guest instruction: `aero bench`.",
        words: &["list"],
        run: bench,
    },
    #[cfg(feature = "suite")]
    Command {
        name: "test",
        arguments: "[NAME]",
        about: "runs the kernel's tests whose names contain NAME, or all",
        details: "",
        words: &[],
        run: |context| test(suite::all(), context),
    },
    #[cfg(feature = "suite")]
    Command {
        name: "crash",
        arguments: "frames | probing",
        about: "crashes in a way that is hard on the report",
        details: "",
        words: crate::crashes::KINDS,
        run: crate::crashes::crash,
    },
    #[cfg(feature = "suite")]
    Command {
        name: "soak",
        arguments: "[NAME]",
        about: "runs the long tests",
        details: "",
        words: &[],
        run: |context| test(suite::soak(), context),
    },
];

#[cfg(feature = "suite")]
fn test(tests: impl Iterator<Item = &'static suite::Test>, context: &mut Context<'_>) -> CommandResult {
    let filter = context.arguments.first().copied().unwrap_or("");
    match suite::run(tests, filter, context.out) {
        0 => Ok(()),
        failed => Err(CommandError::failed(alloc::format!("{failed} tests failed"))),
    }
}

fn bench(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        ["list"] => Ok(bench::list(context.out)?),
        names => bench::run(names, console::input::interrupted, context.out).map_err(|error| match error {
            bench::BenchError::Unknown(_) => CommandError::usage(error),
            _ => CommandError::failed(error),
        }),
    }
}
