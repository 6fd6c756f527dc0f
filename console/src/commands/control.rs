//! Commands that act on the machine.

use alloc::format;
use core::hint::black_box;
use core::time::Duration;

use arch_contract::PowerAction;
use kernel::arch::*;
use kernel::capability::StopAllCpus;
use kernel::lock::InterruptGuard;
use kernel::memory::stack::{self, Keep};
use kernel::time::Deadline;
use kernel::{call, cpu, debug, memory, output, thread, watchdog};

use view::render::Bytes;

use super::{Command, CommandError, CommandResult, Context, Needs, parse_number, programs};
use crate::load::{self, KillError, Kind};

/// Maximum number of load threads spawned by one command.
const SPAWN_LIMIT: u64 = 100_000;

/// The right of the command `break`.
// SAFETY: a person types the command.
static STOP: StopAllCpus = unsafe { StopAllCpus::claim() };

/// The commands of this module.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "spawn",
        needs: Needs::Cpus,
        arguments: "spin|yield|sleep|allocate|deaf [COUNT [CPU]]",
        about: "starts test load: threads that are busy until killed",
        details: "spin computes without giving way, yield gives way all the time, sleep sleeps a millisecond at a time,\n\
                  allocate allocates and frees, deaf computes with interrupts off, for\n\
                  20 s at most. Without a CPU they are spread over all.",
        words: &["spin", "yield", "sleep", "allocate", "deaf"],
        run: spawn,
    },
    Command {
        name: "kill",
        needs: Needs::Cpus,
        arguments: "N | all",
        about: "ends a program, or test load started by `spawn`",
        details: "N is a program's number in `programs`, or a load thread's in `threads`. Other threads cannot be killed:\n\
                  what they leave behind would not be known.",
        words: &["all"],
        run: kill,
    },
    Command {
        name: "reclaim",
        needs: Needs::Cpus,
        arguments: "",
        about: "frees the memory that dead threads and freed stacks keep for reuse",
        details: "The kernel does that by itself when memory is short.",
        words: &[],
        run: reclaim,
    },
    Command {
        name: "watchdog",
        needs: Needs::Cpus,
        arguments: "[SECONDS | off]",
        about: "reports a CPU that takes no interrupts, and a thread that never gives way",
        details: "Each once, with the backtraces of all CPUs. Off unless asked for: a thread may compute for long.",
        words: &["off"],
        run: watch,
    },
    Command {
        name: "break",
        needs: Needs::Cpus,
        arguments: "",
        about: "stops all CPUs: for gdb, or for a prompt with breakpoints and steps",
        details: "`aero gdb` boots with a line to gdb, and attaches one. Without that line, the prompt `stopped>` comes: `break FUNCTION`\n\
                  and `break ADDRESS` set a breakpoint, `step` executes an instruction, `continue` goes on.",
        words: &[],
        run: |context| {
            context.no_arguments()?;
            if !debug::break_here(&STOP) && !debug::break_for_person(&STOP) {
                return Err(CommandError::failed(
                    "there is neither a line to gdb (`aero gdb` boots with one) nor a person at the console (`panic=exit`)",
                ));
            }
            let took = kernel::time::cycles_to_ns(debug::last_stop_cycles());
            Ok(writeln!(context.out, "all CPUs were stopped within {took} ns")?)
        },
    },
    Command {
        name: "steer",
        needs: Needs::Cpus,
        arguments: "LINE CPU",
        about: "delivers a device's interrupt line to another CPU",
        details: "`irqs` shows the lines in use.",
        words: &[],
        run: steer,
    },
    Command {
        name: "panic",
        needs: Needs::Cpus,
        arguments: "[null | overflow | opcode | heap | lock | threads | MESSAGE]",
        about: "crashes the kernel, to see the report",
        details: "null reads address 0, overflow uses up a thread's stack, opcode executes an invalid instruction, heap writes\n\
                  to freed memory before it panics, threads over a thread's description, lock panics with a lock taken;\n\
                  anything else is the message of a panic.",
        words: &["null", "overflow", "opcode", "heap", "lock", "threads"],
        run: panic,
    },
    Command {
        name: "reboot",
        needs: Needs::Machine,
        arguments: "",
        about: "starts the machine over",
        details: "",
        words: &[],
        run: |context| {
            context.no_arguments()?;
            output::power(PowerAction::Reboot, 0)
        },
    },
    Command {
        name: "poweroff",
        needs: Needs::Machine,
        arguments: "",
        about: "switches the machine off",
        details: "",
        words: &[],
        run: |context| {
            context.no_arguments()?;
            output::power(PowerAction::PowerOff, 0)
        },
    },
];

