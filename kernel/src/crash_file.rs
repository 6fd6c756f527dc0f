//! What is left after a crash, for whoever started an emulated machine: `aero inspect` opens it.
//!
//! A file is a sequence of postcard values: [`Header`]; the snapshot, or none; the CPUs' registers; backtraces, each as
//! `Some`, and `None` behind the last; threads that do not run, in the same way; the kept log; the last trace events; pieces of
//! memory, up to the file's end. The memory is what is used of the threads' stacks, and the image's data: what a debugger needs.
//! Each part is gathered by itself, so that what is broken costs no other: it is empty then.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use arch_contract::fault::Registers;
use arch_contract::{Export, PAGE_SIZE};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use trace_format::Event;

use crate::arch::{Architecture, Machine};
use crate::backtrace;
use crate::cpu;
use crate::debug;
use crate::frozen;
use crate::output;
use crate::snapshot::{self, Snapshot};
use crate::thread;
use crate::time;
use crate::trace;

/// First word of a file.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ACRS");
/// Version of the format: changes with every change of these types, [`snapshot::VERSION`] apart.
pub const VERSION: u32 = 2;
/// Threads per CPU described, and threads whose backtraces are kept.
const THREAD_LIMIT: usize = 256;
/// Trace events kept.
const EVENT_LIMIT: usize = 4096;
/// Bytes given to the machine at once.
const CHUNK: usize = 256;

/// What a file begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// [`snapshot::VERSION`] of the kernel that wrote it.
    pub snapshot_version: u32,
    /// What the report says first.
    pub what: String,
    /// The CPU that crashed.
    pub cpu: u32,
    /// Rate of the time counter in Hz, and the time counter when the image was entered.
    pub clock: (u64, u64),
}

/// Registers of a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRegisters {
    /// The CPU.
    pub cpu: u32,
    /// The thread it ran.
    pub thread: u64,
    /// Where.
    pub instruction_pointer: u64,
    /// Flags.
    pub flags: u64,
    /// General registers, as `Registers::names` says.
    pub general: [u64; 16],
}

/// A thread that does not run: where it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingThread {
    /// The thread.
    pub thread: u64,
    /// Where.
    pub instruction_pointer: u64,
    /// General registers, those that a callee preserves; the others are 0.
    pub general: [u64; 16],
    /// Where its thread-local variables end.
    pub thread_pointer: u64,
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its address.
    pub start: u64,
    /// What is there.
    pub bytes: Vec<u8>,
}

/// A frame of a backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where.
    pub address: u64,
    /// That, with the function's name and offset, as reports show it.
    pub text: String,
}

/// A thread's backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backtrace {
    /// The thread.
    pub thread: u64,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// A file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashFile {
    /// What it begins with.
    pub header: Header,
    /// The state, if it could be told.
    pub snapshot: Option<Snapshot>,
    /// The CPUs'.
    pub registers: Vec<CpuRegisters>,
    /// The threads'.
    pub backtraces: Vec<Backtrace>,
    /// Threads that do not run.
    pub waiting: Vec<WaitingThread>,
    /// Pieces of memory, in no order: as many as were written before the machine ended.
    pub memory: Vec<Memory>,
    /// The kept log.
    pub log: String,
    /// The last trace events with their CPUs, oldest first.
    pub events: Vec<(u32, Event)>,
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It is none.
    NotACrashFile,
    /// Another version of the kernel wrote it: its numbers, of the file's format and of the snapshot's.
    WrongVersion(u32, u32),
    /// It ends too early, or is damaged.
    Damaged,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotACrashFile => f.write_str("it is no crash file"),
            Self::WrongVersion(file, snapshot) => write!(
                f,
                "it was written by another version: its format is {file}.{snapshot}, this one reads {VERSION}.{}",
                snapshot::VERSION
            ),
            Self::Damaged => f.write_str("it is damaged, or not whole: the machine was ended while it was written"),
        }
    }
}

