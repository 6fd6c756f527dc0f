//! The list of waiting threads, and the one way to wait in it.

use intrusive_collections::{LinkedList, LinkedListLink, UnsafeRef, intrusive_adapter};

use crate::lock::{SpinGuard, SpinLock};
use crate::scheduler;
use crate::thread::{self, Thread};
use crate::time::Deadline;

intrusive_adapter!(WaitAdapter = UnsafeRef<Thread>: Thread { wait_link => LinkedListLink });

/// Threads waiting for the same thing, longest first. Lives inside the [`SpinLock`] that guards what they wait for.
pub struct WaitList {
    list: LinkedList<WaitAdapter>,
}

// SAFETY: the links are only followed under the lock the list lives in.
unsafe impl Send for WaitList {}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By a waker.
    Woken,
    /// By its deadline.
    TimedOut,
}

impl WaitList {
    /// Nobody.
    pub const fn new() -> Self {
        Self { list: LinkedList::new(WaitAdapter::NEW) }
    }

    /// True if nobody waits.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Wakes who waits longest; false if nobody did.
    #[inline(always)]
    pub fn wake_one(&mut self) -> bool {
        while let Some(thread) = self.list.pop_front() {
            let thread = UnsafeRef::into_raw(thread);
            // SAFETY: a thread in a wait list cannot end before it left its wait, for which it needs our lock.
            let thread = unsafe { &*thread };
            // One that lost its wait to its timeout is not ours to wake.
            if thread.claim().try_wake() {
                scheduler::make_runnable(thread);
                return true;
            }
        }
        false
    }

    /// Wakes everybody; how many there were.
    pub fn wake_all(&mut self) -> usize {
        let mut count = 0;
        while self.wake_one() {
            count += 1;
        }
        count
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits in the list that `select` finds in the locked data, until woken or until `deadline`. The lock is released once
/// the thread is in the list, then `before_sleep` runs, then the thread sleeps. Interrupts are afterwards as they
/// were before the lock was taken.
///
/// # Panics
/// In an interrupt handler, where there is no thread that could wait.
#[inline(always)]
pub fn wait_in<T>(
    lock: &SpinLock<T>,
    mut guard: SpinGuard<'_, T>,
    select: impl Fn(&mut T) -> &mut WaitList,
    deadline: Deadline,
    before_sleep: impl FnOnce(),
) -> Outcome {
    let thread = thread::current();
    scheduler::assert_may_block();
    thread.claim().begin();
    // SAFETY: the thread leaves the list before it leaves this function.
    select(&mut guard).list.push_back(unsafe { UnsafeRef::from_raw(thread) });
    let limited = deadline != Deadline::NEVER;
    if limited {
        thread.start_timeout(deadline);
    }
    let interrupts = SpinGuard::release(guard);
    before_sleep();
    scheduler::block();
    if limited {
        thread.end_timeout();
    }
    // Without a deadline too: a program's end forces it.
    if thread.claim().timed_out() {
        let mut guard = lock.lock();
        // A waker may have taken it out of the list and then lost the claim.
        if thread.is_in_wait_list() {
            // SAFETY: it is linked, and only ever in the list it waits in.
            unsafe { select(&mut guard).list.cursor_mut_from_ptr(thread) }.remove();
        }
        drop(guard);
        drop(interrupts);
        return Outcome::TimedOut;
    }
    drop(interrupts);
    Outcome::Woken
}
