//! The claim on a waiting thread: either the waker or the timeout ends the wait, never both.

use crate::atomic::{AtomicU8, Ordering, const_fn};

const NOT_WAITING: u8 = 0;
const WAITING: u8 = 1;
const WOKEN: u8 = 2;
const TIMED_OUT: u8 = 3;

/// The state of a thread's current or last wait.
pub struct Claim(AtomicU8);

impl Claim {
    const_fn! {
        /// Creates the claim of a thread that does not wait.
        pub fn new() -> Self {
            Self(AtomicU8::new(NOT_WAITING))
        }
    }

    /// Begins a wait. The thread itself calls this before a waker or a timeout can find it.
    #[inline(always)]
    pub fn begin(&self) {
        self.0.store(WAITING, Ordering::Relaxed);
    }

    /// Claims the thread for a waker. On true, the waker makes the thread runnable.
    #[inline(always)]
    pub fn try_wake(&self) -> bool {
        self.0.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claims the thread for its timeout. On true, the timeout makes the thread runnable.
    #[inline(always)]
    pub fn try_time_out(&self) -> bool {
        self.0.compare_exchange(WAITING, TIMED_OUT, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Returns true if the last wait ended by its timeout.
    #[inline(always)]
    pub fn timed_out(&self) -> bool {
        self.0.load(Ordering::Acquire) == TIMED_OUT
    }
}