impl CrashFile {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let (magic, rest) = postcard::take_from_bytes::<u32>(bytes).map_err(|_| ReadError::NotACrashFile)?;
        if magic != MAGIC {
            return Err(ReadError::NotACrashFile);
        }
        let damaged = |_| ReadError::Damaged;
        let (version, rest) = postcard::take_from_bytes::<u32>(rest).map_err(damaged)?;
        let (snapshot_version, _) = postcard::take_from_bytes::<u32>(rest).map_err(damaged)?;
        if (version, snapshot_version) != (VERSION, snapshot::VERSION) {
            return Err(ReadError::WrongVersion(version, snapshot_version));
        }
        let (header, rest) = postcard::take_from_bytes(bytes).map_err(damaged)?;
        let (snapshot, rest) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let (registers, rest) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let (backtraces, rest) = take_list(rest).map_err(damaged)?;
        let (waiting, rest) = take_list(rest).map_err(damaged)?;
        let (log, rest) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let (events, mut rest) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let mut memory = Vec::new();
        while let Ok((piece, behind)) = postcard::take_from_bytes(rest) {
            memory.push(piece);
            rest = behind;
        }
        Ok(Self { header, snapshot, registers, backtraces, waiting, memory, log, events })
    }
}

/// Reads values, each as `Some`, up to `None`.
fn take_list<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> postcard::Result<(Vec<T>, &'a [u8])> {
    let (mut list, mut rest) = (Vec::new(), bytes);
    loop {
        let (next, behind) = postcard::take_from_bytes::<Option<T>>(rest)?;
        rest = behind;
        match next {
            Some(value) => list.push(value),
            None => return Ok((list, rest)),
        }
    }
}

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

fn write(value: &impl Serialize) {
    // Nothing in it can fail to be serialised.
    let _ = postcard::serialize_with_flavor(value, Exported { kept: [0; CHUNK], length: 0 });
}

/// Gathers a part, and writes it; false if it cannot be gathered.
fn part<T: Serialize>(gather: impl Fn() -> T) -> bool {
    // SAFETY: `export` says that all are stopped; what is gathered is written and dropped.
    unsafe { frozen::attempt(&mut || write(&gather())) }.is_ok()
}

/// As [`part`], with what stands for it if it cannot be gathered.
fn part_or<T: Serialize>(gather: impl Fn() -> T, otherwise: &T) {
    if !part(gather) {
        write(otherwise);
    }
}

/// Writes the file, if there is where to. All other CPUs are stopped.
pub(crate) fn export(what: fmt::Arguments<'_>) {
    if !Machine::exports(Export::Crash) {
        return;
    }
    let header = |what: String| Header {
        magic: MAGIC,
        version: VERSION,
        snapshot_version: snapshot::VERSION,
        what,
        cpu: cpu::this_index() as u32,
        clock: (time::cycle_frequency_hz(), time::epoch_cycles()),
    };
    part_or(|| header(what.to_string()), &header(String::new()));
    if !part(|| Some(Snapshot::take_with(THREAD_LIMIT))) {
        part_or(|| Some(Snapshot::take_without_threads()), &None);
    }
    part_or(registers, &Vec::new());
    let mut threads = [0; THREAD_LIMIT];
    let mut count = 0;
    // As far as the list can be followed.
    let mut list = || {
        snapshot::for_each_thread(|thread, _| {
            if let Some(place) = threads.get_mut(count) {
                *place = thread.id();
                count += 1;
            }
        })
    };
    // SAFETY: all are stopped; what is listed is not allocated.
    let _ = unsafe { frozen::attempt(&mut list) };
    let threads = &threads[..count];
    for &thread in threads {
        part_or(|| Some(backtrace(thread)), &Some(Backtrace { thread, frames: Vec::new() }));
    }
    write(&None::<Backtrace>);
    threads.iter().for_each(|&thread| part_if(|| waiting(thread).map(Some)));
    write(&None::<WaitingThread>);
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
    let frames = backtrace::frames(&snapshot::registers_of(thread).unwrap_or_default());
    let frames = frames.map(|frame| Frame { address: frame.address as u64, text: frame.to_string() });
    Backtrace { thread, frames: frames.collect() }
}

/// Writes a part, if it can be gathered and is there.
fn part_if<T: Serialize>(gather: impl Fn() -> Option<T>) {
    let mut work = || {
        if let Some(value) = gather() {
            write(&value);
        }
    };
    // SAFETY: all are stopped; what is gathered is not used outside.
    let _ = unsafe { frozen::attempt(&mut work) };
}

