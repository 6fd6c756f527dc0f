//! What commands show: the machine they run on, or what a crashed one has left in a file.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use arch_contract::fault::Registers;
use kernel::backtrace::Frame;
use kernel::memory::OutOfMemory;
use kernel::snapshot;
use kernel::{backtrace, output, sandbox, stopped, time, trace};
use wire::crash_file::{CpuRegisters, CrashFile};
use wire::snapshot::Snapshot;
use wire::trace::Event;

/// Most threads described per CPU where one is looked for.
const ALL_THREADS: usize = usize::MAX >> 16;

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
    /// [`OutOfMemory`].
    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), OutOfMemory>;
    /// Rate of the time counter in Hz, and the time counter when the image was entered.
    fn clock(&self) -> (u64, u64);
    /// What the crash report says first, of a machine that is gone.
    fn report(&self) -> Option<&str> {
        None
    }
}

/// A CPU does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotAnswer;

/// The machine this runs on.
pub struct Here;

impl State for Here {
    fn offers(&self) -> Needs {
        if sandbox::is_active() { Needs::Machine } else { Needs::Cpus }
    }

    fn snapshot(&self, with_threads: bool) -> Snapshot {
        if with_threads { snapshot::take() } else { snapshot::take_without_threads() }
    }

    fn snapshot_of_all(&self) -> Snapshot {
        snapshot::take_with(ALL_THREADS)
    }

    fn backtrace(&self, thread: u64) -> Option<Result<Vec<String>, DoesNotAnswer>> {
        let (frames, certain) = backtrace::of_thread(thread)?;
        Some(if certain { Ok(frames.iter().map(Frame::to_string).collect()) } else { Err(DoesNotAnswer) })
    }

    fn registers(&self, thread: u64) -> Option<Registers> {
        stopped::registers_of(thread)
    }

    fn log(&self, each: &mut dyn FnMut(&str)) {
        output::for_kept_log(each);
    }

    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), OutOfMemory> {
        trace::for_last(limit, each)
    }

    fn clock(&self) -> (u64, u64) {
        (time::cycle_frequency_hz(), time::epoch_cycles())
    }
}

impl State for CrashFile {
    fn offers(&self) -> Needs {
        Needs::Nothing
    }

    fn snapshot(&self, _: bool) -> Snapshot {
        self.snapshot_of_all()
    }

    fn snapshot_of_all(&self) -> Snapshot {
        self.snapshot.clone().unwrap_or_default()
    }

    fn backtrace(&self, thread: u64) -> Option<Result<Vec<String>, DoesNotAnswer>> {
        let kept = self.backtraces.iter().find(|backtrace| backtrace.thread == thread)?;
        Some(Ok(kept.frames.iter().map(|frame| frame.text.clone()).collect()))
    }

    fn registers(&self, thread: u64) -> Option<Registers> {
        self.registers.iter().find(|registers| registers.thread == thread).map(registers_of)
    }

    fn log(&self, each: &mut dyn FnMut(&str)) {
        each(&self.log);
    }

    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), OutOfMemory> {
        let first = self.events.len().saturating_sub(limit);
        self.events[first..].iter().for_each(|(cpu, event)| each(*cpu as usize, event));
        Ok(())
    }

    fn clock(&self) -> (u64, u64) {
        self.header.clock
    }

    fn report(&self) -> Option<&str> {
        Some(&self.header.what)
    }
}

fn registers_of(kept: &CpuRegisters) -> Registers {
    Registers {
        instruction_pointer: kept.instruction_pointer as usize,
        flags: kept.flags,
        general: kept.general,
        ..Registers::zero()
    }
}
