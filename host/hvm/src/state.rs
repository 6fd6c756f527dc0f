//! What an HRT is doing for the ROS, how it ends, and who waits for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Its kernel crashed. Its console may still have a prompt at which to look at it.
    Crashed {
        /// The CPU.
        cpu: u32,
        /// The crash file, if there is one.
        file: Option<PathBuf>,
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
            Self::Crashed { cpu, file: None } => {
                write!(f, "the HRT's kernel crashed on CPU {cpu}; its console says why")
            }
            Self::Crashed { cpu, file: Some(file) } => {
                write!(f, "the HRT's kernel crashed on CPU {cpu}: `aero inspect {}` shows why", file.display())
            }
            Self::Stopped => f.write_str("the HRT was stopped"),
            Self::TripleFault { cpu } => write!(f, "the HRT's CPU {cpu} had a triple fault"),
            Self::Failed { cpu, why } => write!(f, "the HRT's CPU {cpu} {why}"),
        }
    }
}

/// What the HRT is doing for the ROS: one thing at a time (Palacios: the transaction's state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Nothing.
    Idle,
    /// A call of a function on one CPU.
    Call,
    /// A call of a function on all CPUs.
    ParallelCall,
    /// Merging the address spaces, or taking them apart.
    Merge,
    /// Adding an execution group.
    AddGroup,
    /// Looking for a function of the kernel.
    FindFunction,
    /// Setting up synchronous mode, being in it, or ending it.
    Synchronous,
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "nothing",
            Self::Call => "a call",
            Self::ParallelCall => "a call on all CPUs",
            Self::Merge => "a merge of address spaces",
            Self::Synchronous => "synchronous mode",
            Self::AddGroup => "the start of an execution group",
            Self::FindFunction => "the search for a function",
        })
    }
}

/// An exception that a function caused in the HRT, which ended its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector (SDM Vol. 3A, table 6-1).
    pub vector: u8,
    /// Its error code, 0 if it has none.
    pub code: u64,
    /// The instruction's address.
    pub at: u64,
    /// The address accessed, of a page fault.
    pub address: u64,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, code, at, address } = self;
        match vector {
            0 => write!(f, "the function divided by zero at {at:#x}"),
            6 => write!(f, "the function has an invalid instruction at {at:#x}"),
            14 => write!(f, "the function accessed {address:#x} from {at:#x}, where no process has memory"),
            _ => write!(f, "the function caused exception {vector} at {at:#x} (error code {code:#x})"),
        }?;
        f.write_str(", and was left there")
    }
}

