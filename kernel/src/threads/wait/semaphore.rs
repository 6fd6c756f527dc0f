//! The counting semaphore.

use super::list::TakenOne;
use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::atomic::{AtomicI64, Ordering, const_fn};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// A count that never goes below zero for its users: a thread that would take it there waits.
pub struct Semaphore {
    /// The number of free units; if negative, the number of waiters not yet promised a unit.
    count: AtomicI64,
    promises: SpinLock<Promises>,
}

struct Promises {
    /// Units given to waiters that have not picked them up; negative if a unit was picked up before
    /// it was laid down.
    laid_down: i64,
    waiters: WaitList,
}

// SAFETY: `up` and `try_down` take at most a spin lock, and neither blocks nor allocates.
unsafe impl InterruptSafe for Semaphore {}

impl Semaphore {
    const_fn! {
        /// Creates a semaphore with `count` units.
        pub fn new(count: u32) -> Self {
            let promises = Promises { laid_down: 0, waiters: WaitList::new() };
            Self { count: AtomicI64::new(count as i64), promises: SpinLock::new(promises) }
        }
    }

    /// Takes a unit. Blocks.
    #[inline]
    pub fn down(&self) {
        // The end of a program forces a timeout, but the caller must not continue without the unit.
        while self.down_until(Deadline::NEVER).is_err() {}
    }

    /// Takes a unit, waiting for one until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if there was no unit by then.
    #[inline]
    pub fn down_until(&self, deadline: Deadline) -> Result<(), TimedOut> {
        if self.count.fetch_sub(1, Ordering::Acquire) > 0 { Ok(()) } else { self.wait_for_unit(deadline) }
    }

    /// Takes a unit if there is one now. Returns whether it did.
    pub fn try_down(&self) -> bool {
        let take = |count: i64| (count > 0).then(|| count - 1);
        self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).is_ok()
    }

    /// Adds a unit, which goes to the thread that has waited longest, if any.
    #[inline]
    pub fn up(&self) {
        if self.count.fetch_add(1, Ordering::Release) < 0 {
            self.hand_over();
        }
    }

    /// Returns the count at some moment during the call. It is negative if threads wait.
    pub fn value(&self) -> i64 {
        self.count.load(Ordering::Relaxed)
    }

    #[cold]
    fn wait_for_unit(&self, deadline: Deadline) -> Result<(), TimedOut> {
        let mut guard = self.promises.lock();
        if guard.laid_down > 0 {
            guard.laid_down -= 1;
            return Ok(());
        }
        if list::wait_in(&self.promises, guard, |promises| &mut promises.waiters, deadline, || ()) == Outcome::Woken {
            return Ok(());
        }
        let mut guard = self.promises.lock();
        let withdraw = |count: i64| (count < 0).then(|| count + 1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, withdraw).is_ok() {
            return Err(TimedOut);
        }
        // A count of zero or more means that every waiter was promised a unit, so this one's is
        // here or on its way.
        guard.laid_down -= 1;
        Ok(())
    }

    #[cold]
    fn hand_over(&self) {
        let mut guard = self.promises.lock();
        let taken = if guard.laid_down < 0 { TakenOne::NONE } else { guard.waiters.take_one() };
        if taken.is_none() {
            guard.laid_down += 1;
        }
        taken.wake(guard);
    }
}
