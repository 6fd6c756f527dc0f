//! Commands that inspect the kernel's state.

use alloc::format;

use log::LevelFilter;

use crate::command::{Command, CommandError, CommandResult, Context, parse_number};
use crate::render::{self, Time};
use crate::state::{Detail, Needs, State};

/// Makes the function of a command that renders a snapshot.
macro_rules! view {
    ($render:path, $detail:ident) => {
        |context| {
            context.no_arguments()?;
            Ok($render(&context.state.snapshot(Detail::$detail), context.out)?)
        }
    };
}

/// The commands of this module.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "cpus",
        needs: Needs::Nothing,
        arguments: "",
        about: "CPUs: what each runs, and counts of switches, preemptions, mail, calls",
        details: "ready: threads in the run queue. mail: threads made ready by other CPUs. calls: functions run for other CPUs.",
        words: &[],
        run: view!(render::cpus, Threads),
    },
    Command {
        name: "threads",
        needs: Needs::Nothing,
        arguments: "",
        about: "all threads, by CPU",
        details: "Each CPU describes its own threads, so a line is true of one moment. Where a CPU does not answer,\n\
                  the state has a question mark. At most 512 threads per CPU are shown.",
        words: &[],
        run: view!(render::threads, Threads),
    },
    Command {
        name: "thread",
        needs: Needs::Nothing,
        arguments: "N",
        about: "one thread",
        details: "",
        words: &[],
        run: thread,
    },
    Command {
        name: "bt",
        needs: Needs::Nothing,
        arguments: "N | cpu N",
        about: "the backtrace of a thread, or of the thread that a CPU runs",
        details: "A thread that runs on another CPU is interrupted for its backtrace.",
        words: &[],
        run: backtrace,
    },
    Command {
        name: "registers",
        needs: Needs::Nothing,
        arguments: "[cpu N | thread N]",
        about: "registers of all CPUs, of one, or of a thread, on a machine that is stopped",
        details: "After a crash, and from gdb by `monitor`. A waiting thread has only those that a callee preserves.",
        words: &["cpu", "thread"],
        run: registers,
    },
    Command {
        name: "runqueues",
        needs: Needs::Nothing,
        arguments: "",
        about: "ready threads of each CPU, next first",
        details: "",
        words: &[],
        run: view!(render::run_queues, Threads),
    },
    Command {
        name: "mem",
        needs: Needs::Nothing,
        arguments: "",
        about: "memory by NUMA node, object caches, stacks",
        details: "records: what the allocator needs for itself. largest: the largest block that can be allocated.",
        words: &[],
        run: view!(render::memory, NoThreads),
    },
    Command {
        name: "irqs",
        needs: Needs::Nothing,
        arguments: "",
        about: "interrupts by vector and CPU, and where lines are steered",
        details: "",
        words: &[],
        run: view!(render::interrupts, NoThreads),
    },
    Command {
        name: "timers",
        needs: Needs::Nothing,
        arguments: "",
        about: "the clock, and the timers set on each CPU",
        details: "",
        words: &[],
        run: view!(render::timers, NoThreads),
    },
    Command {
        name: "acpi",
        needs: Needs::Nothing,
        arguments: "",
        about: "firmware tables, APIC ids, and the irregularities found in them",
        details: "",
        words: &[],
        run: view!(render::firmware, NoThreads),
    },
    Command {
        name: "uptime",
        needs: Needs::Nothing,
        arguments: "",
        about: "time since the image was entered",
        details: "",
        words: &[],
        run: uptime,
    },
    Command {
        name: "log",
        needs: Needs::Nothing,
        arguments: "[off | error | warn | info | debug | trace]",
        about: "shows the kept log, or sets the most detailed level logged",
        details: "",
        words: &["off", "error", "warn", "info", "debug", "trace"],
        run: log_level,
    },
];