/// Why a request to an HRT failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The HRT is still busy with an earlier request, which may have been given up.
    Busy(Transaction),
    /// The address spaces are not merged, so the HRT cannot reach the function.
    NotMerged,
    /// The HRT did not answer within the limit. It may still be at it.
    NoAnswer(Duration),
    /// The HRT has ended.
    Ended(End),
    /// This process is a fork of the one that booted the HRT, which stays with that one.
    OtherProcess,
    /// The function caused an exception.
    Exception(Exception),
    /// Linux refuses an access of the function.
    RefusedAccess {
        /// The instruction's address.
        at: u64,
    },
    /// The function ended the thread that called it.
    ThreadEnded,
    /// The HRT could not do it.
    Failed(Transaction),
    /// Linux or KVM refused what the request needs; a sentence.
    Refused(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(with) => write!(f, "the HRT is still busy with {with}: wait for it, or boot another one"),
            Self::NotMerged => f.write_str("the HRT cannot reach this process's functions: call `merge` first"),
            Self::NoAnswer(limit) => {
                write!(f, "the HRT did not answer within {limit:?}: its console shows what it does; see `limit`")
            }
            Self::Ended(end) => end.fmt(f),
            Self::OtherProcess => {
                f.write_str("the HRT belongs to the process that this one was forked from: boot another one here")
            }
            Self::Exception(exception) => exception.fmt(f),
            Self::RefusedAccess { at } => write!(
                f,
                "the function accessed memory that this process has not, or not so, from {at:#x}, and was left there"
            ),
            Self::ThreadEnded => f.write_str("the function ended the thread that called it, and with it the call"),
            Self::Failed(what) => write!(f, "the HRT could not do {what}; its console says why"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for CallError {}

/// The state of an HRT that its CPUs' threads and the ROS share.
pub struct State {
    /// Set once `end` is.
    has_ended: AtomicBool,
    /// Set once `end` or `crash` is.
    serves_nothing: AtomicBool,
    shared: Mutex<Shared>,
    has_changed: Condvar,
}

struct Shared {
    end: Option<End>,
    /// Set if the kernel crashed, also while it still has a prompt.
    crash: Option<End>,
    transaction: Transaction,
    /// Answers that are still to come.
    awaited: u32,
    results: Vec<u64>,
    said: Vec<u8>,
}

impl Shared {
    /// Why the HRT serves nothing any more.
    fn over(&self) -> Option<&End> {
        self.crash.as_ref().or(self.end.as_ref())
    }

    fn begin(&mut self, what: Transaction, answers: u32) -> Result<(), CallError> {
        if let Some(end) = self.over() {
            return Err(CallError::Ended(end.clone()));
        }
        if self.transaction != Transaction::Idle {
            return Err(CallError::Busy(self.transaction));
        }
        (self.transaction, self.awaited) = (what, answers);
        self.results.clear();
        Ok(())
    }
}

impl Default for State {
    fn default() -> Self {
        let shared = Shared {
            end: None,
            crash: None,
            transaction: Transaction::Idle,
            awaited: 0,
            results: Vec::new(),
            said: Vec::new(),
        };
        Self {
            has_ended: AtomicBool::new(false),
            serves_nothing: AtomicBool::new(false),
            shared: Mutex::new(shared),
            has_changed: Condvar::new(),
        }
    }
}

impl State {
    fn locked(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is there; `None` if the limit passes first.
    fn wait_for<T>(&self, limit: Duration, found: impl Fn(&mut Shared) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut shared = self.locked();
        loop {
            if let Some(found) = found(&mut shared) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            shared = self.has_changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Records how the HRT ended. The first end counts, and is returned.
    pub fn end(&self, end: End) -> End {
        let first = self.locked().end.get_or_insert(end).clone();
        self.has_ended.store(true, Ordering::Release);
        self.serves_nothing.store(true, Ordering::Release);
        self.has_changed.notify_all();
        first
    }

    /// Records that the kernel crashed: it serves nothing any more, but its CPUs run on.
    pub fn crash(&self, crash: End) {
        self.locked().crash.get_or_insert(crash);
        self.serves_nothing.store(true, Ordering::Release);
        self.has_changed.notify_all();
    }

    /// Why the HRT serves nothing any more, if so: it crashed or ended.
    pub fn over(&self) -> Option<End> {
        if !self.serves_nothing.load(Ordering::Acquire) {
            return None;
        }
        self.locked().over().cloned()
    }

    /// How the kernel crashed, if it has.
    pub fn crashed(&self) -> Option<End> {
        self.locked().crash.clone()
    }

    /// How the HRT ended, if it has.
    pub fn ended(&self) -> Option<End> {
        if !self.has_ended.load(Ordering::Acquire) {
            return None;
        }
        self.locked().end.clone()
    }

    /// Waits until the HRT has ended; `None` if it has not in time.
    pub fn wait(&self, limit: Duration) -> Option<End> {
        self.wait_for(limit, |shared| shared.end.clone())
    }

    /// Begins a transaction with so many answers.
    ///
    /// # Errors
    /// [`CallError::Ended`], [`CallError::Busy`].
    pub fn begin(&self, what: Transaction, answers: u32) -> Result<(), CallError> {
        self.locked().begin(what, answers)
    }

    /// Begins a transaction as soon as no other is under way.
    ///
    /// # Errors
    /// As [`State::begin`], when the limit has passed.
    pub fn begin_when_idle(&self, what: Transaction, limit: Duration) -> Result<(), CallError> {
        let begun = self.wait_for(limit, |shared| shared.begin(what, 1).is_ok().then_some(()));
        begun.map_or_else(|| self.begin(what, 1), Ok)
    }

    /// Ends a transaction that was not requested after all.
    pub fn cancel(&self) {
        let mut shared = self.locked();
        (shared.transaction, shared.awaited) = (Transaction::Idle, 0);
    }

    /// Takes an answer of the HRT. Returns false if it answers nothing that was asked.
    pub fn answer(&self, to: &[Transaction], result: u64) -> bool {
        let mut shared = self.locked();
        if !to.contains(&shared.transaction) || shared.awaited == 0 {
            return false;
        }
        shared.results.push(result);
        shared.awaited -= 1;
        // An answer that is no longer waited for makes room for the next request, too.
        if shared.awaited == 0 {
            shared.transaction = Transaction::Idle;
        }
        self.has_changed.notify_all();
        true
    }

    /// Waits for the answers of the transaction that was begun, and returns them as they came.
    ///
    /// # Errors
    /// [`CallError::NoAnswer`], [`CallError::Ended`].
    pub fn answers(&self, limit: Duration) -> Result<Vec<u64>, CallError> {
        let found = self.wait_for(limit, |shared| match shared.over() {
            _ if shared.transaction == Transaction::Idle => Some(Ok(std::mem::take(&mut shared.results))),
            Some(end) => Some(Err(CallError::Ended(end.clone()))),
            None => None,
        });
        found.unwrap_or(Err(CallError::NoAnswer(limit)))
    }

    /// Keeps a character that the HRT wrote to the port.
    pub fn say(&self, byte: u8) {
        self.locked().said.push(byte);
    }

    /// Takes the characters that the HRT wrote to the port.
    pub fn take_said(&self) -> Vec<u8> {
        std::mem::take(&mut self.locked().said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn a_request_has_its_answers_and_no_others() {
        let state = State::default();
        assert!(!state.answer(&[Transaction::Call], 1), "nothing was asked");
        state.begin(Transaction::ParallelCall, 2).unwrap();
        assert_eq!(state.begin(Transaction::Call, 1), Err(CallError::Busy(Transaction::ParallelCall)));
        assert!(!state.answer(&[Transaction::Merge], 1) && state.answer(&[Transaction::ParallelCall], 5));
        assert_eq!(state.answers(SOON), Err(CallError::NoAnswer(SOON)));
        assert!(state.answer(&[Transaction::ParallelCall], 6) && !state.answer(&[Transaction::ParallelCall], 7));
        assert_eq!(state.answers(SOON), Ok(vec![5, 6]));
    }

    #[test]
    fn the_end_of_an_hrt_answers_everything() {
        let state = State::default();
        state.begin(Transaction::Call, 1).unwrap();
        assert_eq!(state.wait(SOON), None);
        assert_eq!(state.end(End::TripleFault { cpu: 1 }), End::TripleFault { cpu: 1 });
        assert_eq!(state.end(End::Stopped), End::TripleFault { cpu: 1 });
        assert_eq!(state.answers(SOON), Err(CallError::Ended(End::TripleFault { cpu: 1 })));
        assert_eq!(state.begin(Transaction::Call, 1), Err(CallError::Ended(End::TripleFault { cpu: 1 })));
    }
}
