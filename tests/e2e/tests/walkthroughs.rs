//! The walk-throughs of docs/DEBUGGING.md, word for word, with real debuggers.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use e2e::Session;
use e2e::gdb::{Gdb, socket};
use e2e::transcript::Transcript;

/// The document's mark for output that varies.
const ANYTHING: &str = "...";
const PROMPT: &str = "(gdb) ";
const CONTROL_C: &str = "^C";

/// A command and its expected output.
struct Step<'a> {
    command: &'a str,
    interrupted: bool,
    expected: Vec<&'a str>,
}

/// Returns the walk-through under a heading: the command that starts it, and its steps.
fn walkthrough<'a>(document: &'a str, heading: &str) -> (&'a str, Vec<Step<'a>>) {
    let section = document.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("docs/DEBUGGING.md has no section {heading:?}"));
    let block = section.split("```\n").nth(1).expect("the section has a block");
    let mut lines = block.lines();
    let start = lines.next().and_then(|line| line.strip_prefix("$ ./aero ")).expect("the block begins with `$ ./aero`");
    let mut steps: Vec<Step<'_>> = Vec::new();
    for line in lines {
        match (line.strip_prefix(PROMPT), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command, interrupted: false, expected: Vec::new() }),
            (None, Some(step)) if line == CONTROL_C => step.interrupted = true,
            (None, Some(step)) => step.expected.push(line),
            (None, None) => panic!("{line:?} stands before the first command"),
        }
    }
    (start, steps)
}

/// Returns whether a line of output matches a line of the document.
fn matches(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (words(line), words(expected));
    let mut parts = expected.split(ANYTHING).map(str::trim);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let last = parts.pop();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// Splits a line into words as a shell does, with single quotes.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_string).collect(),
            _ => vec![part.to_string()],
        })
        .collect()
}

/// The repository's directory.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The socket that the document uses.
const SOCKET: &str = "/tmp/aero.gdb";

fn document() -> String {
    fs::read_to_string(format!("{ROOT}/docs/DEBUGGING.md")).expect("docs/DEBUGGING.md can be read")
}

/// Returns the block, introduced by `begin`, in the section whose heading begins with `heading`.
fn block<'a>(document: &'a str, heading: &str, begin: &str) -> &'a str {
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).expect("the section");
    section.split(begin).nth(1).and_then(|rest| rest.split("```").next()).expect("the section has a block")
}

/// A debugger other than [`Gdb`], with its output.
struct Debugger {
    child: Child,
    said: Transcript,
}

impl Debugger {
    fn start(command: &mut Command, of: &'static str) -> Self {
        let mut child = command
            .current_dir(ROOT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{of} cannot be run: {error}"));
        let said = Transcript::new(of, child.stdout.take().expect("a pipe"));
        Self { child, said }
    }

    fn type_in(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("a pipe"), "{line}").expect("it takes commands");
        self.said.note(line);
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(heading: &str) {
    let document = document();
    let (start, steps) = walkthrough(&document, heading);
    let mut gdb = Gdb::start(&shell_words(start));
    for step in steps {
        gdb.type_in(step.command);
        if step.interrupted {
            gdb.wait_for("Continuing.");
            gdb.interrupt();
        }
        let answer = gdb.wait_for_prompt();
        let mut lines = answer.lines();
        for expected in step.expected.iter().filter(|&&expected| expected != ANYTHING) {
            assert!(
                lines.any(|line| matches(line, expected)),
                "{heading}: `{}` does not say {expected:?}; it says\n{answer}",
                step.command
            );
        }
    }
}

#[test]
fn a_thread_that_is_stuck() {
    follow("A thread that is stuck");
}

#[test]
fn a_deadlock_of_two_mutexes() {
    follow("A deadlock of two mutexes");
}

#[test]
fn a_stack_overflow() {
    follow("A stack overflow");
}

#[test]
fn a_wild_write() {
    follow("A wild write");
}

#[test]
fn a_use_after_free() {
    follow("A use after free");
}

#[test]
fn lldb_attaches_as_it_is_written() {
    if Command::new("lldb").arg("--version").output().is_err() {
        eprintln!("skipped: there is no lldb here");
        return;
    }
    let document = document();
    let socket = socket("lldb");
    let text = block(&document, "LLDB", "```\n").replace(SOCKET, &socket.display().to_string());
    let lines: Vec<&str> = text.lines().collect();
    let boot = lines[0].strip_prefix("$ ./aero ").expect("the first line boots");
    let lldb = lines[1].strip_prefix("$ ").expect("the second line starts lldb");
    let mut shell = Session::start(&boot.split_whitespace().skip(1).collect::<Vec<_>>());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "lldb"]).args(lldb.split_whitespace()).arg("--no-lldbinit");
    let mut lldb = Debugger::start(&mut command, "lldb");
    for line in &lines[2..] {
        let line = line.strip_prefix("(lldb) ").expect("the others are commands");
        lldb.type_in(line);
        match line.split_whitespace().next() {
            Some("process") => drop(lldb.said.wait_for("stop reason = ")),
            Some("breakpoint") => drop(lldb.said.wait_for("Breakpoint 1: where = ")),
            Some("continue") => {
                shell.keys("uptime\r");
                lldb.said.wait_for("stop reason = breakpoint 1.1");
            }
            Some("detach") => drop(lldb.said.wait_for("detached")),
            _ if line == "thread list" => {
                lldb.said.wait_for("view::commands::inspect::uptime");
                // A blocked thread.
                lldb.said.wait_for("kernel::threads::scheduler::");
            }
            _ if line == "thread backtrace" => {
                lldb.said.wait_for("view::execute::Execution");
                lldb.said.wait_for("arch::cpu::context::start");
            }
            _ => {}
        }
    }
    // After lldb has detached, the kernel continues.
    shell.wait_for("up ");
}

