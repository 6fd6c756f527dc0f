//! The prompt after a crash, which shows what is left, whatever is broken; and the crash file.

use std::process::Command;

use e2e::gdb::{Gdb, line, socket};
use e2e::{Session, aero, boot_and_run, stderr, stdout};

const PROMPT: &str = "post-mortem> ";
/// The prompt while the machine can still continue.
const LIVE_PROMPT: &str = "stopped> ";

/// Types a line at the prompt and returns the output.
fn ask(shell: &mut Session, line: &str) -> String {
    shell.keys(format!("{line}\r"));
    shell.wait_for(PROMPT)
}

/// Types a line at the prompt of a machine that can continue, and returns the output.
fn ask_live(shell: &mut Session, line: &str) -> String {
    shell.keys(format!("{line}\r"));
    shell.wait_for(LIVE_PROMPT)
}

#[test]
fn all_that_can_be_read_is_shown() {
    let mut shell = Session::start(&["--cpus", "4"]);
    shell.command("trace on");
    shell.command("spawn spin 1 2");
    shell.keys("panic as asked\r");
    shell.wait_for("panic: as asked");
    shell.wait_for(PROMPT);
    let threads = ask(&mut shell, "threads");
    assert!(threads.contains("main") && threads.contains("load-spin"), "{threads}");
    assert!(!threads.contains('?'), "all CPUs are stopped: {threads}");
    let registers = ask(&mut shell, "registers");
    assert_eq!(registers.matches("  rip ffff8").count(), 4, "{registers}");
    let backtrace = ask(&mut shell, "bt cpu 2");
    assert!(backtrace.contains("console::load::work"), "{backtrace}");
    let backtrace = ask(&mut shell, "bt cpu 0");
    assert!(backtrace.contains("kernel::crash::panic::panicked"), "{backtrace}");
    assert!(ask(&mut shell, "trace dump 5").contains("event"));
    assert!(ask(&mut shell, "cpus").contains("load-spin"));
    assert!(ask(&mut shell, "mem").contains("MiB"));
    assert!(ask(&mut shell, "peek 0").contains("nothing accessible is mapped"));
    // Commands that need a running kernel say so.
    assert!(ask(&mut shell, "spawn spin").contains("needs CPUs that run"));
    assert!(ask(&mut shell, "continue").contains("cannot go on"));
    assert!(ask(&mut shell, "nonsense").contains("there is no command"));
    // A line can be edited or abandoned.
    shell.keys("upx\x7ftimes\x7f\r");
    assert!(shell.wait_for(PROMPT).contains("up "));
    shell.keys("panic\x03");
    shell.wait_for(PROMPT);
    shell.keys("poweroff\r");
    assert_eq!(shell.end(), 0);
}

#[test]
fn it_works_with_the_heap_a_lock_or_the_threads_broken() {
    for (broken, report) in
        [("heap", "with a broken heap"), ("lock", "with the log locked"), ("threads", "with a broken list of threads")]
    {
        let mut shell = Session::start(&["--cpus", "2"]);
        shell.command("spawn spin 1 1");
        shell.keys(format!("panic {broken}\r"));
        shell.wait_for(report);
        shell.wait_for(PROMPT);
        let threads = ask(&mut shell, "threads");
        match broken {
            "threads" => assert!(threads.contains("the command was ended: "), "{threads}"),
            _ => assert!(threads.contains("load-spin"), "{broken}: {threads}"),
        }
        assert!(ask(&mut shell, "log").contains("2 of 2 CPUs run"), "{broken}");
        assert!(ask(&mut shell, "uptime").contains("up "), "{broken}");
        for round in 0..20 {
            let memory = ask(&mut shell, "mem");
            assert!(memory.contains("MiB"), "{broken}, {round}: {memory}");
        }
        shell.keys("poweroff\r");
        assert_eq!(shell.end(), 0);
    }
}

