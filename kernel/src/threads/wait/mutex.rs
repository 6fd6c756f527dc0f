//! The mutex: one thread at a time holds it, others sleep.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::list::TakenOne;
use super::{Outcome, TimedOut, WaitList, list};
use crate::arch::*;
use crate::atomic::{AtomicUsize, Ordering, const_fn};
use crate::lock::{SpinGuard, SpinLock};
use crate::thread;
use crate::time::Deadline;

/// The state of a free mutex. The state of a locked one is the address of the owning thread and
/// these flags:
const FREE: usize = 0;
/// The mutex is locked. Also set before there are threads, when the owner's address is 0.
const LOCKED: usize = 1;
/// Threads may be waiting.
const CONTENDED: usize = 2;

/// Returns the address of the thread that owns a mutex with this state.
pub(crate) fn owner(state: usize) -> usize {
    state & !(LOCKED | CONTENDED)
}

/// Data for one thread at a time. For threads only: locking may block, so it is not interrupt-safe.
pub struct Mutex<T> {
    state: AtomicUsize,
    waiters: SpinLock<WaitList>,
    data: UnsafeCell<T>,
}

// SAFETY: the state admits one holder at a time, so sharing the mutex only moves the data between
// threads.
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: sending the mutex sends the data it owns and nothing else, and `T` can be sent.
unsafe impl<T: Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    const_fn! {
        /// Creates a free mutex around `data`.
        pub fn new(data: T) -> Self {
            Self { state: AtomicUsize::new(FREE), waiters: SpinLock::new(WaitList::new()), data: UnsafeCell::new(data) }
        }
    }

    /// Locks the mutex. Blocks.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if self.try_acquire().is_err() {
            // The end of a program forces a timeout, but the caller must not continue without the
            // lock.
            while self.acquire_slowly(Deadline::NEVER).is_err() {}
        }
        MutexGuard::new(self)
    }

    /// Locks the mutex, waiting for it until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if the mutex was not free by then.
    pub fn lock_until(&self, deadline: Deadline) -> Result<MutexGuard<'_, T>, TimedOut> {
        if self.try_acquire().is_err() {
            self.acquire_slowly(deadline)?;
        }
        Ok(MutexGuard::new(self))
    }

    /// Locks the mutex if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.try_acquire().ok().map(|_| MutexGuard::new(self))
    }

    /// Returns a guard for a lock that the calling thread has taken and whose guard was forgotten;
    /// `None` if the thread does not hold the lock.
    ///
    /// # Safety
    /// Every guard of this mutex in the calling thread has been forgotten.
    #[inline(always)]
    pub unsafe fn adopt(&self) -> Option<MutexGuard<'_, T>> {
        (owner(self.state.load(Ordering::Relaxed)) == Core::current()).then(|| MutexGuard::new(self))
    }

    /// Unlocks the mutex if the calling thread holds it. Returns false if it does not.
    ///
    /// # Safety
    /// Every guard of this mutex in the calling thread has been forgotten.
    #[inline(always)]
    pub unsafe fn unlock(&self) -> bool {
        // SAFETY: the caller guarantees that every guard of this mutex in the calling thread has
        // been forgotten.
        self.try_release() || unsafe { self.adopt() }.is_some()
    }

    /// Returns the data. The exclusive borrow proves that nothing else accesses it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[inline(always)]
    fn try_acquire(&self) -> Result<usize, usize> {
        self.state.compare_exchange(FREE, Core::current() | LOCKED, Ordering::Acquire, Ordering::Relaxed)
    }

    #[cold]
    fn acquire_slowly(&self, deadline: Deadline) -> Result<(), TimedOut> {
        loop {
            let guard = self.waiters.lock();
            // Once the state is marked, the unlocking thread looks for waiters under the lock held
            // here.
            if self.state.fetch_or(LOCKED | CONTENDED, Ordering::Acquire) == FREE {
                self.state.store(Core::current() | LOCKED | CONTENDED, Ordering::Relaxed);
                return Ok(());
            }
            // Lets the deadlock watch follow a chain of owners.
            let waits = thread::running().waits_for(&self.state);
            let outcome = list::wait_in(&self.waiters, guard, |waiters| waiters, deadline, || ());
            drop(waits);
            if outcome == Outcome::TimedOut {
                return self.try_acquire().map(|_| ()).map_err(|_| TimedOut);
            }
        }
    }

    #[inline(always)]
    fn release(&self) {
        if !self.try_release() {
            self.release_and_wake();
        }
    }

    /// Unlocks the mutex if the calling thread holds it and no thread waits. The next owner may
    /// destroy the mutex as soon as it is free, so this exchange is the last access to it, here and
    /// in [`Self::release_and_wake`].
    #[inline(always)]
    fn try_release(&self) -> bool {
        self.state.compare_exchange(Core::current() | LOCKED, FREE, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn release_and_wake(&self) {
        let mut next = TakenOne::NONE;
        loop {
            let mut waiters = self.waiters.lock();
            // Only the holder of the list's lock changes the state of a locked mutex. A woken
            // thread marks the state again for the threads that still wait.
            let state = self.state.load(Ordering::Relaxed) & !CONTENDED;
            self.state.store(state, Ordering::Relaxed);
            if next.is_none() {
                next = waiters.take_one();
            }
            let interrupts = SpinGuard::release(waiters);
            // Fails if another thread has started to wait in the meantime.
            if self.state.compare_exchange(state, FREE, Ordering::Release, Ordering::Relaxed).is_ok() {
                next.wake_unlocked();
                drop(interrupts);
                return;
            }
        }
    }
}

/// A locked [`Mutex`]. The guard belongs to the thread that locked, and can be shared only if the
/// data can.
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<kernel::wait::MutexGuard<'static, core::cell::Cell<u8>>>();
/// ```
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<kernel::wait::MutexGuard<'static, u8>>();
/// ```
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data and nothing more.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T> MutexGuard<'a, T> {
    fn new(mutex: &'a Mutex<T>) -> Self {
        Self { mutex, _not_send: PhantomData }
    }

    /// Returns the mutex that the guard locks.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// Unlocks a mutex whose guard was forgotten.
    pub(super) fn release_forgotten(mutex: &Mutex<T>) {
        mutex.release();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the mutex, so no other thread writes the data.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the mutex and is borrowed exclusively, so nothing else accesses
        // the data.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.mutex.release();
    }
}
