//! The command `bench`. Every image includes this file as a module.

use alloc::vec::Vec;

use bench::Format;
use console::{Command, CommandError, CommandResult, Context, Needs, Person};

/// The command `bench`.
pub const BENCH: Command = Command {
    name: "bench",
    needs: Needs::Cpus,
    arguments: "[--json] [list | NAME... | scale [THREADS]]",
    about: "measures the primitives",
    details: "A name stands for itself, or for all benchmarks that begin with it. `scale`: with all CPUs at once, and up to\n\
              THREADS other threads. Figures mean something on real hardware, in cycles, or in QEMU with\n\
              `-icount shift=0,sleep=off`, in guest instructions: `aero bench`. The output says which they are.",
    words: &["list", "scale", "--json"],
    run: bench,
};

fn bench(context: &mut Context<'_>) -> CommandResult {
    let (mut names, mut format) = (Vec::new(), Format::Table);
    for &argument in context.arguments {
        match argument {
            "--json" => format = Format::Json,
            option if option.starts_with('-') => {
                return Err(CommandError::usage(alloc::format!("there is no option `{option}`; there is `--json`")));
            }
            name => names.push(name),
        }
    }
    let person = context.person;
    let interrupted = &|| person.is_some_and(Person::is_interrupted);
    let result = match names[..] {
        ["list"] if format == Format::Json => {
            return Err(CommandError::usage("`bench list` is for people; `bench --json` has all names"));
        }
        ["list"] => return Ok(bench::list(context.out)?),
        ["scale"] => bench::scale(usize::MAX, format, interrupted, context.out),
        ["scale", threads] => match threads.parse() {
            Ok(threads) if threads < bench::FEWEST_THREADS => {
                let fewest = bench::FEWEST_THREADS;
                return Err(CommandError::usage(alloc::format!("`bench scale` begins with {fewest} threads")));
            }
            Ok(threads) => bench::scale(threads, format, interrupted, context.out),
            Err(_) => return Err(CommandError::usage(alloc::format!("`{threads}` is no number of threads"))),
        },
        ref names => bench::run(names, format, interrupted, context.out),
    };
    result.map_err(|error| match error {
        bench::BenchError::Unknown(_) => CommandError::usage(error),
        _ => CommandError::failed(error),
    })
}
