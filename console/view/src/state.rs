//! Where commands get what they show: the machine they run on, or what a crashed one has left in a file.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use arch_contract::fault::Registers;
use wire::snapshot::Snapshot;
use wire::trace::Event;

/// A machine that runs, one that is stopped, or one that is gone: each can do less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing: a file will do.
    Nothing,
    /// The machine, though all but one of its CPUs may be stopped.
    Machine,
    /// CPUs that run.
    Cpus,
}

/// Where commands get what they show.
pub trait State {
    /// What there is.
    fn offers(&self) -> Needs;
    /// The state; without threads if their list is not needed, and may be broken.
    fn snapshot(&self, with_threads: bool) -> Snapshot;
    /// As [`State::snapshot`], with all threads there are.
    fn snapshot_of_all(&self) -> Snapshot;
    /// The frames of a thread, innermost first, as text; `None` if there is no such thread.
    ///
    /// # Errors
    /// If its CPU does not answer.
    fn backtrace(&self, thread: u64) -> Option<Result<Vec<String>, DoesNotAnswer>>;
    /// Registers of a thread of a machine that does not run.
    fn registers(&self, thread: u64) -> Option<Registers>;
    /// Calls `each` with the parts of the kept log.
    fn log(&self, each: &mut dyn FnMut(&str));
    /// Calls `each` with the CPU and the event for the last trace events.
    ///
    /// # Errors
    /// If there is no memory to gather them.
    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), NoMemory>;
    /// Rate of the time counter in Hz, and the time counter when the image was entered.
    fn clock(&self) -> (u64, u64);
    /// What the crash report says first, of a machine that is gone.
    fn report(&self) -> Option<&str> {
        None
    }
    /// An address with the name of the function that it is in, as far as that is known.
    fn place(&self, address: u64) -> String {
        format!("{address:#018x} ?")
    }
    /// Calls `each` with the name and the bytes of each program in the image.
    fn files(&self, _each: &mut dyn FnMut(&str, u64)) {}
    /// The tracer's state; `None` for a machine that is gone.
    fn tracer(&self) -> Option<Tracer> {
        None
    }
    /// Starts recording anew, or stops it.
    ///
    /// # Errors
    /// If there is no memory for what is recorded.
    fn set_tracing(&self, _tracing: Tracing) -> Result<(), NoMemory> {
        Ok(())
    }
}

/// Whether events are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// From now on, and what was is forgotten.
    On,
    /// No longer.
    Off,
}

/// The tracer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    /// Whether events are recorded.
    pub tracing: Tracing,
    /// Events that are kept.
    pub kept: usize,
    /// Older events, which were overwritten.
    pub lost: usize,
}

/// There is no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl core::fmt::Display for NoMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("out of memory")
    }
}

/// A CPU does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotAnswer;