#[test]
fn gdb_attaches_after_the_crash() {
    let socket = socket("post-mortem");
    let line = line(&socket);
    let options: Vec<&str> = ["--cpus", "2"].into_iter().chain(line.iter().map(String::as_str)).collect();
    let mut shell = Session::start(&options);
    shell.keys("panic null\r");
    shell.wait_for(PROMPT);
    for _ in 0..2 {
        let mut gdb = Gdb::attach(&socket);
        let threads = gdb.command("info threads");
        assert!(threads.contains("(runs, CPU 0)") && threads.contains("(runs, CPU 1)"), "{threads}");
        let backtrace = gdb.command("backtrace");
        assert!(backtrace.contains("console::commands::control::panic"), "{backtrace}");
        assert!(gdb.command("monitor threads").contains("main"));
        gdb.command("detach");
        shell.wait_for("gdb was here");
        shell.wait_for(PROMPT);
        assert!(ask(&mut shell, "uptime").contains("up "));
    }
}

#[test]
fn a_report_of_the_watchdog_can_be_looked_into_and_left() {
    let mut shell = Session::start(&["--cpus", "2"]);
    shell.command("watchdog 1");
    shell.keys("spawn deaf 1 1\r");
    shell.wait_for("takes no interrupts");
    shell.wait_for(LIVE_PROMPT);
    let backtrace = ask_live(&mut shell, "bt cpu 1");
    assert!(backtrace.contains("console::load::work"), "{backtrace}");
    shell.keys("continue\r");
    assert!(shell.command("uptime").contains("up "));
    assert!(shell.command("spawn yield 1 0").contains("thread "));
}

#[test]
fn breakpoints_and_steps_need_no_gdb() {
    let mut shell = Session::start(&["--cpus", "2"]);
    shell.keys("break\r");
    shell.wait_for(LIVE_PROMPT);
    assert!(ask_live(&mut shell, "help").contains("delete [ADDRESS | FUNCTION]"));
    for (line, reason) in [
        ("break nonsense", "no function of that name"),
        ("break 0x10", "there is no kernel code there"),
        ("break context::switch_through", "the code that stops the CPUs executes it"),
        ("break trap::handle_exception", "the code that stops the CPUs executes it"),
        ("break crash::debug::handle", "the code that stops the CPUs executes it"),
        ("break 0xyz", "that is no address"),
        ("delete inspect::uptime", "there is none"),
        ("break a b", "too many arguments"),
    ] {
        let answer = ask_live(&mut shell, line);
        assert!(answer.contains("error: ") && answer.contains(reason), "{line}: {answer}");
    }
    assert!(ask_live(&mut shell, "break inspect::uptime").contains("view::commands::inspect::uptime+0x0"));
    assert!(ask_live(&mut shell, "break").contains("view::commands::inspect::uptime+0x0"));
    shell.keys("continue\r");
    shell.wait_for("all CPUs were stopped within");
    // Twice, because the breakpoint must survive being passed.
    for _ in 0..2 {
        shell.keys("uptime\r");
        let stopped = shell.wait_for(LIVE_PROMPT);
        assert!(stopped.contains("a breakpoint, on CPU 0, thread 2 \"main\""), "{stopped}");
        assert!(stopped.contains("view::commands::inspect::uptime+0x0"), "{stopped}");
        assert!(ask_live(&mut shell, "bt cpu 0").contains("console::shell::interact"));
        let places: Vec<String> = (0..3).map(|_| ask_live(&mut shell, "step")).collect();
        assert!(places[0].contains("uptime+0x") && places[0] != places[1] && places[1] != places[2], "{places:?}");
        shell.keys("continue\r");
        shell.wait_for("ready after");
    }
    // A breakpoint that all CPUs hit again and again.
    shell.command("spawn yield 2 0");
    shell.command("spawn yield 2 1");
    shell.keys("break\r");
    shell.wait_for(LIVE_PROMPT);
    ask_live(&mut shell, "delete");
    assert!(ask_live(&mut shell, "break context::switch").contains("arch::cpu::context::switch+0x0"));
    for _ in 0..10 {
        let stopped = ask_live(&mut shell, "continue");
        assert!(stopped.contains("arch::cpu::context::switch+0x0"), "{stopped}");
    }
    ask_live(&mut shell, "delete");
    // The shell printed its prompt during an earlier `continue`, so we wait for the command's
    // output.
    shell.keys("continue\rkill all\r");
    for _ in 0..4 {
        shell.wait_for("ended after");
    }
    shell.wait_for("> \x1b[K");
    assert!(shell.command("uptime").contains("ready after"));
}