#[test]
fn the_launch_file_for_visual_studio_code_is_right_for_gdb() {
    let document = document();
    let socket = socket("code");
    let text = block(&document, "Visual Studio Code", "```json\n").replace("${workspaceFolder}", ROOT);
    let launch: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let configuration = &launch["configurations"][0];
    let field = |name: &str| configuration[name].as_str().unwrap_or_else(|| panic!("it has no {name}"));
    assert_eq!((field("type"), field("MIMode"), field("miDebuggerServerAddress")), ("cppdbg", "gdb", SOCKET));
    let mut shell = Session::start(&["--gdb", &socket.display().to_string()]);
    // Drive gdb's machine interface as the extension does.
    let mut command = Command::new(field("miDebuggerPath"));
    command.args(["-nx", "-q", "--interpreter=mi"]).arg(field("program"));
    let mut gdb = Debugger::start(&mut command, "gdb");
    gdb.said.wait_for("(gdb)");
    for setup in configuration["setupCommands"].as_array().expect("setup commands") {
        let text = setup["text"].as_str().expect("a command").replace('"', "\\\"");
        gdb.type_in(&format!("-interpreter-exec console \"{text}\""));
        gdb.said.wait_for("^done");
    }
    gdb.type_in(&format!("-target-select remote {}", socket.display()));
    gdb.said.wait_for("^connected");
    gdb.type_in("-thread-info");
    let threads = gdb.said.wait_for("current-thread-id");
    assert!(threads.contains("details=\"blocked, CPU 0\",name=\"main\""), "{threads}");
    gdb.type_in("-break-insert view::commands::inspect::uptime");
    gdb.said.wait_for("^done,bkpt=");
    gdb.type_in("-exec-continue");
    shell.keys("uptime\r");
    gdb.said.wait_for("*stopped,reason=\"breakpoint-hit\"");
    gdb.type_in("-stack-list-frames");
    gdb.said.wait_for("view::execute::Execution");
}

#[test]
fn a_second_debugger_is_told_that_the_line_is_taken() {
    let socket = socket("taken");
    let mut shell = Session::start(&["--gdb", &socket.display().to_string()]);
    let mut first = Gdb::attach(&socket);
    let attach = format!("target remote {}", socket.display());
    let second = Command::new("gdb").args(["-nx", "-q", "-batch", "-ex", &attach]).output().expect("gdb can be run");
    let said = e2e::stderr(&second);
    assert!(second.status.code() == Some(1) && said.contains("another debugger is attached"), "{said}");
    // The first debugger is undisturbed. When it is gone, another one can attach.
    assert!(first.command("info threads").contains("\"main\""));
    first.type_in("detach");
    first.wait_for("detached]");
    first.die();
    let mut next = Gdb::attach(&socket);
    assert!(next.command("info threads").contains("\"main\""));
    next.type_in("detach");
    next.wait_for("detached]");
    shell.keys("uptime\r");
    shell.wait_for("up ");
}
