//! ROS events: what the HRT posts for this process to serve, where no partner thread does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::ros_event::{RESULT, RosEvent, WORDS};

use crate::memory::{END_OF_LOW, END_OF_ROS, Mapping};
use crate::partners::locked;
use crate::system_call;

/// The event that was posted last.
#[derive(Default)]
pub struct RosEvents {
    posted: Mutex<Option<Posted>>,
    has_changed: Condvar,
}

struct Posted {
    event: RosEvent,
    /// Where its record is.
    at: u64,
    is_taken: bool,
    result: Option<u64>,
}

impl RosEvents {
    /// Posts the event in a record. Returns false if there is none, or if an earlier event has not
    /// been acknowledged.
    pub fn post(&self, memory: &Memory<'_>, at: u64) -> bool {
        let Some(event) = memory.read(at).as_ref().and_then(RosEvent::from_record) else { return false };
        let mut posted = locked(&self.posted);
        if posted.is_some() {
            return false;
        }
        *posted = Some(Posted { event, at, is_taken: false, result: None });
        self.has_changed.notify_all();
        true
    }

    /// Waits for an event to serve; `None` if none is posted in time.
    pub fn take(&self, limit: Duration) -> Option<RosEvent> {
        let deadline = Instant::now() + limit;
        let mut posted = locked(&self.posted);
        loop {
            if let Some(posted) = posted.as_mut().filter(|posted| !posted.is_taken) {
                posted.is_taken = true;
                return Some(posted.event);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            posted = self.has_changed.wait_timeout(posted, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Completes the event that was taken. Returns false if none was, or if it is complete.
    pub fn complete(&self, result: u64) -> bool {
        let mut posted = locked(&self.posted);
        let taken = posted.as_mut().filter(|posted| posted.is_taken && posted.result.is_none());
        taken.is_some_and(|posted| {
            posted.result = Some(result);
            true
        })
    }

    /// Puts the result of the event into its record, and forgets it. Returns false if there is no
    /// result.
    pub fn acknowledge(&self, memory: &Memory<'_>) -> bool {
        let mut posted = locked(&self.posted);
        let Some((at, result)) = posted.as_ref().and_then(|posted| Some((posted.at, posted.result?))) else {
            return false;
        };
        *posted = None;
        memory.put(at + 8 * RESULT as u64, result)
    }
}

/// The memory that the HRT sees, by its addresses.
pub struct Memory<'a> {
    /// The HRT's own.
    pub own: &'a Mapping,
    /// Where the HRT has its own memory mapped.
    pub offset: u64,
    /// The HRT sees this process's memory.
    pub is_merged: bool,
}

impl Memory<'_> {
    fn read(&self, at: u64) -> Option<[u64; WORDS]> {
        let mut record = [0; WORDS];
        if self.is_of_process(at) {
            let size = size_of_val(&record);
            return copy(libc::SYS_process_vm_readv, record.as_mut_ptr() as u64, at, size).then_some(record);
        }
        for (word, place) in record.iter_mut().enumerate() {
            *place = self.own_word(at.checked_add(8 * word as u64)?)?.load(Ordering::Relaxed);
        }
        Some(record)
    }

    fn put(&self, at: u64, value: u64) -> bool {
        if self.is_of_process(at) {
            return copy(libc::SYS_process_vm_writev, &raw const value as u64, at, 8);
        }
        self.own_word(at).is_some_and(|word| {
            word.store(value, Ordering::Release);
            true
        })
    }

    /// A word of the lower part of the HRT's own memory.
    fn own_word(&self, at: u64) -> Option<&AtomicU64> {
        self.own.word(at.checked_sub(self.offset).filter(|&at| at < END_OF_LOW)?)
    }

    fn is_of_process(&self, at: u64) -> bool {
        self.is_merged && at < END_OF_ROS
    }
}

/// Copies between memory of this process that is there and memory that may not be.
fn copy(call: libc::c_long, here: u64, there: u64, size: usize) -> bool {
    let vector = |at: u64| libc::iovec { iov_base: at as *mut libc::c_void, iov_len: size };
    let (local, remote) = (vector(here), vector(there));
    let process = u64::from(std::process::id());
    let arguments = [process, &raw const local as u64, 1, &raw const remote as u64, 1, 0];
    // SAFETY: the local part is the caller's; Linux checks the other one, which the HRT named and
    // may access as this process may.
    unsafe { system_call::make(call as u64, arguments) == size as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn an_event_is_posted_served_and_acknowledged_in_this_order() {
        let own = Mapping::private(4096).unwrap();
        let memory = Memory { own: &own, offset: 1 << 47, is_merged: true };
        let events = RosEvents::default();
        let mut record = RosEvent::ThreadExit(7).to_record();
        let at = record.as_mut_ptr() as u64;
        assert!(!events.complete(1) && !events.acknowledge(&memory) && events.take(SOON).is_none());
        assert!(events.post(&memory, at) && !events.post(&memory, at), "one at a time");
        assert!(!events.complete(1), "it was not taken");
        assert_eq!((events.take(SOON), events.take(SOON)), (Some(RosEvent::ThreadExit(7)), None));
        assert!(!events.acknowledge(&memory) && events.complete(9) && !events.complete(9));
        assert!(events.acknowledge(&memory) && !events.acknowledge(&memory));
        // SAFETY: the word is the record's, which Linux wrote to.
        assert_eq!(unsafe { record.as_ptr().add(RESULT).read_volatile() }, 9);
        let bytes: Vec<u8> = RosEvent::Done.to_record().iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(own.write(64, &bytes));
        assert!(events.post(&memory, (1 << 47) + 64) && events.take(SOON) == Some(RosEvent::Done));
        assert!(events.complete(3) && events.acknowledge(&memory));
        assert_eq!(own.word(72).map(|word| word.load(Ordering::Relaxed)), Some(3));
        for nowhere in [8, (1 << 47) + 4096, u64::MAX - 7, u64::MAX] {
            assert!(!events.post(&memory, nowhere), "{nowhere:#x}");
        }
    }
}
