//! The list of waiting threads, and the one way to wait in it.

use core::ptr;
use core::sync::atomic::Ordering;

use intrusive_collections::{LinkedList, LinkedListLink, UnsafeRef, intrusive_adapter};

use crate::lock::{SpinGuard, SpinLock};
use crate::scheduler;
use crate::scheduler::mailbox::Linked;
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

    /// Takes out the thread that waits longest, to be woken once the lock is released.
    #[inline(always)]
    pub fn take_one(&mut self) -> Taken {
        while let Some(thread) = self.list.pop_front() {
            let thread = UnsafeRef::into_raw(thread);
            // SAFETY: a thread in a wait list cannot end before it left its wait, for which it needs our lock.
            let thread = unsafe { &*thread };
            // One that lost its wait to its timeout is not ours to wake.
            if thread.claim().try_wake() {
                thread.next().store(ptr::null_mut(), Ordering::Relaxed);
                return Taken { first: thread };
            }
        }
        Taken::NONE
    }

    /// Takes all threads out, to be woken once the lock is released.
    pub fn take_all(&mut self) -> Taken {
        let all = self.take_one();
        // SAFETY: a thread that was taken waits until it is woken, by whoever has the chain.
        let mut last = unsafe { all.first.as_ref() };
        while let Some(thread) = last {
            let next = self.take_one().first;
            thread.next().store(next.cast_mut(), Ordering::Relaxed);
            // SAFETY: as above.
            last = unsafe { next.as_ref() };
        }
        all
    }
}

/// Threads taken out of a wait list: they are woken by nobody else. The object they waited for may be gone as soon as one
/// of them runs, so they are woken after the last access to it: see [`Taken::wake`].
#[must_use = "the threads wait for ever otherwise"]
pub struct Taken {
    /// Linked by their own links.
    first: *const Thread,
}

impl Taken {
    /// No thread.
    pub const NONE: Self = Self { first: ptr::null() };

    /// True if there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Releases the lock under which they were taken and wakes them; how many there were.
    #[inline(always)]
    pub fn wake<T>(self, guard: SpinGuard<'_, T>) -> usize {
        let _interrupts = SpinGuard::release(guard);
        let mut thread = self.first;
        let mut count = 0;
        // SAFETY: a thread that was taken waits until it is woken, here; the link is read before.
        while let Some(taken) = unsafe { thread.as_ref() } {
            thread = taken.next().load(Ordering::Relaxed);
            scheduler::make_runnable(taken);
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
