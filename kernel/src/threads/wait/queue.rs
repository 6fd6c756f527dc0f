//! The wait queue: threads wait while a condition holds that others change.

use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// Threads that wait for a condition kept elsewhere, in atomics.
pub struct WaitQueue {
    waiters: SpinLock<WaitList>,
}

// SAFETY: waking takes a spin lock and nothing else.
unsafe impl InterruptSafe for WaitQueue {}

impl WaitQueue {
    /// A queue without threads.
    pub const fn new() -> Self {
        Self { waiters: SpinLock::new(WaitList::new()) }
    }

    /// Waits while `blocked` returns true. It is evaluated under the queue's lock, so a change made before
    /// [`WaitQueue::wake_one`] or [`WaitQueue::wake_all`] is never missed. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if `deadline` passes and it still holds.
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

    /// Wakes who waits longest; false if nobody did.
    #[inline]
    pub fn wake_one(&self) -> bool {
        let mut waiters = self.waiters.lock();
        waiters.take_one().wake(waiters)
    }

    /// Wakes everybody; how many there were.
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
