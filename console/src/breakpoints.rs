//! Breakpoints and single steps without gdb, at the prompt for stopped CPUs: `break`, `delete`,
//! `step`, `continue`.
//!
//! Breakpoints are in the code only while CPUs run, so the code that the prompt executes contains
//! none.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};

use arch_contract::MAX_CPUS;
use arrayvec::ArrayVec;
use kernel::debug::{Order, Reason, Stop};
use kernel::{backtrace, symbols};

/// Maximum number of breakpoints.
const LIMIT: usize = 16;

/// Name prefixes of the functions that a CPU executes between a breakpoint and the prompt. A
/// breakpoint in one of them would never lead to the prompt.
const ON_THE_WAY: [&str; 9] = [
    "arch::cpu::trap",
    "arch::cpu::apic",
    "arch::cpu::debug",
    "arch::cpu::descriptors",
    "arch::cpu::context::switch_through",
    "arch::cpu::context::resume",
    "kernel::crash::debug",
    "kernel::time::spin_until",
    "mem",
];

/// True for the name of such a function; a trait's is in angle brackets.
fn is_on_the_way(name: &str) -> bool {
    ON_THE_WAY.iter().any(|way| name.trim_start_matches('<').starts_with(way))
}

/// The state kept from one stop to the next.
struct Kept {
    addresses: ArrayVec<usize, LIMIT>,
    /// Set while a step only leads over a breakpoint and `continue` is still to follow.
    continues: bool,
}

/// The kept state, which the host of a stop uses.
struct Cell(UnsafeCell<Kept>);

// SAFETY: only the host of a stop uses the cell, and there is at most one host at a time.
unsafe impl Sync for Cell {}

static KEPT: Cell = Cell(UnsafeCell::new(Kept { addresses: ArrayVec::new_const(), continues: false }));

/// The prompt's breakpoints during a stop.
pub struct Breakpoints {
    kept: &'static mut Kept,
}

/// The outcome of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The line is not a command of this module.
    Other,
    /// The command is done; the CPUs stay stopped.
    Stay,
    /// The CPUs continue as the stop's orders say.
    GoOn,
}

impl Breakpoints {
    /// Takes the planted breakpoints out of the code, now that the CPUs have stopped. Returns
    /// `None` if the stop only completes a step over a breakpoint: the breakpoints are planted
    /// again, and the CPUs are to continue at once.
    pub fn begin(stop: &mut Stop) -> Option<Self> {
        // SAFETY: the caller is the host of the stop, the only one at a time, and the `Breakpoints`
        // of the stop before is gone.
        let kept = unsafe { &mut *KEPT.0.get() };
        for &address in &kept.addresses {
            stop.remove(address);
        }
        let was_step_over = core::mem::take(&mut kept.continues) && stop.reason == Reason::Stepped;
        let here = Self { kept };
        if was_step_over {
            here.plant(stop);
            return None;
        }
        Some(here)
    }

    fn plant(&self, stop: &mut Stop) {
        for &address in &self.kept.addresses {
            stop.plant(address);
        }
    }

    /// Prints where the CPUs have stopped, if a breakpoint, a step or a fault is the reason.
    pub fn tell(&self, stop: &mut Stop) {
        let host = stop.host;
        if stop.reason == Reason::Breakpoint {
            let (thread, name) = stop.running(host);
            kernel::println!("\na breakpoint, on CPU {host}, thread {thread} \"{name}\":");
        }
        if let Reason::Fault { .. } = stop.reason {
            kernel::println!("\nthe instruction faults; `continue` lets it:");
        }
        if matches!(stop.reason, Reason::Breakpoint | Reason::Stepped | Reason::Fault { .. }) {
            backtrace::print_innermost(stop.registers(host));
        }
    }

