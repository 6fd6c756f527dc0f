//! Commands that look at execution groups and their event channels.

use alloc::format;
use alloc::vec::Vec;

use wire::snapshot::{EventStatistics, GroupState, Snapshot};

use crate::command::{Command, CommandError, CommandResult, Context, parse_number};
use crate::render::Time;
use crate::state::{Detail, Needs};

/// The commands of this module.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "groups",
        needs: Needs::Nothing,
        arguments: "",
        about: "execution groups: threads here with partner threads in the regular OS",
        details: "served: the partner does something for the thread, shown last. given up: the call reached its limit.",
        words: &[],
        run: groups,
    },
    Command {
        name: "group",
        needs: Needs::Nothing,
        arguments: "N",
        about: "one execution group, and how long its events took",
        details: "",
        words: &[],
        run: group,
    },
    Command {
        name: "channels",
        needs: Needs::Nothing,
        arguments: "",
        about: "event channels: each group's events by kind",
        details: "",
        words: &[],
        run: channels,
    },
    Command {
        name: "channel",
        needs: Needs::Nothing,
        arguments: "N [--follow]",
        about: "the latest events of a group's channel; --follow: also those to come, until Ctrl-C",
        details: "A call ends after the events within it.",
        words: &["--follow"],
        run: channel,
    },
    Command {
        name: "events",
        needs: Needs::Nothing,
        arguments: "[--stats]",
        about: "events of all channels by kind; --stats: how many took how long",
        details: "",
        words: &["--stats"],
        run: events,
    },
];

fn snapshot(context: &Context<'_>) -> Snapshot {
    context.state.snapshot(Detail::NoThreads)
}

fn groups(context: &mut Context<'_>) -> CommandResult {
    context.no_arguments()?;
    let snapshot = snapshot(context);
    if snapshot.groups.is_empty() {
        return Ok(writeln!(context.out, "there are no execution groups")?);
    }
    writeln!(context.out, "group  state     thread  cpu   partner     events  serving")?;
    for GroupState { number, state, thread, cpu, partner, sequence, serving, .. } in &snapshot.groups {
        write!(context.out, "{number:>5}  {state:<8} {thread:>7}  {cpu:>3}  {partner:>8}  {sequence:>9}")?;
        match serving {
            Some(serving) => writeln!(context.out, "  {}, for {}", serving.what, Time(serving.ns))?,
            None => writeln!(context.out)?,
        }
    }
    Ok(())
}

/// Finds the group that the only argument names.
fn chosen(context: &Context<'_>) -> Result<GroupState, CommandError> {
    let [number] = context.arguments else {
        return Err(CommandError::usage("takes the number of a group; `groups` lists them"));
    };
    group_with(context, number)
}

#[inline(never)]
fn group_with(context: &Context<'_>, number: &str) -> Result<GroupState, CommandError> {
    let number = parse_number(number, "group")?;
    let found = snapshot(context).groups.into_iter().find(|group| u64::from(group.number) == number);
    found.ok_or_else(|| CommandError::failed(format!("there is no group {number}; `groups` lists them")))
}

fn group(context: &mut Context<'_>) -> CommandResult {
    let group = chosen(context)?;
    let GroupState { number, state, thread, cpu, partner, .. } = &group;
    writeln!(
        context.out,
        "group {number}: {state}; thread {thread} on CPU {cpu}; partner {partner} in the regular OS"
    )?;
    statistics(context, &group.kinds)
}

fn statistics(context: &mut Context<'_>, kinds: &[EventStatistics]) -> CommandResult {
    writeln!(context.out, "kind                count      mean   longest     total")?;
    for EventStatistics { kind, count, ns, longest_ns, .. } in kinds {
        let mean = Time(ns / count.max(&1));
        writeln!(context.out, "{kind:<15} {count:>9} {mean:>9} {:>9} {:>9}", Time(*longest_ns), Time(*ns))?;
    }
    Ok(())
}

fn channels(context: &mut Context<'_>) -> CommandResult {
    context.no_arguments()?;
    let snapshot = snapshot(context);
    let Some(first) = snapshot.groups.first() else {
        return Ok(writeln!(context.out, "there are no execution groups, so no event channels")?);
    };
    write!(context.out, "group     events")?;
    first.kinds.iter().try_for_each(|kind| write!(context.out, "  {:>14}", kind.kind))?;
    writeln!(context.out, "  latest")?;
    for group in &snapshot.groups {
        write!(context.out, "{:>5}  {:>9}", group.number, group.sequence)?;
        group.kinds.iter().try_for_each(|kind| write!(context.out, "  {:>14}", kind.count))?;
        writeln!(context.out, "  {}", group.events.last().map_or("", |event| &event.what))?;
    }
    Ok(())
}

