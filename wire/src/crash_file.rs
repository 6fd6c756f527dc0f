//! What is left after a crash, for whoever started an emulated machine: `aero inspect` opens it.
//!
//! A file is a sequence of postcard values: [`Header`]; the snapshot, or none; the CPUs' registers; backtraces, each as
//! `Some`, and `None` behind the last; threads that do not run, in the same way; the kept log; the last trace events; pieces of
//! memory, up to the file's end. The memory is what is used of the threads' stacks, and the image's data: what a debugger needs.
//! Each part is gathered by itself, so that what is broken costs no other: it is empty then.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{self, Snapshot};
use crate::trace::Event;

/// First word of a file.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ACRS");
/// Version of the format: changes with every change of these types, [`snapshot::VERSION`] apart.
pub const VERSION: u32 = 2;

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
