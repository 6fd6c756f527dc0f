//! The source of what commands show: the machine they run on, or the state that a crashed machine
//! has left in a file.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use arch_contract::fault::Registers;
use wire::snapshot::Snapshot;
use wire::trace::Event;

/// What a command needs and a state offers, in ascending order: a file of a machine that is gone, a
/// stopped machine, a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing; a file is enough.
    Nothing,
    /// The machine, though all but one of its CPUs may be stopped.
    Machine,
    /// Running CPUs.
    Cpus,
}

/// What a snapshot has of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// None: their list is not read, since it may be broken.
    NoThreads,
    /// As many of each CPU as fit a list.
    Threads,
    /// All.
    AllThreads,
}

/// The source of what commands show.
pub trait State {
    /// Returns what the state offers.
    fn offers(&self) -> Needs;
    /// Returns a snapshot.
    fn snapshot(&self, detail: Detail) -> Snapshot;
    /// Returns the frames of a thread as text, innermost first; `None` if there is no such thread.
    ///
    /// # Errors
    /// If the thread's CPU does not answer.
    fn backtrace(&self, thread: u64) -> Option<Result<Vec<String>, DoesNotAnswer>>;
    /// Returns the registers of a thread of a machine that is stopped or gone.
    fn registers(&self, thread: u64) -> Option<Registers>;
    /// Calls `each` with the parts of the kept log.
    fn log(&self, each: &mut dyn FnMut(&str));
    /// Calls `each` with the CPU and the event, for each of the last `limit` trace events.
    ///
    /// # Errors
    /// If there is no memory to gather the events.
    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), NoMemory>;
    /// Returns the rate of the time counter in Hz, and its value when the image was entered.
    fn clock(&self) -> (u64, u64);
    /// Returns the first statement of the crash report; `None` unless the machine is gone.
    fn report(&self) -> Option<&str> {
        None
    }
    /// Returns an address with the name of its function, as far as that is known.
    fn place(&self, address: u64) -> String {
        format!("{address:#018x} ?")
    }
    /// Calls `each` with the name and the size in bytes of each program in the image.
    fn files(&self, _each: &mut dyn FnMut(&str, u64)) {}
    /// Returns the tracer's state; `None` for a machine that is gone.
    fn tracer(&self) -> Option<Tracer> {
        None
    }
    /// Waits for some milliseconds. Returns false, without waiting, where nothing changes any more.
    fn wait(&self, _milliseconds: u64) -> bool {
        false
    }
    /// Starts recording anew, or stops it.
    ///
    /// # Errors
    /// If there is no memory for the recorded events.
    fn set_tracing(&self, _tracing: Tracing) -> Result<(), NoMemory> {
        Ok(())
    }
}

/// Whether events are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// Events are recorded, and earlier ones are forgotten.
    On,
    /// Events are not recorded.
    Off,
}

/// The tracer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    /// Whether events are recorded.
    pub tracing: Tracing,
    /// Number of events kept.
    pub kept: usize,
    /// Number of older events that were overwritten.
    pub lost: usize,
}

/// The error that there is not enough memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl core::fmt::Display for NoMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("out of memory")
    }
}

/// The error that a CPU does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotAnswer;
