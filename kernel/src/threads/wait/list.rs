//! The list of waiting threads, and the only way to wait in it.

use core::ptr;
use core::sync::atomic::Ordering;

use intrusive_collections::{LinkedList, LinkedListLink, UnsafeRef, intrusive_adapter};

use crate::lock::{SpinGuard, SpinLock};
use crate::scheduler;
use crate::scheduler::mailbox::Linked;
use crate::thread::{self, Thread};
use crate::time::Deadline;

intrusive_adapter!(WaitAdapter = UnsafeRef<Thread>: Thread { wait_link => LinkedListLink });

/// Threads waiting for the same thing, longest first. The list lives inside the [`SpinLock`] that
/// guards what they wait for.
pub struct WaitList {
    list: LinkedList<WaitAdapter>,
}

// SAFETY: the links are followed only under the lock that the list lives in.
unsafe impl Send for WaitList {}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A waker ended it.
    Woken,
    /// The deadline passed, or the end of the thread's program forced a timeout.
    TimedOut,
}

impl WaitList {
    /// Creates an empty list.
    pub const fn new() -> Self {
        Self { list: LinkedList::new(WaitAdapter::NEW) }
    }

    /// Returns true if no thread waits.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes out the thread that has waited longest, to be woken once the lock is released.
    #[inline(always)]
    pub fn take_one(&mut self) -> TakenOne {
        while let Some(thread) = self.list.pop_front() {
            let thread = UnsafeRef::into_raw(thread);
            // SAFETY: a thread in a wait list cannot end before it leaves its wait, for which it
            // needs the lock that the caller holds.
            let thread = unsafe { &*thread };
            // A thread that its timeout has claimed is woken by the timeout; take the next one.
            if thread.claim().try_wake() {
                return TakenOne(Some(thread));
            }
        }
        TakenOne(None)
    }

    /// Takes all threads out, to be woken once the lock is released.
    pub fn take_all(&mut self) -> TakenAll {
        let TakenOne(first) = self.take_one();
        let mut last = first;
        while let Some(thread) = last {
            let TakenOne(next) = self.take_one();
            thread.next().store(next.map_or(ptr::null(), ptr::from_ref).cast_mut(), Ordering::Relaxed);
            last = next;
        }
        TakenAll(first)
    }
}

/// A thread taken out of a wait list, or none. Only the holder of this value wakes the thread. The
/// object the thread waited for may be gone as soon as the thread runs, so wake it after the last
/// access to that object.
#[must_use = "the thread waits for ever otherwise"]
pub struct TakenOne(Option<&'static Thread>);

impl TakenOne {
    /// No thread.
    pub const NONE: Self = Self(None);

    /// Returns true if there is no thread.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Releases the lock under which the thread was taken and wakes the thread. Returns false if
    /// there was none.
    #[inline(always)]
    pub fn wake<T>(self, guard: SpinGuard<'_, T>) -> bool {
        let _interrupts = SpinGuard::release(guard);
        self.wake_unlocked()
    }

    /// Wakes the thread once the lock is released, with interrupts still off. Returns false if
    /// there was none.
    #[inline(always)]
    pub(super) fn wake_unlocked(self) -> bool {
        if let Some(thread) = self.0 {
            scheduler::make_runnable(thread);
        }
        self.0.is_some()
    }
}

impl From<TakenOne> for TakenAll {
    fn from(TakenOne(thread): TakenOne) -> Self {
        if let Some(thread) = thread {
            thread.next().store(ptr::null_mut(), Ordering::Relaxed);
        }
        Self(thread)
    }
}

/// All threads taken out of a wait list, chained by their own links, with the rules of
/// [`TakenOne`].
#[must_use = "the threads wait for ever otherwise"]
pub struct TakenAll(Option<&'static Thread>);

impl TakenAll {
    /// No thread.
    pub const NONE: Self = Self(None);

    /// Releases the lock under which the threads were taken and wakes them. Returns their number.
    pub fn wake<T>(self, guard: SpinGuard<'_, T>) -> usize {
        let _interrupts = SpinGuard::release(guard);
        let (mut next, mut count) = (self.0, 0);
        while let Some(thread) = next {
            // SAFETY: the link is null or leads to a thread that was taken out and stays blocked
            // until it is woken here; it is read before its thread is woken.
            next = unsafe { thread.next().load(Ordering::Relaxed).as_ref() };
            scheduler::make_runnable(thread);
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

/// Waits in the list that `select` finds in the locked data, until woken or until `deadline`. Once
/// the thread is in the list, the lock is released, `before_sleep` runs, and the thread sleeps.
/// Interrupts are afterwards as they were before the lock was taken.
///
/// # Panics
/// In an interrupt handler or on the idle thread, where no thread can wait.
#[inline(always)]
pub fn wait_in<T>(
    lock: &SpinLock<T>,
    mut guard: SpinGuard<'_, T>,
    select: impl Fn(&mut T) -> &mut WaitList,
    deadline: Deadline,
    before_sleep: impl FnOnce(),
) -> Outcome {
    let thread = thread::running();
    scheduler::assert_may_block();
    thread.claim().begin();
    // SAFETY: the thread is out of the list before this function returns, so the reference stays
    // valid.
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
    // Checked even without a deadline, because the end of a program forces a timeout.
    if thread.claim().timed_out() {
        let mut guard = lock.lock();
        // A waker may have taken the thread out of the list and then lost the claim.
        if thread.is_in_wait_list() {
            // SAFETY: the thread is linked, and it is only ever linked in the list it waits in.
            unsafe { select(&mut guard).list.cursor_mut_from_ptr(thread) }.remove();
        }
        drop(guard);
        drop(interrupts);
        return Outcome::TimedOut;
    }
    drop(interrupts);
    Outcome::Woken
}
