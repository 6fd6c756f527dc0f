//! What the kernel's tracer records, as the kernel writes it and tools read it.
//!
//! A trace is a sequence of postcard records: a [`Header`], [`Header::threads`] times a [`Thread`], and for each CPU a
//! [`Ring`] and [`Ring::events`] times an [`Event`], oldest first.
#![no_std]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// First word of a trace.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ATRC");
/// Version of the format: changes with every change of these types.
pub const VERSION: u32 = 1;

/// The machine and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Rate of the time counter in Hz.
    pub cycle_hz: u64,
    /// The time counter when the image was entered.
    pub epoch: u64,
    /// Number of threads that follow.
    pub threads: u32,
    /// Number of CPUs that follow.
    pub cpus: u32,
}

/// A thread that was there when the trace was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
}

/// A CPU's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The CPU.
    pub cpu: u32,
    /// Number of events that follow.
    pub events: u32,
    /// Number of older ones that were overwritten.
    pub lost: u64,
    /// Number of the thread that is the CPU's idle thread.
    pub idle: u64,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The time counter.
    pub cycles: u64,
    /// Number of the thread that was running.
    pub thread: u64,
    /// What.
    pub kind: Kind,
    /// What about it; see [`Kind`].
    pub first: u64,
    /// What else.
    pub second: u64,
}

/// Kinds of events, with what `first` and `second` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// The CPU goes over to another thread: its number.
    Switch,
    /// A thread was made ready: its number, its CPU.
    Wake,
    /// A thread was spawned: its number, its CPU.
    Spawn,
    /// The first and second eight bytes of the name of the thread spawned before.
    Name,
    /// An inter-processor interrupt was sent: CPU, or all ones for all others; vector.
    Ipi,
    /// An interrupt begins: vector.
    InterruptBegin,
    /// It ends: vector.
    InterruptEnd,
    /// A timer was set: deadline in cycles.
    TimerSet,
    /// A timer's function is called: deadline in cycles.
    TimerFire,
    /// Memory was allocated: bytes, address.
    Allocate,
    /// Memory was freed: bytes, address.
    Free,
    /// A mark of a program or of the kernel: two words of its own.
    Mark,
}

impl Kind {
    /// All kinds, by their number.
    pub const ALL: [Self; 12] = [
        Self::Switch,
        Self::Wake,
        Self::Spawn,
        Self::Name,
        Self::Ipi,
        Self::InterruptBegin,
        Self::InterruptEnd,
        Self::TimerSet,
        Self::TimerFire,
        Self::Allocate,
        Self::Free,
        Self::Mark,
    ];
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = (self.first, self.second);
        match self.kind {
            Kind::Switch => write!(f, "switch to thread {first}"),
            Kind::Wake => write!(f, "wake thread {first} on CPU {second}"),
            Kind::Spawn => write!(f, "spawn thread {first} on CPU {second}"),
            Kind::Name => write!(f, "named \"{}\"", name(first, second)),
            Kind::Ipi if first == u64::MAX => write!(f, "IPI {second:#x} to all others"),
            Kind::Ipi => write!(f, "IPI {second:#x} to CPU {first}"),
            Kind::InterruptBegin => write!(f, "interrupt {first:#x} begins"),
            Kind::InterruptEnd => write!(f, "interrupt {first:#x} ends"),
            Kind::TimerSet => write!(f, "timer set for {first}"),
            Kind::TimerFire => write!(f, "timer fires, due {first}"),
            Kind::Allocate => write!(f, "allocate {first} B at {second:#x}"),
            Kind::Free => write!(f, "free {first} B at {second:#x}"),
            Kind::Mark => write!(f, "mark {first:#x} {second:#x}"),
        }
    }
}

/// A name from the words of a [`Kind::Name`].
pub fn name(first: u64, second: u64) -> String {
    let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The words of a [`Kind::Name`] from a name: its first 16 bytes.
pub fn name_words(name: &str) -> (u64, u64) {
    let mut bytes = [0u8; 16];
    let length = name.len().min(bytes.len());
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    (word(0), word(8))
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The machine.
    pub header: Header,
    /// Threads that were there at the end.
    pub threads: Vec<Thread>,
    /// The CPUs with their events, oldest first.
    pub rings: Vec<(Ring, Vec<Event>)>,
}

/// Why bytes are no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// They do not begin like one.
    NotATrace,
    /// They are of another version.
    Version(u32),
    /// They end too early, or are damaged.
    Damaged,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrace => f.write_str("it is no trace of this kernel"),
            Self::Version(version) => write!(f, "it is a trace of version {version}, this reads version {VERSION}"),
            Self::Damaged => f.write_str("it ends too early or is damaged"),
        }
    }
}

impl core::error::Error for ReadError {}

/// Reads a trace.
///
/// # Errors
/// See [`ReadError`].
pub fn read(bytes: &[u8]) -> Result<Trace, ReadError> {
    fn next<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, ReadError> {
        let (value, after) = postcard::take_from_bytes(rest).map_err(|_| ReadError::Damaged)?;
        *rest = after;
        Ok(value)
    }
    let mut rest = bytes;
    let header: Header = next(&mut rest).map_err(|_| ReadError::NotATrace)?;
    if header.magic != MAGIC {
        return Err(ReadError::NotATrace);
    }
    if header.version != VERSION {
        return Err(ReadError::Version(header.version));
    }
    let mut threads = Vec::new();
    for _ in 0..header.threads {
        threads.push(next(&mut rest)?);
    }
    let mut rings = Vec::new();
    for _ in 0..header.cpus {
        let ring: Ring = next(&mut rest)?;
        let mut events = Vec::new();
        for _ in 0..ring.events {
            events.push(next(&mut rest)?);
        }
        rings.push((ring, events));
    }
    Ok(Trace { header, threads, rings })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn names_survive() {
        for text in ["", "a", "worker", "exactly-16-bytes", "longer than sixteen bytes"] {
            let (first, second) = name_words(text);
            assert_eq!(name(first, second), text[..text.len().min(16)]);
        }
    }

    #[test]
    fn kinds_have_their_numbers() {
        for (number, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, number);
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let header = Header { magic: MAGIC, version: VERSION, cycle_hz: 1, epoch: 2, threads: 1, cpus: 1 };
        let thread = Thread { id: 7, name: "main".into() };
        let ring = Ring { cpu: 0, events: 1, lost: 3, idle: 1 };
        let event = Event { cycles: u64::MAX, thread: 7, kind: Kind::Mark, first: 1, second: 2 };
        let mut bytes = postcard::to_allocvec(&header).unwrap();
        bytes.extend(postcard::to_allocvec(&thread).unwrap());
        bytes.extend(postcard::to_allocvec(&ring).unwrap());
        bytes.extend(postcard::to_allocvec(&event).unwrap());
        let trace = read(&bytes).unwrap();
        assert_eq!(trace, Trace { header, threads: vec![thread], rings: vec![(ring, vec![event])] });
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes were read as a trace");
        }
        bytes[0] ^= 1;
        assert_eq!(read(&bytes), Err(ReadError::NotATrace));
    }
}
