//! The raw spin lock: test-and-set with a read-only wait. It has a file of its own because the
//! model checker includes the file.

use crate::atomic::{AtomicBool, Ordering, const_fn, passes, spin_hint};

/// One bit of mutual exclusion. Does not touch interrupts.
pub struct RawSpinLock(AtomicBool);

impl RawSpinLock {
    const_fn! {
        /// Creates a free lock.
        pub fn new() -> Self {
            Self(AtomicBool::new(false))
        }
    }

    /// Takes the lock, spinning while another CPU holds it.
    #[inline(always)]
    pub fn lock(&self) {
        while self.0.swap(true, Ordering::Acquire) {
            while self.0.load(Ordering::Relaxed) {
                spin_hint();
                if passes(&self.0) {
                    return;
                }
            }
        }
    }

    /// Takes the lock if it is free. Returns whether it did.
    pub fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire) || passes(&self.0)
    }

    /// Releases the lock. Only its holder may call this.
    #[inline(always)]
    pub fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}
