//! The tracer at the prompt.

use kernel::time::{cycles_since_epoch_to_ns, cycles_to_ns};
use kernel::trace;

use super::{Command, CommandError, CommandResult, Context, parse_number};

/// Events shown unless asked for more.
const SHOWN: u64 = 40;

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "trace",
    arguments: "[on | off | dump [N]]",
    about: "records what happens on each CPU: switches, wake-ups, interrupts, ...",
    details: "on forgets what was recorded and begins anew; dump shows the last N events of all CPUs, 40 unless given.\n\
              `aero boot --trace FILE` traces from the start and writes a file for Perfetto.",
    words: &["on", "off", "dump"],
    run: trace_command,
}];

fn trace_command(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => {
            let (kept, lost) = trace::counts();
            let state = if trace::is_on() { "on" } else { "off" };
            Ok(writeln!(context.out, "tracing is {state}; {kept} events kept, {lost} older ones overwritten")?)
        }
        ["on"] => trace::start().map_err(CommandError::failed),
        ["off"] => {
            trace::stop();
            Ok(())
        }
        ["dump"] => dump(context, SHOWN),
        ["dump", count] => {
            let count = parse_number(count, "how many events")?;
            dump(context, count)
        }
        _ => Err(CommandError::usage("needs on, off, dump or nothing")),
    }
}

fn dump(context: &mut Context<'_>, count: u64) -> CommandResult {
    let mut result = Ok(());
    let mut before: Option<u64> = None;
    writeln!(context.out, "{:>16} {:>10} {:>4} {:>8}  event", "us", "since ns", "CPU", "thread")?;
    let write = |cpu: usize, event: &trace_format::Event| {
        if result.is_err() {
            return;
        }
        let at = cycles_since_epoch_to_ns(event.cycles);
        let since = before.map_or(0, |before| cycles_to_ns(event.cycles.saturating_sub(before)));
        before = Some(event.cycles);
        let (whole, part) = (at / 1_000, at % 1_000);
        result = writeln!(context.out, "{whole:>12}.{part:03} {since:>10} {cpu:>4} {:>8}  {event}", event.thread);
    };
    trace::for_last(usize::try_from(count).unwrap_or(usize::MAX), write).map_err(CommandError::failed)?;
    Ok(result?)
}
