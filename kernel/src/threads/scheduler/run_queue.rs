//! The run queue: first in, first out, threads chained by their own links. Only its CPU touches it,
//! with interrupts off.

use core::cell::Cell;
use core::ptr;

use super::mailbox::Linked;
use crate::atomic::Ordering;
use crate::thread::Thread;

/// The threads that are ready to run on one CPU. The fields are cells, because the queue is
/// borrowed shared: a function that holds it may call another one that enqueues.
pub struct RunQueue {
    first: Cell<*const Thread>,
    last: Cell<*const Thread>,
    length: Cell<usize>,
}

impl RunQueue {
    /// Creates an empty queue.
    pub const fn new() -> Self {
        Self { first: Cell::new(ptr::null()), last: Cell::new(ptr::null()), length: Cell::new(0) }
    }

    /// Returns true if no thread is ready.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    /// Returns the number of ready threads.
    pub fn len(&self) -> usize {
        self.length.get()
    }

    /// Appends a thread that is in no queue, mailbox or list.
    #[inline(always)]
    pub fn push(&self, thread: *const Thread) {
        // SAFETY: a thread under the scheduler's control is valid, and only this CPU touches the
        // queue and the links of the threads in it.
        unsafe {
            // The link may still hold its value from a mailbox. Atomic only because the mailbox
            // shares it.
            (*thread).next().store(ptr::null_mut(), Ordering::Relaxed);
            if self.first.get().is_null() {
                self.first.set(thread);
            } else {
                (*self.last.get()).next().store(thread.cast_mut(), Ordering::Relaxed);
            }
        }
        self.last.set(thread);
        self.length.set(self.length.get() + 1);
    }

    /// Takes the thread that has waited longest.
    #[inline(always)]
    pub fn pop(&self) -> Option<&'static Thread> {
        // SAFETY: `first` is null or a queued thread, and a queued thread stays valid.
        let thread = unsafe { self.first.get().as_ref() }?;
        // `last` may now lead to a thread that has left: `push` reads it only while `first` is set.
        self.first.set(thread.next().load(Ordering::Relaxed));
        self.length.set(self.length.get() - 1);
        Some(thread)
    }

    /// Returns the threads in order, for display.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        let mut at = self.first.get();
        core::iter::from_fn(move || {
            // SAFETY: `at` is null or a queued, hence valid, thread, and the
            // caller changes nothing meanwhile.
            let thread = unsafe { at.as_ref() }?;
            at = thread.next().load(Ordering::Relaxed);
            Some(thread)
        })
    }
}

// SAFETY: the pointers lead to threads, which are `Sync`, and one CPU at a time accesses the queue.
unsafe impl Send for RunQueue {}
