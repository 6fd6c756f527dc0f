//! ROS events (Palacios): what the HRT posts for the ROS to serve, one at a time, where no partner
//! thread does. A record has [`WORDS`] words: the kind, the result of the event, and up to eight
//! words that the kind describes.

/// Words of a record.
pub const WORDS: usize = 10;
/// The word of a record in which the result is put.
pub const RESULT: usize = 1;

/// Numbers of the kinds.
mod kind {
    pub const PAGE_FAULT: u64 = 1;
    pub const SYSTEM_CALL: u64 = 2;
    pub const EXCEPTION: u64 = 3;
    pub const THREAD_EXIT: u64 = 4;
    pub const DONE: u64 = 5;
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RosEvent {
    /// An access that the HRT cannot make.
    PageFault {
        /// The instruction's address.
        at: u64,
        /// The address accessed.
        address: u64,
        /// It is a write.
        is_write: bool,
    },
    /// A system call: its number and arguments.
    SystemCall([u64; 8]),
    /// An exception.
    Exception {
        /// The instruction's address.
        at: u64,
        /// Its vector.
        vector: u64,
    },
    /// A thread of the HRT has ended; its number.
    ThreadExit(u64),
    /// There is nothing more to do.
    Done,
}

impl RosEvent {
    /// Reads a record; `None` for one of no known kind.
    pub fn from_record(record: &[u64; WORDS]) -> Option<Self> {
        let [kind, _, first, second, third, ..] = *record;
        Some(match kind {
            kind::PAGE_FAULT => Self::PageFault { at: first, address: second, is_write: third != 0 },
            kind::SYSTEM_CALL => Self::SystemCall(core::array::from_fn(|word| record[2 + word])),
            kind::EXCEPTION => Self::Exception { at: first, vector: second },
            kind::THREAD_EXIT => Self::ThreadExit(first),
            kind::DONE => Self::Done,
            _ => return None,
        })
    }

    /// Writes the record.
    pub fn to_record(self) -> [u64; WORDS] {
        let (kind, words) = match self {
            Self::PageFault { at, address, is_write } => {
                (kind::PAGE_FAULT, [at, address, is_write.into(), 0, 0, 0, 0, 0])
            }
            Self::SystemCall(words) => (kind::SYSTEM_CALL, words),
            Self::Exception { at, vector } => (kind::EXCEPTION, [at, vector, 0, 0, 0, 0, 0, 0]),
            Self::ThreadExit(thread) => (kind::THREAD_EXIT, [thread, 0, 0, 0, 0, 0, 0, 0]),
            Self::Done => (kind::DONE, [0; 8]),
        };
        core::array::from_fn(|word| match word {
            0 => kind,
            RESULT => 0,
            word => words[word - 2],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_as_they_went_in() {
        let events = [
            RosEvent::PageFault { at: 1, address: 2, is_write: true },
            RosEvent::SystemCall([39, 1, 2, 3, 4, 5, 6, 7]),
            RosEvent::Exception { at: 1, vector: 13 },
            RosEvent::ThreadExit(4),
            RosEvent::Done,
        ];
        for event in events {
            assert_eq!(RosEvent::from_record(&event.to_record()), Some(event));
        }
        for kind in [0, 6, u64::MAX] {
            assert_eq!(RosEvent::from_record(&[kind; WORDS]), None);
        }
    }
}
