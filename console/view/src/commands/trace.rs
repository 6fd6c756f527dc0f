//! The command that controls and shows the tracer.

use crate::command::{Command, CommandError, CommandResult, Context, parse_number};
use crate::state::{Needs, Tracer, Tracing};

/// Number of events shown by default.
const SHOWN: u64 = 40;

/// The error for a machine that has crashed and is gone.
const GONE: &str = "the machine is gone; `trace dump` shows what it recorded last";

/// The commands of this module.
pub const COMMANDS: &[Command] = &[Command {
    name: "trace",
    needs: Needs::Nothing,
    arguments: "[on | off | dump [N]]",
    about: "records what happens on each CPU: switches, wake-ups, interrupts, ...",
    details: "on forgets what was recorded and begins anew; dump shows the last N events of all CPUs, 40 unless given.\n\
              `aero boot --trace FILE` traces from the start and writes a file for Perfetto.",
    words: &["on", "off", "dump"],
    run: trace_command,
}];

fn trace_command(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        ["dump"] => dump(context, SHOWN),
        ["dump", count] => {
            let count = parse_number(count, "how many events")?;
            dump(context, count)
        }
        [] => match context.state.tracer() {
            None => Err(CommandError::failed(GONE)),
            Some(Tracer { tracing, kept, lost }) => {
                let state = if tracing == Tracing::On { "on" } else { "off" };
                Ok(writeln!(context.out, "tracing is {state}; {kept} events kept, {lost} older ones overwritten")?)
            }
        },
        ["on" | "off"] if context.state.offers() == Needs::Nothing => Err(CommandError::failed(GONE)),
        ["on"] if context.state.offers() == Needs::Machine => {
            Err(CommandError::failed("recording can only begin while the machine runs"))
        }
        ["on"] => context.state.set_tracing(Tracing::On).map_err(CommandError::failed),
        ["off"] => context.state.set_tracing(Tracing::Off).map_err(CommandError::failed),
        _ => Err(CommandError::usage("needs on, off, dump or nothing")),
    }
}

fn dump(context: &mut Context<'_>, count: u64) -> CommandResult {
    let mut result = Ok(());
    let mut before: Option<u64> = None;
    writeln!(context.out, "{:>16} {:>10} {:>4} {:>8}  event", "us", "since ns", "CPU", "thread")?;
    let (hz, epoch) = context.state.clock();
    let to_ns = |cycles: u64| (u128::from(cycles) * 1_000_000_000 / u128::from(hz.max(1))) as u64;
    let out = &mut *context.out;
    let mut write = |cpu: usize, event: &wire::trace::Event| {
        if result.is_err() {
            return;
        }
        let at = to_ns(event.cycles.saturating_sub(epoch));
        let since = before.map_or(0, |before| to_ns(event.cycles.saturating_sub(before)));
        before = Some(event.cycles);
        let (whole, part) = (at / 1_000, at % 1_000);
        result = writeln!(out, "{whole:>12}.{part:03} {since:>10} {cpu:>4} {:>8}  {event}", event.thread);
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    context.state.events(count, &mut write).map_err(CommandError::failed)?;
    Ok(result?)
}
