//! The trace format: what the kernel's tracer writes and tools read.
//!
//! A trace is a sequence of postcard records: a [`Header`], followed by [`Part`]s up to
//! [`Part::End`]. A [`Part::Ring`] is followed by [`Ring::events`] records of type [`Event`], the
//! oldest first. A CPU may have several rings.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// First word of a trace.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ATRC");
/// Version of the format. It changes with every change of these types.
pub const VERSION: u32 = 2;

/// The header of a trace, which describes the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Rate of the time counter in Hz.
    pub cycle_hz: u64,
    /// Value of the time counter when the image was entered.
    pub epoch: u64,
}

/// A part of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Events of a CPU that no earlier ring of the trace contains.
    Ring(Ring),
    /// A thread that existed at the end.
    Thread(Thread),
    /// The oldest event has been overwritten; the remaining events are written at the end.
    Loss,
    /// The end of the trace.
    End,
}

/// A thread that existed at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// The thread's id.
    pub id: u64,
    /// The thread's name.
    pub name: String,
}

/// Events of a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// The CPU's index.
    pub cpu: u32,
    /// Number of events that follow.
    pub events: u32,
    /// Number of earlier events that were overwritten.
    pub lost: u64,
    /// Id of the CPU's idle thread.
    pub idle: u64,
}

/// A recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Value of the time counter.
    pub cycles: u64,
    /// Id of the thread that was running.
    pub thread: u64,
    /// The kind of event.
    pub kind: EventKind,
    /// The first detail, as [`EventKind`] defines it.
    pub first: u64,
    /// The second detail, as [`EventKind`] defines it.
    pub second: u64,
}

/// The kinds of events, with the meaning of `first` and `second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum EventKind {
    /// The CPU switches to another thread: its id.
    Switch,
    /// A thread was made ready: its id, its CPU.
    Wake,
    /// A thread was spawned: its id, its CPU.
    Spawn,
    /// The first and second eight bytes of the name of the thread spawned immediately before.
    Name,
    /// An IPI was sent: CPU, or all ones for all other CPUs; vector.
    Ipi,
    /// An interrupt begins: vector.
    InterruptBegin,
    /// An interrupt ends: vector.
    InterruptEnd,
    /// A timer was set: deadline in cycles.
    TimerSet,
    /// A timer's function is called: deadline in cycles.
    TimerFire,
    /// Memory was allocated: bytes, address.
    Allocate,
    /// Memory was freed: bytes, address.
    Free,
    /// A program or the kernel set a mark: two words of its own.
    Mark,
}

impl EventKind {
    /// All kinds, indexed by their number.
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
            EventKind::Switch => write!(f, "switch to thread {first}"),
            EventKind::Wake => write!(f, "wake thread {first} on CPU {second}"),
            EventKind::Spawn => write!(f, "spawn thread {first} on CPU {second}"),
            EventKind::Name => write!(f, "named \"{}\"", name(first, second)),
            EventKind::Ipi if first == u64::MAX => write!(f, "IPI {second:#x} to all others"),
            EventKind::Ipi => write!(f, "IPI {second:#x} to CPU {first}"),
            EventKind::InterruptBegin => write!(f, "interrupt {first:#x} begins"),
            EventKind::InterruptEnd => write!(f, "interrupt {first:#x} ends"),
            EventKind::TimerSet => write!(f, "timer set for {first}"),
            EventKind::TimerFire => write!(f, "timer fires, due {first}"),
            EventKind::Allocate => write!(f, "allocate {first} B at {second:#x}"),
            EventKind::Free => write!(f, "free {first} B at {second:#x}"),
            EventKind::Mark => write!(f, "mark {first:#x} {second:#x}"),
        }
    }
}

/// Returns the name encoded in the words of a [`EventKind::Name`].
pub fn name(first: u64, second: u64) -> String {
    let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Returns the words of a [`EventKind::Name`] for a name, of which they hold the first 16 bytes.
pub fn name_words(name: &str) -> (u64, u64) {
    let mut bytes = [0u8; 16];
    let length = name.len().min(bytes.len());
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    (word(0), word(8))
}

/// A decoded trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The header.
    pub header: Header,
    /// The threads that existed at the end.
    pub threads: Vec<Thread>,
    /// The CPUs with their events, oldest first.
    pub rings: Vec<(Ring, Vec<Event>)>,
    /// True if the trace was written to its end.
    pub is_whole: bool,
}

/// The reason bytes cannot be read as a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes do not begin like a trace.
    NotATrace,
    /// The trace has another version.
    Version(u32),
    /// The trace is damaged.
    Damaged,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrace => f.write_str("it is no trace of this kernel"),
            Self::Version(version) => write!(f, "it is a trace of version {version}, this reads version {VERSION}"),
            Self::Damaged => f.write_str("it is damaged"),
        }
    }
}

