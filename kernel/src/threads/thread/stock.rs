//! Per-CPU stocks of dead threads, kept with their stacks for the next spawn: a warm spawn
//! allocates nothing.

use core::ptr;

use crate::atomic::Ordering;
use crate::scheduler::mailbox::Linked;
use crate::thread::Thread;

/// Most dead threads that a CPU keeps.
pub const STOCK_LIMIT: usize = 64;

/// Dead threads with a stack of the default size that nothing refers to.
pub struct Stock {
    first: *const Thread,
    count: usize,
}

// SAFETY: nothing else refers to the threads in the stock, so they may move to another CPU with it.
unsafe impl Send for Stock {}

impl Stock {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null(), count: 0 }
    }

    /// Takes a thread out.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<&'static Thread> {
        // SAFETY: `first` is null or a thread that `put` put in, which stays valid in here.
        let thread = unsafe { self.first.as_ref() }?;
        self.first = thread.next().load(Ordering::Relaxed);
        self.count -= 1;
        Some(thread)
    }

    /// Puts a thread in. Returns false if there is no room.
    #[inline(always)]
    pub(crate) fn put(&mut self, thread: &'static Thread) -> bool {
        if self.count == STOCK_LIMIT {
            return false;
        }
        thread.next().store(self.first.cast_mut(), Ordering::Relaxed);
        self.first = thread;
        self.count += 1;
        true
    }
}
