//! The command `run`, the reports of background programs, and the killing of programs.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use kernel::program::{self, Left, Outcome, Program};
use kernel::thread::Builder;
use kernel::time::Deadline;
use kernel::wait::{Condition, Mutex};
use view::Person;

use super::{Command, CommandError, CommandResult, Context, Needs};

/// Time between two checks for Ctrl-C.
const POLL: Duration = Duration::from_millis(20);
/// Time that a killed program has to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Last word of a line whose program runs in the background.
const IN_BACKGROUND: &str = "&";

/// Numbers of the background programs whose end is still to be reported.
static TO_REPORT: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static REPORTED: Condition = Condition::new();

/// The commands of this module.
pub const COMMANDS: &[Command] = &[Command {
    name: "run",
    needs: Needs::Cpus,
    arguments: "NAME [ARGUMENTS] [&]",
    about: "runs a program of the image",
    details: "Waits for its end, and has its exit status; Ctrl-C kills it. With & at the end it goes on in the\n\
                  background. `programs` lists what there is; `aero boot --hrt DIR` puts more in.",
    words: &[],
    run,
}];

fn run(context: &mut Context<'_>) -> CommandResult {
    let Some((&name, arguments)) = context.arguments.split_first() else {
        return Err(CommandError::usage("needs a program's name"));
    };
    let file = program::files().find(|file| file.name == name);
    let file =
        file.ok_or_else(|| CommandError::failed(format!("the image has no program `{name}`; see `programs`")))?;
    let (arguments, in_background) = match arguments {
        [rest @ .., last] if *last == IN_BACKGROUND => (rest, true),
        all => (all, false),
    };
    // SAFETY: the file is a program that was packed into the image to run in kernel mode, and
    // `hrt_kernel::resolve` returns the interface's own functions.
    let program = unsafe { program::start(&file, arguments, &hrt_kernel::resolve) }
        .map_err(|error| CommandError::failed(format!("`{name}` is not run: {error}")))?;
    if in_background {
        writeln!(context.out, "program {} runs", program.id())?;
        return report_end(program);
    }
    while program.wait_until(Deadline::after(POLL)).is_err() {
        if context.person.is_some_and(Person::is_interrupted) {
            program.end(Outcome::Killed);
        }
    }
    let left = program.left();
    let leaked = left.memory;
    if leaked.blocks > 0 {
        writeln!(context.out, "program {program} left {} B in {} blocks; taken back", leaked.bytes, leaked.blocks)?;
    }
    match program.outcome() {
        Some(Outcome::Exited(0)) | None => left
            .overrun
            .map_or(Ok(()), |overrun| Err(CommandError::failed(format!("`{name}` misused its memory: {overrun}")))),
        Some(Outcome::Exited(status)) => {
            let error = CommandError::failed(format!("`{name}` exited with status {status}"));
            Err(error.with_status(u8::try_from(status).unwrap_or(u8::MAX)))
        }
        Some(outcome) => Err(CommandError::failed(format!("`{name}` {outcome}"))),
    }
}

/// Starts a thread that reports the end of a background program.
fn report_end(program: Arc<Program>) -> CommandResult {
    let id = program.id();
    TO_REPORT.lock().push(id);
    let reporter = Builder::new("reporter").spawn(move || {
        let _ = program.wait_until(Deadline::NEVER);
        kernel::println!("program {program} {}", describe(&program));
        // The program and its image are released before threads that wait for the report continue.
        drop(program);
        was_reported(id);
    });
    if reporter.is_err() {
        was_reported(id);
    }
    reporter.map(kernel::thread::JoinHandle::detach).map_err(CommandError::failed)
}

fn was_reported(id: u64) {
    TO_REPORT.lock().retain(|&other| other != id);
    REPORTED.broadcast();
}

fn describe(program: &Program) -> String {
    let outcome = program.outcome().map_or_else(|| "ended".into(), |outcome| format!("{outcome}"));
    let Left { memory, overrun } = program.left();
    let memory = match memory.blocks {
        0 => String::new(),
        blocks => format!("; it left {} B in {blocks} blocks, taken back", memory.bytes),
    };
    let overrun = overrun.map_or_else(String::new, |overrun| format!("; {overrun}"));
    format!("{outcome}{memory}{overrun}")
}

/// Kills a program. Returns false if no program has this number.
///
/// # Errors
/// If the program does not end in time, or its report does not come.
pub fn kill(id: u64) -> Result<bool, CommandError> {
    let Some(program) = program::by_id(id) else { return Ok(false) };
    end(&program)?;
    Ok(true)
}

/// Kills all programs and returns their number.
///
/// # Errors
/// If one of them does not end in time, or its report does not come.
pub fn kill_all() -> Result<usize, CommandError> {
    let running = program::all();
    running.iter().try_for_each(end)?;
    Ok(running.len())
}

fn end(program: &Arc<Program>) -> CommandResult {
    program.end(Outcome::Killed);
    let deadline = Deadline::after(KILL_LIMIT);
    program
        .wait_until(deadline)
        .map_err(|_| CommandError::failed(format!("program {program} does not end; `thread N` shows its threads")))?;
    // The program's report is printed before the next prompt.
    let mut to_report = TO_REPORT.lock();
    while to_report.contains(&program.id()) {
        let result;
        (to_report, result) = REPORTED.wait_until(to_report, deadline);
        result.map_err(|_| {
            CommandError::failed(format!(
                "program {program} ended, but its report does not come; `programs` shows what runs"
            ))
        })?;
    }
    Ok(())
}
