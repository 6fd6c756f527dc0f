//! The condition variable.

use super::{MutexGuard, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// Threads that wait for a change of data under a [`super::Mutex`]. For threads only.
pub struct Condition {
    waiters: SpinLock<WaitList>,
}

impl Condition {
    /// A condition nobody waits for.
    pub const fn new() -> Self {
        Self { waiters: SpinLock::new(WaitList::new()) }
    }

    /// Unlocks the mutex, waits for a signal, locks again. No signal after the unlock is missed. Blocks.
    #[inline]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, Deadline::NEVER).0
    }

    /// As [`Condition::wait`], until `deadline`; says whether it passed. The mutex is locked either way. Blocks.
    #[inline]
    pub fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, T>, Result<(), TimedOut>) {
        let mutex = guard.mutex();
        core::mem::forget(guard);
        let waiters = self.waiters.lock();
        let unlock = || MutexGuard::release_forgotten(mutex);
        let outcome = list::wait_in(&self.waiters, waiters, |waiters| waiters, deadline, unlock);
        let result = if outcome == Outcome::TimedOut { Err(TimedOut) } else { Ok(()) };
        (mutex.lock(), result)
    }

    /// Wakes who waits longest; false if nobody did.
    #[inline]
    pub fn signal(&self) -> bool {
        self.waiters.lock().wake_one()
    }

    /// Wakes everybody; how many there were.
    pub fn broadcast(&self) -> usize {
        self.waiters.lock().wake_all()
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}
