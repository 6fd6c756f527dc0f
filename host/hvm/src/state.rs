//! How an HRT ends, and who waits for it.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::call::Ending;

/// How an HRT ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with a status.
    Ended {
        /// How.
        ending: Ending,
        /// The status for the ROS.
        status: u8,
    },
    /// It was stopped from the ROS.
    Stopped,
    /// A CPU had a fault that its kernel could not handle (triple fault).
    TripleFault {
        /// The CPU.
        cpu: u32,
    },
    /// A CPU did what the machine does not have, or KVM failed; a sentence.
    Failed {
        /// The CPU.
        cpu: u32,
        /// What happened.
        why: String,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { ending: Ending::PowerOff, status } => write!(f, "the HRT ended with status {status}"),
            Self::Ended { ending: Ending::Reboot, .. } => f.write_str("the HRT wants to be booted again"),
            Self::Ended { ending: Ending::CannotBoot, .. } => f.write_str("the HRT could not boot"),
            Self::Stopped => f.write_str("the HRT was stopped"),
            Self::TripleFault { cpu } => write!(f, "the HRT's CPU {cpu} had a triple fault"),
            Self::Failed { cpu, why } => write!(f, "the HRT's CPU {cpu} {why}"),
        }
    }
}

/// The end of an HRT, once it is known.
#[derive(Default)]
pub struct State {
    end: Mutex<Option<End>>,
    has_ended: Condvar,
    said: Mutex<Vec<u8>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Records how the HRT ended. The first end counts, and is returned.
    pub fn end(&self, end: End) -> End {
        let first = locked(&self.end).get_or_insert(end).clone();
        self.has_ended.notify_all();
        first
    }

    /// How the HRT ended, if it has.
    pub fn ended(&self) -> Option<End> {
        locked(&self.end).clone()
    }

    /// Waits until the HRT has ended; `None` if it has not in time.
    pub fn wait(&self, limit: Duration) -> Option<End> {
        let deadline = Instant::now() + limit;
        let mut end = locked(&self.end);
        loop {
            if end.is_some() {
                return end.clone();
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            end = self.has_ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Keeps a character that the HRT wrote to the port.
    pub fn say(&self, byte: u8) {
        locked(&self.said).push(byte);
    }

    /// Takes the characters that the HRT wrote to the port.
    pub fn take_said(&self) -> Vec<u8> {
        std::mem::take(&mut locked(&self.said))
    }
}