fn spawn(context: &mut Context<'_>) -> CommandResult {
    let (kind, count, on) = match context.arguments {
        [kind] => (kind, 1, None),
        [kind, count] => (kind, parse_number(count, "how many")?, None),
        [kind, count, on] => (kind, parse_number(count, "how many")?, Some(parse_number(on, "the CPU")? as usize)),
        _ => return Err(CommandError::usage("needs a kind of load")),
    };
    let kind = Kind::ALL
        .iter()
        .find(|entry| entry.0 == *kind)
        .ok_or_else(|| CommandError::usage(format!("there is no load `{kind}`")))?
        .1;
    if !(1..=SPAWN_LIMIT).contains(&count) {
        return Err(CommandError::usage(format!("starts 1 to {SPAWN_LIMIT} threads, not {count}")));
    }
    let cpus: alloc::vec::Vec<usize> = cpu::all().map(|cpu| cpu.index).collect();
    for number in 0..count as usize {
        let cpu = on.unwrap_or(cpus[number % cpus.len()]);
        let id =
            load::spawn(kind, cpu).map_err(|error| CommandError::failed(format!("{error}, after {number} threads")))?;
        if count <= 16 {
            writeln!(context.out, "thread {id} on CPU {cpu}")?;
        }
    }
    if count > 16 {
        writeln!(context.out, "{count} threads")?;
    }
    Ok(())
}

fn kill(context: &mut Context<'_>) -> CommandResult {
    let ids = match context.arguments {
        ["all"] => {
            let programs = programs::kill_all()?;
            if programs > 0 {
                writeln!(context.out, "{programs} {} ended", if programs == 1 { "program" } else { "programs" })?;
            }
            load::list()
        }
        _ => {
            let id = context.one_number("the program's or thread's number, or `all`")?;
            if programs::kill(id)? {
                return Ok(());
            }
            alloc::vec![id]
        }
    };
    let count = ids.len();
    for id in ids {
        match load::kill(id) {
            Ok(rounds) if count <= 16 => writeln!(context.out, "thread {id} ended after {rounds} rounds")?,
            Ok(_) => {}
            Err(KillError::NotLoad) => {
                return Err(CommandError::failed(format!("{id} is neither a program nor load started by `spawn`")));
            }
            Err(KillError::NotStopping) => {
                return Err(CommandError::failed(format!("thread {id} did not end within 5 s; it keeps running")));
            }
        }
    }
    if count > 16 {
        writeln!(context.out, "{count} threads ended")?;
    }
    Ok(())
}

fn reclaim(context: &mut Context<'_>) -> CommandResult {
    context.no_arguments()?;
    let before = memory::free_bytes();
    call::on_all(thread::empty_stock, call::DEFAULT_LIMIT).map_err(CommandError::failed)?;
    stack::reclaim(Keep::None);
    call::on_all(memory::flush_this_cpus_caches, call::DEFAULT_LIMIT).map_err(CommandError::failed)?;
    writeln!(context.out, "{} given back", Bytes(memory::free_bytes().saturating_sub(before)))?;
    Ok(())
}

