//! Who ends a thread's wait: the waker or the timeout. Exactly one.

use crate::atomic::{AtomicU8, Ordering, const_fn};

const NOT_WAITING: u8 = 0;
const WAITING: u8 = 1;
const WOKEN: u8 = 2;
const TIMED_OUT: u8 = 3;

/// The state of a thread's current or last wait.
pub struct Claim(AtomicU8);

impl Claim {
    const_fn! {
        /// Not waiting.
        pub fn new() -> Self {
            Self(AtomicU8::new(NOT_WAITING))
        }
    }

    /// The thread is about to wait. By itself, before it can be found.
    #[inline(always)]
    pub fn begin(&self) {
        self.0.store(WAITING, Ordering::Relaxed);
    }

    /// Claims the thread for a waker; who gets true makes it runnable.
    #[inline(always)]
    pub fn try_wake(&self) -> bool {
        self.0.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claims the thread for its timeout; who gets true makes it runnable.
    #[inline(always)]
    pub fn try_time_out(&self) -> bool {
        self.0.compare_exchange(WAITING, TIMED_OUT, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// True if the last wait ended by its timeout.
    #[inline(always)]
    pub fn timed_out(&self) -> bool {
        self.0.load(Ordering::Acquire) == TIMED_OUT
    }
}
