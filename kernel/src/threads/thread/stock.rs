//! Per-CPU stocks of dead threads, kept with their stacks for the next spawn: a warm spawn
//! allocates nothing.

use core::cell::Cell;
use core::ptr;

use crate::atomic::Ordering;
use crate::scheduler::mailbox::Linked;
use crate::thread::Thread;

/// Most dead threads that a CPU keeps.
pub const STOCK_LIMIT: usize = 64;

/// Dead threads with a stack of the default size that nothing refers to.
pub struct Stock {
    first: Cell<*const Thread>,
    count: Cell<usize>,
}

// SAFETY: nothing else refers to the threads in the stock, so they may move to another CPU with it.
unsafe impl Send for Stock {}

impl Stock {
    pub(crate) const fn new() -> Self {
        Self { first: Cell::new(ptr::null()), count: Cell::new(0) }
    }

    /// Takes a thread out.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<&'static Thread> {
        // SAFETY: `first` is null or a thread that `put` put in, which stays valid in here.
        let thread = unsafe { self.first.get().as_ref() }?;
        self.first.set(thread.next().load(Ordering::Relaxed));
        self.count.set(self.count.get() - 1);
        Some(thread)
    }

    /// Puts a thread in. Returns false if there is no room.
    #[inline(always)]
    pub(crate) fn put(&self, thread: &'static Thread) -> bool {
        if self.count.get() == STOCK_LIMIT {
            return false;
        }
        thread.next().store(self.first.get().cast_mut(), Ordering::Relaxed);
        self.first.set(thread);
        self.count.set(self.count.get() + 1);
        true
    }
}
