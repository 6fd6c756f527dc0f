//! The state that a crashed kernel has left, read from a crash file.

use alloc::string::String;
use alloc::vec::Vec;

use arch_contract::fault::Registers;
use wire::crash_file::{CpuRegisters, CrashFile};
use wire::snapshot::Snapshot;
use wire::trace::Event;

use crate::state::{Detail, DoesNotAnswer, Needs, NoMemory, State};

impl State for CrashFile {
    fn offers(&self) -> Needs {
        Needs::Nothing
    }

    fn snapshot(&self, _: Detail) -> Snapshot {
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

    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), NoMemory> {
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
