//! Writes a crash file ([`wire::crash_file`]), for whoever started an emulated machine. Each part is gathered by itself, so that what is
//! broken costs no other.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use arch_contract::fault::Registers;
use arch_contract::{Export, PAGE_SIZE};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use wire::crash_file::{Backtrace, CpuRegisters, Frame, Header, MAGIC, Memory, VERSION, WaitingThread};
use wire::trace::Event;

use crate::arch::{Architecture, Machine};
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

/// Threads per CPU described, and threads whose backtraces are kept.
const THREAD_LIMIT: usize = 256;
/// Trace events kept.
const EVENT_LIMIT: usize = 4096;
/// Bytes given to the machine at once.
const CHUNK: usize = 256;

/// Gives the machine what is serialised, in pieces.
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
            Machine::export(Export::Crash, &self.kept);
            self.length = 0;
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Machine::export(Export::Crash, &self.kept[..self.length]);
        Ok(())
    }
}

fn put(value: &impl Serialize) {
    // Nothing in it can fail to be serialised.
    let _ = postcard::serialize_with_flavor(value, Exported { kept: [0; CHUNK], length: 0 });
}

/// Gathers a part, and writes it; false if it cannot be gathered.
fn part<T: Serialize>(gather: impl Fn() -> T) -> bool {
    // SAFETY: `export` says that all are stopped; what is gathered is written and dropped.
    unsafe { sandbox::attempt(&mut || put(&gather())) }.is_ok()
}

/// As [`part`], with what stands for it if it cannot be gathered.
fn part_or<T: Serialize>(gather: impl Fn() -> T, otherwise: &T) {
    if !part(gather) {
        put(otherwise);
    }
}

/// Writes the file, if there is where to. All other CPUs are stopped.
pub(crate) fn write(what: fmt::Arguments<'_>) {
    if !Machine::exports(Export::Crash) {
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
    // As far as the list can be followed.
    let mut list = || {
        stopped::for_each_thread(|thread, _| {
            if let Some(place) = threads.get_mut(count) {
                *place = thread.id();
                count += 1;
            }
        })
    };
    // SAFETY: all are stopped; what is listed is not allocated.
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
    cpu::all().filter_map(of).collect()
}

fn backtrace(thread: u64) -> Backtrace {
    let frames = backtrace::frames(&stopped::registers_of(thread).unwrap_or_default());
    let frames = frames.map(|frame| Frame { address: frame.address as u64, text: frame.to_string() });
    Backtrace { thread, frames: frames.collect() }
}

/// Writes a part, if it can be gathered and is there.
fn part_if<T: Serialize>(gather: impl Fn() -> Option<T>) {
    let mut work = || {
        if let Some(value) = gather() {
            put(&value);
        }
    };
    // SAFETY: all are stopped; what is gathered is not used outside.
    let _ = unsafe { sandbox::attempt(&mut work) };
}

fn waiting(thread: u64) -> Option<WaitingThread> {
    let is_running = cpu::all().any(|cpu| debug::stopped_thread(cpu.index).is_some_and(|there| there.id() == thread));
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

/// Writes what a thread uses of its stack, and of that of the fiber it runs; all of one that it is not on now.
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
    // SAFETY: all are stopped; the addresses are not allocated.
    let _ = unsafe { sandbox::attempt(&mut look) };
    used.iter().for_each(|used| write_memory(used.start, used.end));
}

fn write_image_data() {
    let data = crate::boot::information().image_data;
    let start = Machine::physical_to_virtual(data.start) as usize;
    write_memory(start, start + (data.end - data.start) as usize);
}

/// Writes memory, as far as it can be read.
fn write_memory(start: usize, end: usize) {
    let mut at = start;
    while at < end {
        let next = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE).min(end);
        part_if(|| {
            let mut bytes = alloc::vec![0; next - at];
            Machine::probe_read(at, &mut bytes).ok()?;
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
