//! Execution of command lines on this machine, and aliases.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use kernel::lock::SpinLock;
use kernel::sandbox;
use view::{Command, Execution, Needs, Person, words};

use crate::commands;
use crate::state::Here;

/// Maximum number of aliases.
const ALIAS_LIMIT: usize = 64;
/// Maximum number of aliases expanded one after the other in a line.
const ALIAS_DEPTH: usize = 8;

/// Names that stand for the beginning of a command line.
static ALIASES: SpinLock<Aliases> = SpinLock::new(Aliases(Vec::new()));

/// Returns the execution of command lines on this machine, with the image's own commands, for the
/// person who types them.
pub fn here<'a>(extra: &'static [Command], person: Option<&'a dyn Person>) -> Execution<'a> {
    Execution { catalog: commands::catalog(extra), state: &Here, person, expand: Some(expand) }
}

fn expand(line: &str) -> String {
    ALIASES.lock().expand(line)
}

/// Runs a command line on a stopped machine, as far as its commands work there, and returns its
/// status.
///
/// # Safety
/// All other CPUs are stopped, and interrupts are off.
pub unsafe fn execute_stopped(line: &str, out: &mut dyn Write) -> u8 {
    let mut status = 0;
    let execution = here(&[], None);
    // SAFETY: the caller guarantees that all other CPUs are stopped and interrupts are off. Output
    // leaves at once or is stored in the caller's memory, so nothing allocated in the sandbox
    // outlives the call.
    if let Err(abandoned) = unsafe { sandbox::attempt(&mut || status = execution.run(line, out)) } {
        let _ = writeln!(out, "\nerror: the command was ended: {abandoned}");
        status = 1;
    }
    status
}

/// Returns what the most demanding command of a line needs; `None` if a command does not exist or
/// the line cannot be examined, for which [`execute_stopped`] then states the reason.
///
/// # Safety
/// All other CPUs are stopped, and interrupts are off.
pub unsafe fn needs_of(line: &str, extra: &'static [Command]) -> Option<Needs> {
    let mut needs = None;
    // The lookup allocates, so on a stopped machine it runs in the sandbox.
    let mut look = || {
        let need_of = |part: &str| {
            let part = ALIASES.lock().expand(part);
            let name = part.split_whitespace().next()?;
            commands::catalog(extra).find(name).map(|command| command.needs)
        };
        let parts = words::parts(line, |character| character == ';').filter(|part| !part.trim().is_empty());
        needs = parts.map(need_of).try_fold(Needs::Nothing, |most, need| Some(most.max(need?)));
    };
    // SAFETY: the caller guarantees that all other CPUs are stopped and interrupts are off. The
    // result is a plain value, so nothing allocated in the sandbox outlives the call.
    let _ = unsafe { sandbox::attempt(&mut look) };
    needs
}

/// Runs a command line as the session on the serial line does, and returns its status.
pub fn execute_running(line: &str, extra: &'static [Command], out: &mut dyn Write) -> u8 {
    here(extra, None).run(line, out)
}

/// Names and their meanings.
struct Aliases(Vec<(String, String)>);

impl Aliases {
    fn set(&mut self, name: &str, meaning: &str) -> Result<(), &'static str> {
        self.0.retain(|(known, _)| *known != name);
        if meaning.is_empty() {
            return Ok(());
        }
        if self.0.len() == ALIAS_LIMIT || self.0.try_reserve(1).is_err() {
            return Err("there is no room for another alias");
        }
        self.0.push((name.to_string(), meaning.to_string()));
        Ok(())
    }

    /// Returns the line with the alias at its beginning replaced, repeatedly if the meaning begins
    /// with another alias. Each alias is replaced at most once.
    fn expand(&self, line: &str) -> String {
        let mut line = line.trim().to_string();
        let mut used: Vec<String> = Vec::new();
        for _ in 0..ALIAS_DEPTH {
            let name = line.split_whitespace().next().unwrap_or("").to_string();
            let known = self.0.iter().find(|(known, _)| *known == name && !used.contains(known));
            let Some((_, meaning)) = known else { break };
            line.replace_range(..name.len(), meaning);
            used.push(name);
        }
        line
    }
}

/// Makes a name stand for the beginning of a command line. An empty meaning forgets the name.
///
/// # Errors
/// If there is no room for another alias.
pub fn set_alias(name: &str, meaning: &str) -> Result<(), &'static str> {
    ALIASES.lock().set(name, meaning)
}

/// Returns all aliases with their meanings.
pub fn aliases() -> Vec<(String, String)> {
    ALIASES.lock().0.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_words_and_never_for_itself() {
        let mut aliases = Aliases(Vec::new());
        for (name, meaning) in [("t", "threads | grep"), ("a", "b 1"), ("b", "a 2")] {
            assert_eq!(aliases.set(name, meaning), Ok(()));
        }
        assert_eq!(aliases.expand("t load"), "threads | grep load");
        assert_eq!(aliases.expand("a"), "a 2 1");
        assert_eq!(aliases.set("t", ""), Ok(()));
        assert_eq!(aliases.expand("t load"), "t load");
        let room = ALIAS_LIMIT - aliases.0.len();
        assert!((0..room).all(|number| aliases.set(&number.to_string(), "x").is_ok()));
        assert!(aliases.set("one more", "x").is_err());
    }
}