fn waiting(thread: u64) -> Option<WaitingThread> {
    let is_running = cpu::all().any(|cpu| debug::stopped_thread(cpu.index).is_some_and(|there| there.id() == thread));
    let registers = snapshot::registers_of(thread).filter(|_| !is_running)?;
    let pointer_if_it_waits = snapshot::with_thread(thread, |thread, _| {
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
        let stacks = snapshot::with_thread(thread, |thread, _| [Some(thread.stack()), thread.fibers().running_stack()]);
        let registers = snapshot::registers_of(thread).unwrap_or_default();
        for (used, stack) in used.iter_mut().zip(stacks.unwrap_or_default()) {
            *used = stack.map_or(0..0, |stack| stack.bottom()..stack.top());
            if used.contains(&registers.stack_pointer) {
                used.start = registers.stack_pointer;
            }
        }
    };
    // SAFETY: all are stopped; the addresses are not allocated.
    let _ = unsafe { frozen::attempt(&mut look) };
    used.iter().for_each(|used| write_memory(used.start, used.end));
}

fn write_image_data() {
    let data = crate::start::boot_information().image_data;
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

impl From<&CpuRegisters> for Registers {
    fn from(kept: &CpuRegisters) -> Self {
        Self {
            instruction_pointer: kept.instruction_pointer as usize,
            flags: kept.flags,
            general: kept.general,
            ..Self::zero()
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn file() -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            snapshot_version: snapshot::VERSION,
            what: "a test".into(),
            cpu: 1,
            clock: (1_000_000_000, 5),
        };
        let mut bytes = postcard::to_allocvec(&header).expect("it can be serialised");
        bytes.extend(postcard::to_allocvec(&Some(Snapshot::default())).expect("it can be serialised"));
        let registers = CpuRegisters { cpu: 1, thread: 2, instruction_pointer: 3, flags: 4, general: [5; 16] };
        bytes.extend(postcard::to_allocvec(&vec![registers]).expect("it can be serialised"));
        let backtrace = Backtrace { thread: 2, frames: vec![Frame { address: 3, text: "f+0x1".into() }] };
        bytes.extend(postcard::to_allocvec(&Some(backtrace)).expect("it can be serialised"));
        bytes.extend(postcard::to_allocvec(&None::<Backtrace>).expect("it can be serialised"));
        let waiting = WaitingThread { thread: 7, instruction_pointer: 8, general: [0; 16], thread_pointer: 9 };
        bytes.extend(postcard::to_allocvec(&Some(waiting)).expect("it can be serialised"));
        bytes.extend(postcard::to_allocvec(&None::<WaitingThread>).expect("it can be serialised"));
        bytes.extend(postcard::to_allocvec("log").expect("it can be serialised"));
        bytes.extend(postcard::to_allocvec(&Vec::<(u32, Event)>::new()).expect("it can be serialised"));
        bytes
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all_but_for_its_memory() {
        let mut bytes = file();
        let without_memory = bytes.len();
        for start in [16, 32] {
            let piece = Memory { start, bytes: vec![1, 2] };
            bytes.extend(postcard::to_allocvec(&piece).expect("it can be serialised"));
        }
        let read = CrashFile::read(&bytes).expect("it is whole");
        assert_eq!((read.header.what.as_str(), read.registers[0].general[15]), ("a test", 5));
        assert_eq!((read.backtraces[0].frames[0].text.as_str(), read.log.as_str()), ("f+0x1", "log"));
        assert_eq!((read.waiting[0].thread_pointer, read.memory[0].bytes.as_slice()), (9, &[1, 2][..]));
        for length in 0..bytes.len() {
            let pieces = CrashFile::read(&bytes[..length]).map(|read| read.memory.len());
            match length.checked_sub(without_memory) {
                None => assert!(pieces.is_err(), "{length} bytes of {} were taken", bytes.len()),
                Some(of_memory) => assert_eq!(pieces, Ok(of_memory / 4), "{length} bytes"),
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = postcard::to_allocvec(&MAGIC).expect("it can be serialised");
        bytes.extend([VERSION as u8 + 1, snapshot::VERSION as u8, 0, 0, 0]);
        assert_eq!(CrashFile::read(&bytes), Err(ReadError::WrongVersion(VERSION + 1, snapshot::VERSION)));
        assert_eq!(CrashFile::read(b"nothing"), Err(ReadError::NotACrashFile));
    }
}