fn channel(context: &mut Context<'_>) -> CommandResult {
    let (number, person) = match (context.arguments, context.person) {
        ([number], _) => (*number, None),
        ([number, "--follow"] | ["--follow", number], Some(person)) => (*number, Some(person)),
        ([_, "--follow"] | ["--follow", _], None) => {
            return Err(CommandError::failed("--follow goes on until Ctrl-C, so it needs a person at the console"));
        }
        _ => return Err(CommandError::usage("takes the number of a group; `groups` lists them")),
    };
    let mut group = group_with(context, number)?;
    writeln!(context.out, " number         began       took  event")?;
    let mut told = write_events(context, &group, None)?;
    let is_followed = |context: &Context<'_>| {
        person.is_some_and(|person| !person.is_interrupted()) && context.state.wait(FOLLOW_INTERVAL)
    };
    if person.is_none()
        && let Some(serving) = &group.serving
    {
        writeln!(context.out, "{:>7}  {} since {}", group.sequence, serving.what, Time(serving.ns))?;
    }
    while is_followed(context) {
        group = group_with(context, number)?;
        told = write_events(context, &group, told)?;
    }
    Ok(())
}

/// Writes the events after the one that was told last. Returns the number of the latest.
#[inline(never)]
fn write_events(context: &mut Context<'_>, group: &GroupState, told: Option<u64>) -> Result<Option<u64>, CommandError> {
    let mut latest = told;
    for event in group.events.iter().filter(|event| told.is_none_or(|told| event.sequence > told)) {
        // A call has a lower number than the events within it, and ends after them.
        let missed = latest.map_or(0, |latest| event.sequence.saturating_sub(latest + 1));
        if missed > 0 && told.is_some() {
            writeln!(context.out, "         {missed} events before this one are not over, or came too fast")?;
        }
        let (number, took, what) = (event.sequence, Time(event.ns), &event.what);
        write!(context.out, "{number:>7}  {:>12}  {took:>9}  {what} = ", Time(event.began_ns))?;
        match event.result as i64 {
            small @ -4095..=0xffff => writeln!(context.out, "{small}")?,
            _ => writeln!(context.out, "{:#x}", event.result)?,
        }
        latest = latest.max(Some(event.sequence));
    }
    Ok(latest)
}

/// How often a channel that is followed is looked at, in milliseconds.
const FOLLOW_INTERVAL: u64 = 100;

fn events(context: &mut Context<'_>) -> CommandResult {
    let with_classes = match context.arguments {
        [] => false,
        ["--stats"] => true,
        _ => return Err(CommandError::usage("takes --stats at most")),
    };
    let mut all: Vec<EventStatistics> = Vec::new();
    for kinds in snapshot(context).groups.iter().map(|group| &group.kinds) {
        for (place, kind) in kinds.iter().enumerate() {
            match all.get_mut(place) {
                Some(sum) => add(sum, kind),
                None => all.push(kind.clone()),
            }
        }
    }
    if all.is_empty() {
        return Ok(writeln!(context.out, "there are no execution groups, so no events")?);
    }
    statistics(context, &all)?;
    for kind in all.iter().filter(|kind| with_classes && kind.count > 0) {
        writeln!(context.out, "{}s by their cycles:", kind.kind)?;
        for (class, count) in kind.classes.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Half a line stands for all of them.
            let bar = (u64::from(*count) * BAR / kind.count.max(1)) as usize;
            writeln!(context.out, "  from 2^{class:<2} {count:>9} {:#<bar$}", "")?;
        }
    }
    Ok(())
}

/// Length of the longest bar, in characters.
const BAR: u64 = 40;

fn add(sum: &mut EventStatistics, kind: &EventStatistics) {
    sum.count += kind.count;
    sum.ns += kind.ns;
    sum.longest_ns = sum.longest_ns.max(kind.longest_ns);
    sum.classes.resize(sum.classes.len().max(kind.classes.len()), 0);
    sum.classes.iter_mut().zip(&kind.classes).for_each(|(sum, count)| *sum += count);
}
