//! The counting semaphore.

use super::list::TakenOne;
use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::atomic::{AtomicI64, Ordering, const_fn};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// A count that never goes below zero: who would take it there waits.
pub struct Semaphore {
    /// The count; below zero, how many wait who were not yet promised a unit.
    count: AtomicI64,
    promises: SpinLock<Promises>,
}

struct Promises {
    /// Units given to waiters who have not picked them up; negative if one was picked up before it was laid down.
    laid_down: i64,
    waiters: WaitList,
}

// SAFETY: `up` and `try_down` take a spin lock and nothing else.
unsafe impl InterruptSafe for Semaphore {}

impl Semaphore {
    const_fn! {
        /// A semaphore with `count` units.
        pub fn new(count: u32) -> Self {
            let promises = Promises { laid_down: 0, waiters: WaitList::new() };
            Self { count: AtomicI64::new(count as i64), promises: SpinLock::new(promises) }
        }
    }

    /// Takes a unit. Blocks.
    #[inline]
    pub fn down(&self) {
        // A program's end forces a timeout; without the unit the caller must not go on.
        while self.down_until(Deadline::NEVER).is_err() {}
    }

    /// Takes a unit if there is one until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none.
    #[inline]
    pub fn down_until(&self, deadline: Deadline) -> Result<(), TimedOut> {
        if self.count.fetch_sub(1, Ordering::Acquire) > 0 { Ok(()) } else { self.wait_for_unit(deadline) }
    }

    /// Takes a unit if there is one now.
    pub fn try_down(&self) -> bool {
        let take = |count: i64| (count > 0).then(|| count - 1);
        self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).is_ok()
    }

    /// Adds a unit, to whoever waits longest if somebody does.
    #[inline]
    pub fn up(&self) {
        if self.count.fetch_add(1, Ordering::Release) < 0 {
            self.hand_over();
        }
    }

    /// The count, negative if threads wait, as it was at some moment during the call.
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
        // Everybody who waits was promised a unit, so ours is here or on its way.
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
