//! The run queue: first in, first out, threads linked by themselves. Touched by its CPU only, interrupts off.

use core::ptr;

use super::mailbox::Linked;
use crate::atomic::Ordering;
use crate::thread::Thread;

/// Threads that are ready to run on one CPU.
pub struct RunQueue {
    first: *const Thread,
    last: *const Thread,
    length: usize,
}

impl RunQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { first: ptr::null(), last: ptr::null(), length: 0 }
    }

    /// True if no thread is ready.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Number of threads.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Appends a thread that is in no queue, mailbox or list.
    #[inline(always)]
    pub fn push(&mut self, thread: *const Thread) {
        // SAFETY: threads in the scheduler's hands are valid; this queue is this CPU's alone.
        unsafe {
            (*thread).next().store(ptr::null_mut(), Ordering::Relaxed);
            if self.first.is_null() {
                self.first = thread;
            } else {
                (*self.last).next().store(thread.cast_mut(), Ordering::Relaxed);
            }
        }
        self.last = thread;
        self.length += 1;
    }

    /// Takes the thread that waited longest.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<&'static Thread> {
        // SAFETY: null or a queued, hence valid, thread.
        let thread = unsafe { self.first.as_ref() }?;
        self.first = thread.next().load(Ordering::Relaxed);
        self.length -= 1;
        Some(thread)
    }

    /// The threads in order, for display.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        let mut at = self.first;
        core::iter::from_fn(move || {
            // SAFETY: as in `pop`; the borrow of the queue keeps it from changing.
            let thread = unsafe { at.as_ref() }?;
            at = thread.next().load(Ordering::Relaxed);
            Some(thread)
        })
    }
}

// SAFETY: the pointers lead to threads, which are Sync; access is by one CPU at a time.
unsafe impl Send for RunQueue {}