impl core::error::Error for ReadError {}

/// Reads a trace. Of a trace that ends early, returns the part that exists.
///
/// # Errors
/// See [`ReadError`].
pub fn read(bytes: &[u8]) -> Result<Trace, ReadError> {
    let mut rest = bytes;
    let header: Header = next(&mut rest).ok().flatten().ok_or(ReadError::NotATrace)?;
    if header.magic != MAGIC {
        return Err(ReadError::NotATrace);
    }
    if header.version != VERSION {
        return Err(ReadError::Version(header.version));
    }
    let mut trace = Trace { header, threads: Vec::new(), rings: Vec::new(), is_whole: false };
    while let Some(part) = next(&mut rest)? {
        match part {
            Part::Thread(thread) => trace.threads.push(thread),
            Part::Ring(ring) => {
                let events = take_ring(&mut trace.rings, &ring);
                for _ in 0..ring.events {
                    let Some(event) = next(&mut rest)? else { return Ok(trace) };
                    events.push(event);
                }
            }
            Part::Loss => {}
            Part::End => {
                trace.is_whole = true;
                break;
            }
        }
    }
    Ok(trace)
}

/// Returns true for the beginning of a trace that loses events.
pub fn begins_with_loss(bytes: &[u8]) -> bool {
    let behind_header = postcard::take_from_bytes::<Header>(bytes).map(|(_, rest)| rest);
    behind_header.is_ok_and(|rest| postcard::take_from_bytes(rest).is_ok_and(|(part, _)| matches!(part, Part::Loss)))
}

/// Reads the next record; returns `None` if the bytes end before or within it.
fn next<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<Option<T>, ReadError> {
    match postcard::take_from_bytes(rest) {
        Ok((value, after)) => {
            *rest = after;
            Ok(Some(value))
        }
        Err(postcard::Error::DeserializeUnexpectedEnd) => Ok(None),
        Err(_) => Err(ReadError::Damaged),
    }
}

/// Adds a ring to the totals of its CPU, and returns the list that its events go to.
fn take_ring<'a>(rings: &'a mut Vec<(Ring, Vec<Event>)>, ring: &Ring) -> &'a mut Vec<Event> {
    let place = match rings.iter().position(|(known, _)| known.cpu == ring.cpu) {
        Some(place) => place,
        None => {
            rings.push((Ring { events: 0, lost: 0, ..ring.clone() }, Vec::new()));
            rings.len() - 1
        }
    };
    let (known, events) = &mut rings[place];
    known.events += ring.events;
    known.lost += ring.lost;
    events
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
        for (number, kind) in EventKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, number);
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let header = Header { magic: MAGIC, version: VERSION, cycle_hz: 1, epoch: 2 };
        let thread = Thread { id: 7, name: "main".into() };
        let ring = Ring { cpu: 0, events: 1, lost: 3, idle: 1 };
        let event = Event { cycles: u64::MAX, thread: 7, kind: EventKind::Mark, first: 1, second: 2 };
        let mut bytes = postcard::to_allocvec(&header).unwrap();
        let behind_header = bytes.len();
        for _ in 0..2 {
            bytes.extend(postcard::to_allocvec(&Part::Ring(ring.clone())).unwrap());
            bytes.extend(postcard::to_allocvec(&event).unwrap());
        }
        bytes.extend(postcard::to_allocvec(&Part::Thread(thread.clone())).unwrap());
        bytes.extend(postcard::to_allocvec(&Part::End).unwrap());
        let trace = read(&bytes).unwrap();
        let both = Ring { events: 2, lost: 6, ..ring };
        let rings = vec![(both, vec![event, event])];
        assert_eq!(trace, Trace { header, threads: vec![thread], rings, is_whole: true });
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                Ok(trace) => assert!(!trace.is_whole && length >= behind_header, "{length} bytes were read as a trace"),
                Err(error) => assert!(error == ReadError::NotATrace && length < behind_header, "{length}: {error}"),
            }
        }
        assert!(!begins_with_loss(&bytes));
        let loss =
            [&bytes[..behind_header], &postcard::to_allocvec(&Part::Loss).unwrap(), &bytes[behind_header..]].concat();
        assert!(begins_with_loss(&loss) && !begins_with_loss(&loss[..behind_header]));
        assert_eq!(read(&loss).unwrap().rings[0].1.len(), 2);
        // No part has this number.
        bytes[behind_header] = 9;
        assert_eq!(read(&bytes), Err(ReadError::Damaged));
        // The previous version.
        bytes[5] = 1;
        assert_eq!(read(&bytes), Err(ReadError::Version(1)));
        bytes[0] ^= 1;
        assert_eq!(read(&bytes), Err(ReadError::NotATrace));
    }
}
