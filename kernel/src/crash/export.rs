//! Writes a crash file ([`wire::crash_file`]) to the host of an emulated machine. Each part is
//! gathered in an attempt of its own, so that a broken one does not cost the others.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use arch_contract::fault::Registers;
use arch_contract::{Export, PAGE_SIZE};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use wire::crash_file::{Backtrace, CpuRegisters, Frame, Header, MAGIC, Memory, VERSION, WaitingThread};
use wire::trace::Event;

use crate::arch::*;
use crate::backtrace;
use crate::cpu;
use crate::debug;
use crate::output;
use crate::sandbox;
use crate::snapshot;
use crate::stopped;
use crate::thread;
use crate::time;
use crate::trace;

/// Maximum number of threads described per CPU, and of threads whose backtraces are kept.
const THREAD_LIMIT: usize = 256;
/// Maximum number of trace events kept.
const EVENT_LIMIT: usize = 4096;
/// Number of bytes exported at once.
const CHUNK: usize = 256;

/// A serialiser's output that exports the bytes in chunks.
struct Exported {
    kept: [u8; CHUNK],
    length: usize,
}

impl Flavor for Exported {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.kept[self.length] = byte;
        self.length += 1;
        if self.length == CHUNK {
            Platform::export(Export::Crash, &self.kept);
            self.length = 0;
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Platform::export(Export::Crash, &self.kept[..self.length]);
        Ok(())
    }
}

fn put(value: &impl Serialize) {
    // Exporting cannot fail, and neither can serialising these values.
    let _ = postcard::serialize_with_flavor(value, Exported { kept: [0; CHUNK], length: 0 });
}

/// Gathers and writes a part. Returns false if it cannot be gathered.
fn part<T: Serialize>(gather: impl Fn() -> T) -> bool {
    // SAFETY: `write` runs with all other CPUs stopped and interrupts off, and the gathered value
    // is written and dropped within the attempt.
    unsafe { sandbox::attempt(&mut || put(&gather())) }.is_ok()
}

/// Gathers and writes a part, or writes `otherwise` if it cannot be gathered.
fn part_or<T: Serialize>(gather: impl Fn() -> T, otherwise: &T) {
    if !part(gather) {
        put(otherwise);
    }
}

/// Writes the crash file, if there is an export channel. All other CPUs are stopped.
pub(crate) fn write(what: fmt::Arguments<'_>) {
    if !Platform::exports(Export::Crash) {
        return;
    }
    let header = |what: String| Header {
        magic: MAGIC,
        version: VERSION,
        snapshot_version: wire::snapshot::VERSION,
        what,
        cpu: cpu::this_index() as u32,
        clock: (time::cycle_frequency_hz(), time::epoch_cycles()),
    };
    part_or(|| header(what.to_string()), &header(String::new()));
    if !part(|| Some(snapshot::take_with(THREAD_LIMIT))) {
        part_or(|| Some(snapshot::take_without_threads()), &None);
    }
    part_or(registers, &Vec::new());
    let mut threads = [0; THREAD_LIMIT];
    let mut count = 0;
    // If the list is broken, the threads found up to there are kept.
    let mut list = || {
        stopped::for_each_thread(|thread, _| {
            if let Some(place) = threads.get_mut(count) {
                *place = thread.id();
                count += 1;
            }
        })
    };
    // SAFETY: `write` runs with all other CPUs stopped and interrupts off, and the attempt
    // allocates nothing: the thread numbers go into an array on this stack.
    let _ = unsafe { sandbox::attempt(&mut list) };
    let threads = &threads[..count];
    for &thread in threads {
        part_or(|| Some(backtrace(thread)), &Some(Backtrace { thread, frames: Vec::new() }));
    }
    put(&None::<Backtrace>);
    threads.iter().for_each(|&thread| part_if(|| waiting(thread).map(Some)));
    put(&None::<WaitingThread>);
    part_or(kept_log, &String::new());
    part_or(last_events, &Vec::new());
    threads.iter().for_each(|&thread| write_stacks(thread));
    write_image_data();
}

