//! The crash file, which an emulated machine leaves after a crash and `aero inspect` opens.
//!
//! A file is a sequence of postcard values: the [`Header`]; the snapshot, or none; the CPUs'
//! registers; backtraces, each as `Some`, and `None` after the last; threads that do not run, in
//! the same form; the kept log; the last trace events; pieces of memory, up to the file's end. The
//! memory is what a debugger needs: the used part of the threads' stacks, and the image's data.
//! Each part is gathered independently and is empty if that fails, so that a broken part costs no
//! other.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{self, Snapshot};
use crate::trace::Event;

/// First word of a file.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ACRS");
/// Version of the format. It changes with every change of these types, independently of
/// [`snapshot::VERSION`].
pub const VERSION: u32 = 2;

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// [`snapshot::VERSION`] of the kernel that wrote the file.
    pub snapshot_version: u32,
    /// The cause, as the report states it first.
    pub what: String,
    /// The CPU that crashed.
    pub cpu: u32,
    /// Rate of the time counter in Hz, and its value when the image was entered.
    pub clock: (u64, u64),
}

/// The registers of a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRegisters {
    /// The CPU's index.
    pub cpu: u32,
    /// Id of the thread that the CPU ran.
    pub thread: u64,
    /// The instruction pointer.
    pub instruction_pointer: u64,
    /// The flags.
    pub flags: u64,
    /// The general registers, in the order of `Registers::names`.
    pub general: [u64; 16],
}

/// A thread that does not run, with the state in which it resumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingThread {
    /// The thread's id.
    pub thread: u64,
    /// The address at which the thread resumes.
    pub instruction_pointer: u64,
    /// The general registers that a callee preserves; the others are 0.
    pub general: [u64; 16],
    /// The end of the thread's thread-local variables.
    pub thread_pointer: u64,
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The address of the piece.
    pub start: u64,
    /// The content of the piece.
    pub bytes: Vec<u8>,
}

/// A frame of a backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The code address.
    pub address: u64,
    /// The address with the function's name and offset, as reports show it.
    pub text: String,
}

/// A thread's backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backtrace {
    /// The thread's id.
    pub thread: u64,
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
}

/// A decoded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashFile {
    /// The header.
    pub header: Header,
    /// The state, if it could be taken.
    pub snapshot: Option<Snapshot>,
    /// The registers of the CPUs.
    pub registers: Vec<CpuRegisters>,
    /// The backtraces of the threads.
    pub backtraces: Vec<Backtrace>,
    /// The threads that do not run.
    pub waiting: Vec<WaitingThread>,
    /// Pieces of memory, in no particular order: as many as were written before the machine ended.
    pub memory: Vec<Memory>,
    /// The kept log.
    pub log: String,
    /// The last trace events with their CPUs, oldest first.
    pub events: Vec<(u32, Event)>,
}

/// The reason a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes are not a crash file.
    NotACrashFile,
    /// Another version of the kernel wrote the file: the versions of the file's format and of the
    /// snapshot.
    WrongVersion(u32, u32),
    /// The file ends too early or is damaged.
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
        // The versions are read one by one first, because the rest of the header may differ between
        // versions.
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
        // The machine may have ended within a piece, so an incomplete one only ends the list.
        while let Ok((piece, behind)) = postcard::take_from_bytes(rest) {
            memory.push(piece);
            rest = behind;
        }
        Ok(Self { header, snapshot, registers, backtraces, waiting, memory, log, events })
    }
}

/// Reads values, each encoded as `Some`, up to `None`.
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
