//! Commands that look at the state.

use alloc::format;

use kernel::snapshot::{self, Snapshot};
use kernel::{output, start, symbols};

use super::{Command, CommandError, CommandResult, Context};
use crate::render::{self, Time};

/// Reads the whole state and renders it.
macro_rules! view {
    ($render:path) => {
        |context| {
            context.no_arguments()?;
            Ok($render(&Snapshot::take(), context.out)?)
        }
    };
}

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "cpus",
        arguments: "",
        about: "CPUs: what each runs, and counts of switches, preemptions, mail, calls",
        details: "ready: threads in the run queue. mail: threads made ready by other CPUs. calls: functions run for other CPUs.",
        words: &[],
        run: view!(render::cpus),
    },
    Command {
        name: "threads",
        arguments: "",
        about: "all threads, by CPU",
        details: "Each CPU describes its own threads, so a line is true of one moment. Where a CPU does not answer,\n\
                  the state has a question mark. At most 512 threads per CPU are shown.",
        words: &[],
        run: view!(render::threads),
    },
    Command { name: "thread", arguments: "N", about: "one thread", details: "", words: &[], run: thread },
    Command {
        name: "bt",
        arguments: "N",
        about: "a thread's backtrace",
        details: "For a thread that is running on another CPU, from where that CPU was interrupted to look.",
        words: &[],
        run: backtrace,
    },
    Command {
        name: "runqueues",
        arguments: "",
        about: "ready threads of each CPU, next first",
        details: "",
        words: &[],
        run: view!(render::run_queues),
    },
    Command {
        name: "mem",
        arguments: "",
        about: "memory by NUMA node, object caches, stacks",
        details: "records: what the allocator needs for itself. largest: the largest block that can be allocated.",
        words: &[],
        run: view!(render::memory),
    },
    Command {
        name: "irqs",
        arguments: "",
        about: "interrupts by vector and CPU, and where lines are steered",
        details: "",
        words: &[],
        run: view!(render::interrupts),
    },
    Command {
        name: "timers",
        arguments: "",
        about: "the clock, and the timers set on each CPU",
        details: "",
        words: &[],
        run: view!(render::timers),
    },
    Command {
        name: "acpi",
        arguments: "",
        about: "firmware tables, APIC ids, and what was wrong with them",
        details: "",
        words: &[],
        run: view!(render::firmware),
    },
    Command {
        name: "uptime",
        arguments: "",
        about: "time since the image was entered",
        details: "",
        words: &[],
        run: uptime,
    },
    Command {
        name: "log",
        arguments: "[off | error | warn | info | debug | trace]",
        about: "shows the kept log, or sets the most detailed level logged",
        details: "",
        words: &["off", "error", "warn", "info", "debug", "trace"],
        run: log_level,
    },
];

fn thread(context: &mut Context<'_>) -> CommandResult {
    let id = context.one_number("the thread's number")?;
    let snapshot = Snapshot::take_with(usize::MAX >> 16);
    let thread = snapshot.threads.iter().find(|thread| thread.id == id).ok_or_else(|| no_such_thread(id))?;
    Ok(render::thread(thread, context.out)?)
}

fn no_such_thread(id: u64) -> CommandError {
    CommandError::failed(format!("there is no thread {id}; `threads` lists them"))
}

fn backtrace(context: &mut Context<'_>) -> CommandResult {
    let id = context.one_number("the thread's number")?;
    let (addresses, certain) = snapshot::backtrace(id).ok_or_else(|| no_such_thread(id))?;
    if !certain {
        return Err(CommandError::failed(format!("the CPU of thread {id} does not answer")));
    }
    for (number, &address) in addresses.iter().enumerate() {
        writeln!(context.out, "  #{number} {}", symbols::resolve_frame(number, address))?;
    }
    Ok(())
}

fn uptime(context: &mut Context<'_>) -> CommandResult {
    context.no_arguments()?;
    let now = kernel::time::now_ns();
    writeln!(context.out, "up {}, ready after {}", Time(now), Time(start::ready_at_ns()))?;
    Ok(())
}

fn log_level(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => {
            output::for_kept_log(|part| {
                let _ = context.out.write_str(part);
            });
            writeln!(context.out, "level: {}", log::max_level().as_str().to_ascii_lowercase())?;
            Ok(())
        }
        [name] => {
            let level = kernel::command_line::level(name)
                .ok_or_else(|| CommandError::usage(format!("`{name}` is not a level")))?;
            log::set_max_level(level);
            Ok(())
        }
        _ => Err(CommandError::usage("takes one level")),
    }
}