fn thread(context: &mut Context<'_>) -> CommandResult {
    let id = context.one_number("the thread's number")?;
    let snapshot = context.state.snapshot(Detail::AllThreads);
    let thread = snapshot.threads.iter().find(|thread| thread.id == id).ok_or_else(|| no_such_thread(id))?;
    Ok(render::thread(thread, context.state, context.out)?)
}

fn no_such_thread(id: u64) -> CommandError {
    CommandError::failed(format!("there is no thread {id}; `threads` lists them"))
}

/// Returns the number of the thread that runs on a CPU.
fn running_on(state: &dyn State, text: &str) -> Result<u64, CommandError> {
    let wanted = parse_number(text, "the CPU")?;
    let snapshot = state.snapshot(Detail::Threads);
    let cpu = snapshot.cpus.iter().find(|cpu| u64::from(cpu.index) == wanted);
    cpu.map(|cpu| cpu.running)
        .ok_or_else(|| CommandError::failed(format!("there is no CPU {wanted}; `cpus` lists them")))
}

fn registers(context: &mut Context<'_>) -> CommandResult {
    if context.state.offers() == Needs::Cpus {
        return Err(CommandError::failed(
            "all CPUs run: registers can be shown after a crash, and when gdb has stopped the CPUs",
        ));
    }
    let threads = match context.arguments {
        [] => context.state.snapshot(Detail::Threads).cpus.iter().map(|cpu| (Some(cpu.index), cpu.running)).collect(),
        ["cpu", number] => alloc::vec![(None, running_on(context.state, number)?)],
        ["thread", number] => alloc::vec![(None, parse_number(number, "the thread's number")?)],
        _ => return Err(CommandError::usage("needs a CPU, a thread, or nothing")),
    };
    for (cpu, id) in threads {
        let registers = context.state.registers(id).ok_or_else(|| no_such_thread(id))?;
        if let Some(cpu) = cpu {
            writeln!(context.out, "CPU {cpu}, thread {id}:")?;
        }
        write!(context.out, "{registers}")?;
    }
    Ok(())
}

fn backtrace(context: &mut Context<'_>) -> CommandResult {
    let id = match context.arguments {
        ["cpu", number] => running_on(context.state, number)?,
        _ => context.one_number("the thread's number")?,
    };
    let frames = context.state.backtrace(id).ok_or_else(|| no_such_thread(id))?;
    let frames = frames.map_err(|_| CommandError::failed(format!("the CPU of thread {id} does not answer")))?;
    for (number, frame) in frames.iter().enumerate() {
        writeln!(context.out, "  #{number} {frame}")?;
    }
    Ok(())
}

fn uptime(context: &mut Context<'_>) -> CommandResult {
    context.no_arguments()?;
    let state = context.state.snapshot(Detail::NoThreads);
    writeln!(context.out, "up {}, ready after {}", Time(state.taken_at_ns), Time(state.machine.ready_at_ns))?;
    if state.machine.times_are_guesses {
        writeln!(
            context.out,
            "these times, and all others, are guesses: nothing tells how fast the time counter runs"
        )?;
    }
    if let Some(report) = context.state.report() {
        writeln!(context.out, "crashed: {report}")?;
    }
    Ok(())
}

fn log_level(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => {
            let out = &mut *context.out;
            context.state.log(&mut |part| {
                let _ = out.write_str(part);
            });
            if context.state.offers() == Needs::Nothing {
                return Ok(());
            }
            writeln!(context.out, "level: {}", log::max_level().as_str().to_ascii_lowercase())?;
            Ok(())
        }
        [_] if context.state.offers() == Needs::Nothing => {
            Err(CommandError::failed("the machine is gone and logs nothing more"))
        }
        [name] => {
            let level: LevelFilter =
                name.parse().map_err(|_| CommandError::usage(format!("`{name}` is not a level")))?;
            log::set_max_level(level);
            Ok(())
        }
        _ => Err(CommandError::usage("takes one level")),
    }
}
