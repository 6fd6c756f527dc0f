//! The condition variable.

use super::{MutexGuard, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// Threads that wait for a change of data under a [`super::Mutex`]. For threads only.
pub struct Condition {
    waiters: SpinLock<WaitList>,
}

impl Condition {
    /// Creates a condition without waiters.
    pub const fn new() -> Self {
        Self { waiters: SpinLock::new(WaitList::new()) }
    }

    /// Unlocks the mutex, waits for a signal, and locks the mutex again. No signal after the unlock
    /// is missed. Blocks.
    #[inline]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, Deadline::NEVER).0
    }

    /// Like [`Condition::wait`], but waits until `deadline` at most and says whether it passed. The
    /// mutex is locked either way. Blocks.
    #[inline]
    pub fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, T>, Result<(), TimedOut>) {
        let mutex = guard.mutex();
        let result = self.unlock_and_wait(guard, deadline);
        (mutex.lock(), result)
    }

    /// Like [`Condition::wait_until`], for a thread of a program: once the program is ending, the
    /// thread continues without the mutex.
    pub fn wait_or_end<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (Option<MutexGuard<'a, T>>, Result<(), TimedOut>) {
        let mutex = guard.mutex();
        let result = self.unlock_and_wait(guard, deadline);
        (mutex.lock_until(Deadline::NEVER).ok(), result)
    }

    #[inline(always)]
    fn unlock_and_wait<T>(&self, guard: MutexGuard<'_, T>, deadline: Deadline) -> Result<(), TimedOut> {
        let mutex = guard.mutex();
        core::mem::forget(guard);
        let waiters = self.waiters.lock();
        // Unlocked only once the thread is in the list, so a signal after the unlock finds it.
        let unlock = || MutexGuard::release_forgotten(mutex);
        let outcome = list::wait_in(&self.waiters, waiters, |waiters| waiters, deadline, unlock);
        if outcome == Outcome::TimedOut { Err(TimedOut) } else { Ok(()) }
    }

    /// Wakes the thread that has waited longest. Returns false if there was none.
    #[inline]
    pub fn signal(&self) -> bool {
        let mut waiters = self.waiters.lock();
        waiters.take_one().wake(waiters)
    }

    /// Wakes all waiting threads. Returns their number.
    pub fn broadcast(&self) -> usize {
        let mut waiters = self.waiters.lock();
        waiters.take_all().wake(waiters)
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}