    /// Executes a line if it is a command of this module.
    pub fn execute(&mut self, line: &str, stop: &mut Stop, out: &mut dyn Write) -> Answer {
        let mut words = line.split_whitespace();
        let (command, argument, more) = (words.next(), words.next(), words.next());
        let answer = match (command, argument, more) {
            (Some("break" | "delete" | "step" | "continue"), ..) if stop.has_crashed() => {
                Err("the kernel has crashed and cannot go on".into())
            }
            (Some("continue"), None, _) => {
                self.go_on(stop);
                return Answer::GoOn;
            }
            (Some("step"), None, _) => {
                step(stop);
                return Answer::GoOn;
            }
            (Some("break"), None, _) => Ok(self.list(out)),
            (Some("break"), Some(place), None) => address_of(place).and_then(|address| self.add(address, stop, out)),
            (Some("delete"), None, _) => {
                self.forget();
                Ok(Ok(()))
            }
            (Some("delete"), Some(place), None) => address_of(place).and_then(|address| self.delete(address)),
            (Some("break" | "delete" | "step" | "continue"), ..) => Err("too many arguments; `help` lists them".into()),
            _ => return Answer::Other,
        };
        if let Err(reason) = answer {
            let _ = writeln!(out, "error: {}: {reason}", command.unwrap_or_default());
        }
        Answer::Stay
    }

    /// Forgets all breakpoints: for `delete` without a place, and after a debugger has taken them
    /// out of the code.
    pub fn forget(&mut self) {
        self.kept.addresses.clear();
    }

    fn list(&self, out: &mut dyn Write) -> fmt::Result {
        for &address in &self.kept.addresses {
            writeln!(out, "  {}", symbols::resolve(address))?;
        }
        if self.kept.addresses.is_empty() { writeln!(out, "there are no breakpoints") } else { Ok(()) }
    }

    fn add(&mut self, address: usize, stop: &mut Stop, out: &mut dyn Write) -> Result<fmt::Result, Reasoned> {
        if self.kept.addresses.contains(&address) {
            return Err("there is one already".into());
        }
        let place = symbols::resolve(address);
        // Planting tests whether a breakpoint can be set here. A program's code is refused, because
        // its address may belong to another program when the breakpoint is next planted.
        if place.function.is_none() || place.program.is_some() || !stop.plant(address) {
            return Err("there is no kernel code there that can be changed".into());
        }
        if place.function.is_some_and(|(name, _)| is_on_the_way(name)) {
            stop.remove(address);
            return Err("the code that stops the CPUs executes it".into());
        }
        stop.remove(address);
        self.kept
            .addresses
            .try_push(address)
            .map_err(|_| Reasoned::from("there are too many breakpoints; `delete` removes them"))?;
        Ok(writeln!(out, "a breakpoint at {}", symbols::resolve(address)))
    }

    fn delete(&mut self, address: usize) -> Result<fmt::Result, Reasoned> {
        let place = self.kept.addresses.iter().position(|&other| other == address);
        self.kept.addresses.remove(place.ok_or_else(|| Reasoned::from("there is none at that place"))?);
        Ok(Ok(()))
    }

    /// Lets all CPUs continue. A host at a breakpoint first steps over it while the other CPUs stay
    /// stopped, since the breakpoint cannot be in the code during that step.
    fn go_on(&mut self, stop: &mut Stop) {
        let at = stop.registers(stop.host).instruction_pointer;
        let is_fault = matches!(stop.reason, Reason::Fault { .. });
        if self.kept.addresses.contains(&at) && !is_fault {
            self.kept.continues = true;
            step(stop);
        } else {
            self.plant(stop);
        }
    }
}

/// Orders the host to execute one instruction and the other CPUs to stay stopped.
fn step(stop: &mut Stop) {
    let host = stop.host;
    (0..MAX_CPUS).for_each(|cpu| stop.order(cpu, if cpu == host { Order::Step } else { Order::Stay }));
}

/// The reason why a command was not executed.
enum Reasoned {
    Text(&'static str),
    Name(symbols::NameError),
}

impl From<&'static str> for Reasoned {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Reasoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Name(error) => error.fmt(f),
        }
    }
}

/// Parses an address in hexadecimal with `0x`, or the name of a function.
fn address_of(place: &str) -> Result<usize, Reasoned> {
    match place.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).map_err(|_| "that is no address".into()),
        None => symbols::address_of(place).map_err(Reasoned::Name),
    }
}