fn watch(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        [] => match watchdog::limit() {
            Some(limit) => writeln!(context.out, "the watchdog reports what lasts {} s", limit.as_secs())?,
            None => writeln!(context.out, "the watchdog is off")?,
        },
        ["off"] => watchdog::stop(),
        [text] => {
            let seconds = parse_number(text, "how many seconds")?;
            if !(1..=3600).contains(&seconds) {
                return Err(CommandError::usage("from 1 to 3600 seconds"));
            }
            watchdog::start(Duration::from_secs(seconds)).map_err(CommandError::failed)?;
        }
        _ => return Err(CommandError::usage("needs seconds, off or nothing")),
    }
    Ok(())
}

fn steer(context: &mut Context<'_>) -> CommandResult {
    let [line, cpu] = context.arguments else { return Err(CommandError::usage("needs a line and a CPU")) };
    let (line, cpu) = (parse_number(line, "the line")?, parse_number(cpu, "the CPU")?);
    let line = u32::try_from(line).map_err(|_| CommandError::usage(format!("there is no line {line}")))?;
    kernel::interrupts::steer(line, cpu as usize).map_err(CommandError::failed)
}

fn panic(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        ["null"] => {
            // SAFETY: unsound on purpose: reading address 0 causes the trap that this command is
            // for.
            let value = unsafe { core::ptr::with_exposed_provenance::<u8>(black_box(0)).read_volatile() };
            Err(CommandError::failed(format!("address 0 could be read: {value}")))
        }
        ["overflow"] => {
            let handle = thread::spawn("overflower", || use_stack(0)).map_err(CommandError::failed)?;
            let depth = handle.join().map_err(CommandError::failed)?;
            Err(CommandError::failed(format!("the stack did not overflow after {depth} calls")))
        }
        ["heap"] => {
            break_heap();
            panic!("with a broken heap")
        }
        ["lock"] => {
            output::for_kept_log(|_| panic!("with the log locked"));
            Err(CommandError::failed("no log is kept"))
        }
        ["threads"] => break_thread(),
        ["opcode"] => Core::execute_invalid_instruction(),
        [] => panic!("asked for at the prompt"),
        words => panic!("{}", words.join(" ")),
    }
}

/// Corrupts the lists of free memory, so that their links lead nowhere.
fn break_heap() {
    const NOWHERE: u64 = 0xdead_dead_dead_dead;
    for size in (4..=12).map(|shift| 1usize << shift) {
        let block = alloc::boxed::Box::into_raw(alloc::vec![0u8; size].into_boxed_slice());
        // SAFETY: unsound on purpose: the block is written to after it was freed, which corrupts
        // the list of free blocks.
        unsafe {
            drop(alloc::boxed::Box::from_raw(block));
            block.cast::<u64>().write_unaligned(NOWHERE);
        }
    }
}

/// Overwrites a thread's description, then panics.
fn break_thread() -> CommandResult {
    let sleeper = thread::Builder::new("victim").spawn(|| thread::sleep(Duration::from_secs(3600)));
    let sleeper = sleeper.map_err(CommandError::failed)?;
    // The victim must leave the run queue, which other commands read.
    let deadline = Deadline::after(call::DEFAULT_LIMIT);
    while sleeper.thread().state() != thread::State::Blocked {
        if deadline.has_passed() {
            return Err(CommandError::failed("the victim does not block"));
        }
        thread::yield_now();
    }
    let victim = core::ptr::from_ref(sleeper.thread()).cast_mut().cast::<u8>();
    sleeper.detach();
    // A thread behind the victim lets the list of threads continue past it.
    load::spawn(Kind::Sleep, cpu::this_index()).map_err(CommandError::failed)?;
    // The victim contains a timer, which an interrupt could reach before the panic.
    let _guard = InterruptGuard::new();
    // SAFETY: unsound on purpose: the description still belongs to the sleeping thread, and
    // overwriting it is what this command is for.
    unsafe { victim.write_bytes(0xa5, size_of::<thread::Thread>()) };
    panic!("with a broken list of threads")
}

/// Recurses until the stack's guard stops it.
#[expect(unconditional_recursion, reason = "using up the stack is what it is for")]
fn use_stack(depth: u64) -> u64 {
    let filler = black_box([depth; 32]);
    use_stack(depth + 1) + filler[0]
}