/// Runs commands with `aero inspect` on the crash file that the messages name. Returns the exit
/// status, standard output and standard error.
fn inspect(messages: &str, commands: &str) -> (Option<i32>, String, String) {
    let named = messages.split("`./aero inspect ").nth(1).and_then(|rest| rest.split('`').next());
    let file = named.unwrap_or_else(|| panic!("no crash file is named in {messages}"));
    let output = aero().args(["inspect", file, commands]).output().expect("aero can be run");
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn a_step_onto_a_fault_comes_back_to_the_prompt() {
    let report = stderr(&boot_and_run("panic null", &[]));
    let place = report.split("rip ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("RIP is reported");
    let mut shell = Session::start(&[]);
    shell.keys("break\r");
    shell.wait_for(LIVE_PROMPT);
    let planted = ask_live(&mut shell, &format!("break 0x{}", place.trim_start_matches("0x")));
    assert!(planted.contains("a breakpoint at"), "{planted}");
    shell.keys("continue\r");
    shell.wait_for("all CPUs were stopped within");
    shell.keys("panic null\r");
    assert!(shell.wait_for(LIVE_PROMPT).contains("a breakpoint, on CPU 0"));
    let stepped = ask_live(&mut shell, "step");
    assert!(stepped.contains("the instruction faults"), "{stepped}");
    // Resumed, the instruction faults as it would without a step.
    shell.keys("continue\r");
    shell.wait_for("page fault: read from 0x0");
    shell.wait_for(PROMPT);
}

#[test]
fn a_prompt_for_a_person_needs_one() {
    let output = boot_and_run("break", &["--timeout", "20"]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("neither a line to gdb"), "{}", stdout(&output));
}

#[test]
fn a_crash_file_has_what_the_prompt_shows() {
    let output = boot_and_run("trace on; spawn spin 1 1; panic as asked", &["--cpus", "3"]);
    assert_eq!(output.status.code(), Some(3));
    let messages = stderr(&output);
    let commands = "uptime; threads; bt cpu 0; bt cpu 1; registers; log; trace dump 5; mem";
    let (status, out, errors) = inspect(&messages, commands);
    assert_eq!(status, Some(0), "{out}{errors}");
    for shown in [
        "crashed: panic: as asked",
        "load-spin",
        "kernel::crash::panic::panicked+",
        " at console/src/commands/control.rs:",
        "CPU 1, thread ",
        "CPU 2, thread ",
        "3 of 3 CPUs run",
        "since ns",
        "MiB",
    ] {
        assert!(out.contains(shown), "{shown:?} is not in {out}");
    }
    let (status, out, _) = inspect(&messages, "spawn spin");
    assert!(status == Some(1) && out.contains("needs the machine, which is gone"), "{out}");
}

#[test]
fn a_core_file_of_a_crash_opens_in_gdb() {
    // The loads stand before `main` in the run queue, so when `main` sleeps, each of them runs
    // until it sleeps or its quantum ends. With `--icount` no quantum ends because the host is
    // busy with something else.
    let script = "spawn spin 1 0; spawn sleep 3 0; sleep 0.001; log debug; panic as asked";
    let output = boot_and_run(script, &["--icount", "--cpus", "3"]);
    let messages = stderr(&output);
    let named =
        messages.split("`./aero inspect ").nth(1).and_then(|rest| rest.split('`').next()).expect("a crash file");
    let core = std::env::temp_dir().join(format!("aero-core-{}", std::process::id()));
    let written = aero().args(["inspect", named, "--core"]).arg(&core).output().expect("aero can be run");
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    // `aero inspect --core` prints the gdb command that opens the file.
    let text =
        gdb_of(&stdout(&written), &["bt", "info threads", "thread apply all bt", "print log::MAX_LOG_LEVEL_FILTER"]);
    let _ = std::fs::remove_file(&core);
    let first = text.split("Id   Target Id").next().unwrap_or_default();
    assert!(
        first.contains("kernel::crash::panic::panicked") && first.contains("console::commands::control::panic"),
        "{text}"
    );
    // The backtraces of the spinning thread and the sleeping ones reach their first frames.
    let all = text.rsplit("Id   Target Id").next().unwrap_or_default();
    assert_eq!(all.matches("console::load::work (").count(), 4, "{text}");
    assert_eq!(all.matches("kernel::threads::thread::sleep_until (").count(), 3, "{text}");
    assert!(!text.contains("Cannot access memory") && !text.contains("may not match"), "{text}");
    // The value that `log debug` set, not the image's initial value.
    assert!(text.contains("core::sync::atomic::private::Align8<usize> (4)"), "{text}");
}

/// Runs the gdb command that `aero inspect --core` prints, with further commands.
fn gdb_of(said: &str, commands: &[&str]) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[0], "gdb", "{said}");
    let mut gdb = Command::new(words[0]);
    gdb.args(["-nx", "-q", "-batch", "-iex", "set width 0", "-iex", "set style enabled off"]).args(&words[1..]);
    commands.iter().for_each(|command| {
        gdb.args(["-ex", command]);
    });
    let shown = gdb.output().expect("gdb is installed: `./aero doctor`");
    stdout(&shown) + &stderr(&shown)
}