fn registers() -> Vec<CpuRegisters> {
    let of = |cpu: &cpu::Cpu| {
        let registers: &Registers = debug::stopped_registers(cpu.index)?;
        Some(CpuRegisters {
            cpu: cpu.index as u32,
            thread: debug::stopped_thread(cpu.index).map_or(0, thread::Thread::id),
            instruction_pointer: registers.instruction_pointer as u64,
            flags: registers.flags,
            general: registers.general,
        })
    };
    cpu::all_known().filter_map(of).collect()
}

fn backtrace(thread: u64) -> Backtrace {
    let frames = backtrace::frames(&stopped::registers_of(thread).unwrap_or_default());
    let frames = frames.map(|frame| Frame { address: frame.address as u64, text: frame.to_string() });
    Backtrace { thread, frames: frames.collect() }
}

/// Gathers and writes a part that may be absent. Writes nothing if it is absent or cannot be
/// gathered.
fn part_if<T: Serialize>(gather: impl Fn() -> Option<T>) {
    let mut work = || {
        if let Some(value) = gather() {
            put(&value);
        }
    };
    // SAFETY: `write` runs with all other CPUs stopped and interrupts off, and the gathered value
    // is not used outside the attempt.
    let _ = unsafe { sandbox::attempt(&mut work) };
}

fn waiting(thread: u64) -> Option<WaitingThread> {
    let is_running =
        cpu::all_known().any(|cpu| debug::stopped_thread(cpu.index).is_some_and(|there| there.id() == thread));
    let registers = stopped::registers_of(thread).filter(|_| !is_running)?;
    let pointer_if_it_waits = stopped::with_thread(thread, |thread, _| {
        matches!(thread.state(), thread::State::Ready | thread::State::Blocked).then(|| thread.thread_pointer() as u64)
    });
    Some(WaitingThread {
        thread,
        instruction_pointer: registers.instruction_pointer as u64,
        general: registers.general,
        thread_pointer: pointer_if_it_waits??,
    })
}

/// Writes the used part of a thread's stack and of the stack of its running fiber. A stack that the
/// thread's stack pointer is not on is written whole.
fn write_stacks(thread: u64) {
    let mut used = [const { 0..0 }; 2];
    let mut look = || {
        let stacks = stopped::with_thread(thread, |thread, _| [Some(thread.stack()), thread.fibers().running_stack()]);
        let registers = stopped::registers_of(thread).unwrap_or_default();
        for (used, stack) in used.iter_mut().zip(stacks.unwrap_or_default()) {
            *used = stack.map_or(0..0, |stack| stack.bottom()..stack.top());
            if used.contains(&registers.stack_pointer) {
                used.start = registers.stack_pointer;
            }
        }
    };
    // SAFETY: `write` runs with all other CPUs stopped and interrupts off, and the address ranges
    // are not allocated in the attempt.
    let _ = unsafe { sandbox::attempt(&mut look) };
    used.iter().for_each(|used| write_memory(used.start, used.end));
}

fn write_image_data() {
    let data = crate::boot::information().image_data;
    let start = AddressSpace::physical_to_virtual(data.start) as usize;
    write_memory(start, start + (data.end - data.start) as usize);
}

/// Writes the memory between two addresses, page by page, and leaves out unreadable pages.
fn write_memory(start: usize, end: usize) {
    let mut at = start;
    while at < end {
        let next = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE).min(end);
        part_if(|| {
            let mut bytes = alloc::vec![0; next - at];
            AddressSpace::probe_read(at, &mut bytes).ok()?;
            Some(Memory { start: at as u64, bytes })
        });
        at = next;
    }
}

fn kept_log() -> String {
    let mut log = String::new();
    output::for_kept_log(|part| log.push_str(part));
    log
}

fn last_events() -> Vec<(u32, Event)> {
    let mut events = Vec::new();
    let _ = trace::for_last(EVENT_LIMIT, |cpu, event| events.push((cpu as u32, *event)));
    events
}
