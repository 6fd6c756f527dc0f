//! The wait queue: threads wait for a condition that other threads change.

use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// Threads that wait for a condition kept elsewhere, in atomics.
pub struct WaitQueue {
    waiters: SpinLock<WaitList>,
}

// SAFETY: waking takes a spin lock only, and neither blocks nor allocates.
unsafe impl InterruptSafe for WaitQueue {}

impl WaitQueue {
    /// Creates a queue without threads.
    pub const fn new() -> Self {
        Self { waiters: SpinLock::new(WaitList::new()) }
    }

    /// Waits while `blocked` returns true. The queue evaluates `blocked` under its lock before each
    /// sleep, so a change made before [`WaitQueue::wake_one`] or [`WaitQueue::wake_all`] is never
    /// missed. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if `deadline` has passed and `blocked` still returns true.
    pub fn wait_while(&self, deadline: Deadline, mut blocked: impl FnMut() -> bool) -> Result<(), TimedOut> {
        loop {
            let guard = self.waiters.lock();
            if !blocked() {
                return Ok(());
            }
            if list::wait_in(&self.waiters, guard, |waiters| waiters, deadline, || ()) == Outcome::TimedOut {
                return if blocked() { Err(TimedOut) } else { Ok(()) };
            }
        }
    }

    /// Wakes the thread that has waited longest. Returns false if there was none.
    #[inline]
    pub fn wake_one(&self) -> bool {
        let mut waiters = self.waiters.lock();
        waiters.take_one().wake(waiters)
    }

    /// Wakes all waiting threads. Returns their number.
    pub fn wake_all(&self) -> usize {
        let mut waiters = self.waiters.lock();
        waiters.take_all().wake(waiters)
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}