#[test]
fn a_core_file_has_all_memory_while_the_machine_is_there() {
    let mut shell = Session::start(&["--cpus", "2"]);
    shell.keys("panic as asked\r");
    shell.wait_for("`./aero inspect ");
    let file = shell.wait_for("`").trim_end_matches('`').to_string();
    shell.keys("\r");
    shell.wait_for(PROMPT);
    let core = std::env::temp_dir().join(format!("aero-memory-{}", std::process::id()));
    let write = |options: &[&str]| aero().args(["inspect", &file, "--core"]).arg(&core).args(options).output();
    // A page in the window on physical memory, which the crash file does not contain.
    let commands = ["bt", "x/2xb 0xffff800000001000"];
    let small = write(&[]).expect("aero can be run");
    let shown = gdb_of(&stdout(&small), &commands);
    assert!(shown.contains("kernel::crash::panic::panicked") && shown.contains("Cannot access memory"), "{shown}");
    let whole = write(&["--memory"]).expect("aero can be run");
    assert_eq!(whole.status.code(), Some(0), "{}", stderr(&whole));
    let shown = gdb_of(&stdout(&whole), &commands);
    assert!(shown.contains("kernel::crash::panic::panicked") && shown.contains("0xffff800000001000:"), "{shown}");
    shell.keys("poweroff\r");
    assert_eq!(shell.end(), 0);
    let gone = write(&["--memory"]).expect("aero can be run");
    assert!(gone.status.code() == Some(1) && stderr(&gone).contains("the machine is gone"), "{}", stderr(&gone));
    let _ = std::fs::remove_file(&core);
}

#[test]
fn a_broken_kernel_leaves_what_is_left() {
    let output = boot_and_run("panic threads", &[]);
    let (status, out, errors) = inspect(&stderr(&output), "uptime; mem; log");
    assert_eq!(status, Some(0), "{out}{errors}");
    assert!(out.contains("with a broken list of threads") && out.contains("MiB") && out.contains("CPUs run"), "{out}");
}

#[test]
fn what_is_no_crash_file_is_refused() {
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (file, reason) in
        [(other, "it is no crash file"), ("/dev/null", "is empty"), ("/nonexistent", "cannot be read")]
    {
        let output = Command::new(aero().get_program()).args(["inspect", file]).output().expect("aero can be run");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}
