//! Recording the events of all event channels while another process listens (`aero hvm trace`).
//! Without a listener, an event costs a test and a branch not taken.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use protocol::group::Kind;

use crate::Error;
use crate::memory::{MOST_CPUS, Mapping};

/// Events that are kept for a group until they are taken.
const KEPT: u64 = 2048;
/// Words of an event, and of a ring before its events.
const WORDS: u64 = 6;
const HEAD_WORDS: u64 = 8;
/// Size of a group's ring, in bytes.
const RING: u64 = 8 * (HEAD_WORDS + KEPT * WORDS);
/// First bytes of what a listener gets, and the version.
const MAGIC: [u8; 8] = *b"AEVENTS1";
/// Size of a record, in bytes.
const RECORD: usize = 8 * (WORDS as usize + 2);

/// Rings of events, one for each group. A group's partner writes, one thread takes.
pub(crate) struct Recorder {
    is_on: AtomicBool,
    memory: Mapping,
}

/// A group's ring: how many events were written, taken and lost, then the events.
struct Ring<'a>(&'a Mapping, u64);

impl Ring<'_> {
    fn word(&self, number: u64) -> &AtomicU64 {
        // The mapping has a ring for each group.
        self.0.word(self.1 + 8 * number).unwrap_or(&NOWHERE)
    }

    fn event(&self, number: u64) -> [&AtomicU64; WORDS as usize] {
        let start = HEAD_WORDS + number % KEPT * WORDS;
        std::array::from_fn(|word| self.word(start + word as u64))
    }
}

/// A word that is in no ring.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

impl Recorder {
    /// Reserves the rings; what is not recorded takes no memory.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) fn new() -> Result<Self, Error> {
        let size = u64::from(MOST_CPUS) * RING;
        Ok(Self { is_on: AtomicBool::new(false), memory: Mapping::private(size as usize)? })
    }

    fn ring(&self, group: u64) -> Ring<'_> {
        Ring(&self.memory, group.min(u64::from(MOST_CPUS) - 1) * RING)
    }

    /// Records an event if there is a listener: sequence number, kind, detail, result, beginning
    /// and duration in cycles.
    #[inline]
    pub(crate) fn record(&self, group: u64, event: [u64; WORDS as usize]) {
        if self.is_on.load(Ordering::Relaxed) {
            self.keep(group, event);
        }
    }

    #[cold]
    fn keep(&self, group: u64, event: [u64; WORDS as usize]) {
        let ring = self.ring(group);
        let [written, taken, lost] = [0, 1, 2].map(|word| ring.word(word));
        let number = written.load(Ordering::Relaxed);
        if number.wrapping_sub(taken.load(Ordering::Acquire)) >= KEPT {
            lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        ring.event(number).iter().zip(event).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        written.store(number.wrapping_add(1), Ordering::Release);
    }

    /// Begins to record, for a listener that gets what is put into `bytes` first.
    pub(crate) fn start(&self, bytes: &mut Vec<u8>) {
        self.take(&mut Vec::new());
        bytes.extend(MAGIC);
        self.is_on.store(true, Ordering::Release);
    }

    /// Ends recording.
    pub(crate) fn stop(&self) {
        self.is_on.store(false, Ordering::Release);
    }

    /// Takes what was recorded.
    pub(crate) fn take(&self, bytes: &mut Vec<u8>) {
        for group in 0..u64::from(MOST_CPUS) {
            let ring = self.ring(group);
            let [written, taken, lost] = [0, 1, 2].map(|word| ring.word(word));
            let mut number = taken.load(Ordering::Relaxed);
            let end = written.load(Ordering::Acquire);
            while number != end {
                let words = ring.event(number).map(|word| word.load(Ordering::Relaxed));
                let lost = lost.swap(0, Ordering::Relaxed);
                [group, lost].iter().chain(&words).for_each(|word| bytes.extend(word.to_le_bytes()));
                number = number.wrapping_add(1);
                taken.store(number, Ordering::Release);
            }
        }
    }
}

/// An event of a channel that is over. Times are in cycles of the time counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The group.
    pub group: u64,
    /// Number of the group's events that were lost before this one, because they came too fast.
    pub lost: u64,
    /// Its number in the channel.
    pub sequence: u64,
    /// Its kind.
    pub kind: Kind,
    /// What its kind says: a function, a system call's number, an address.
    pub detail: u64,
    /// Its result.
    pub result: u64,
    /// When it began.
    pub began: u64,
    /// How long it took.
    pub cycles: u64,
}

/// Why a recording cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It is none, or one of another version.
    NoRecording,
    /// An event's kind is unknown.
    UnknownKind(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecording => f.write_str("it is no recording of events, or one of another version of the library"),
            Self::UnknownKind(kind) => write!(f, "it has an event of kind {kind}, which is unknown"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads what a listener got. A record that was cut off is left out.
///
/// # Errors
/// See [`ReadError`].
pub fn read(bytes: &[u8]) -> Result<Vec<Event>, ReadError> {
    let records = bytes.strip_prefix(&MAGIC).ok_or(ReadError::NoRecording)?;
    let event = |record: &[u8]| {
        let word = |number: usize| u64::from_le_bytes(std::array::from_fn(|byte| record[8 * number + byte]));
        let [group, lost, sequence, kind, detail, result, began, cycles] = std::array::from_fn(word);
        let kind = Kind::ALL.into_iter().find(|&known| known as u64 == kind).ok_or(ReadError::UnknownKind(kind))?;
        Ok(Event { group, lost, sequence, kind, detail, result, began, cycles })
    };
    records.chunks_exact(RECORD).map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_and_what_is_lost_is_counted() {
        let recorder = Recorder::new().unwrap();
        let event = |number: u64| [number, Kind::SystemCall as u64, 39, 7, 1000 + number, 300];
        recorder.record(3, event(0));
        let mut bytes = Vec::new();
        recorder.start(&mut bytes);
        (1..=KEPT + 5).for_each(|number| recorder.record(3, event(number)));
        recorder.take(&mut bytes);
        recorder.record(3, event(9999));
        recorder.take(&mut bytes);
        recorder.stop();
        recorder.record(3, event(10_000));
        recorder.take(&mut bytes);
        let events = read(&bytes).unwrap();
        assert_eq!(events.len() as u64, KEPT + 1);
        let first = Event {
            group: 3,
            lost: 5,
            sequence: 1,
            kind: Kind::SystemCall,
            detail: 39,
            result: 7,
            began: 1001,
            cycles: 300,
        };
        assert_eq!(events[0], first);
        assert_eq!(events.last().map(|event| (event.sequence, event.lost)), Some((9999, 0)));
        assert_eq!(read(&bytes[..bytes.len() - 1]).map(|events| events.len() as u64), Ok(KEPT));
        assert_eq!(read(&bytes[1..]), Err(ReadError::NoRecording));
        bytes[8 + 24] = 99;
        assert_eq!(read(&bytes), Err(ReadError::UnknownKind(99)));
    }
}
