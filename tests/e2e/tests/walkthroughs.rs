//! The walk-throughs of docs/DEBUGGING.md, word for word, with a real gdb.

use std::fs;

use e2e::gdb::Gdb;

/// What varies.
const ANYTHING: &str = "...";
const PROMPT: &str = "(gdb) ";
const CONTROL_C: &str = "^C";

/// A command, and what it says.
struct Step<'a> {
    command: &'a str,
    interrupted: bool,
    expected: Vec<&'a str>,
}

/// The walk-through under a heading: the command that starts it, and its steps.
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

/// True if a line is what the document says.
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

/// Words as a shell makes them of a line with single quotes.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_string).collect(),
            _ => vec![part.to_string()],
        })
        .collect()
}

fn follow(heading: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/DEBUGGING.md");
    let document = fs::read_to_string(path).expect("docs/DEBUGGING.md can be read");
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
