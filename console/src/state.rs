//! The state of the machine that the console runs on.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use arch_contract::fault::Registers;
use kernel::backtrace::Frame;
use kernel::{backtrace, output, program, sandbox, snapshot, stopped, symbols, thread, time, trace};
use view::state::{Detail, DoesNotAnswer, Needs, NoMemory, State, Tracer, Tracing};
use wire::snapshot::Snapshot;
use wire::trace::Event;

/// Maximum number of threads described per CPU when one thread is looked up.
const ALL_THREADS: usize = usize::MAX >> 16;

/// The machine that the console runs on.
pub struct Here;

impl State for Here {
    fn offers(&self) -> Needs {
        if sandbox::is_active() { Needs::Machine } else { Needs::Cpus }
    }

    fn wait(&self, milliseconds: u64) -> bool {
        let can = self.offers() == Needs::Cpus;
        if can {
            thread::sleep(Duration::from_millis(milliseconds));
        }
        can
    }

    fn snapshot(&self, detail: Detail) -> Snapshot {
        match detail {
            Detail::Threads => snapshot::take(),
            Detail::NoThreads => snapshot::take_without_threads(),
            Detail::AllThreads => snapshot::take_with(ALL_THREADS),
        }
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

    fn events(&self, limit: usize, each: &mut dyn FnMut(usize, &Event)) -> Result<(), NoMemory> {
        trace::for_last(limit, each).map_err(|_| NoMemory)
    }

    fn clock(&self) -> (u64, u64) {
        (time::cycle_frequency_hz(), time::epoch_cycles())
    }

    fn place(&self, address: u64) -> String {
        symbols::resolve(address as usize).to_string()
    }

    fn files(&self, each: &mut dyn FnMut(&str, u64)) {
        program::files().for_each(|file| each(file.name, file.elf.len() as u64));
    }

    fn tracer(&self) -> Option<Tracer> {
        let (kept, lost) = trace::counts();
        Some(Tracer { tracing: if trace::is_on() { Tracing::On } else { Tracing::Off }, kept, lost })
    }

    fn set_tracing(&self, tracing: Tracing) -> Result<(), NoMemory> {
        match tracing {
            Tracing::On => trace::start().map_err(|_| NoMemory),
            Tracing::Off => {
                trace::stop();
                Ok(())
            }
        }
    }
}
