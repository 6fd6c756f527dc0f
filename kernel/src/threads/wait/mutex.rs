//! The mutex: one thread at a time, others sleep.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::list::TakenOne;
use super::{Outcome, TimedOut, WaitList, list};
use crate::arch::{Architecture, Machine};
use crate::atomic::{AtomicUsize, Ordering, const_fn};
use crate::lock::{SpinGuard, SpinLock};
use crate::thread;
use crate::time::Deadline;

/// The state of a free mutex. That of a locked one is the address of its owner, a thread, and these:
const FREE: usize = 0;
/// Locked, also where there are no threads yet.
const LOCKED: usize = 1;
/// Perhaps somebody waits.
const CONTENDED: usize = 2;

/// The address of the thread that owns a mutex with this state.
pub(crate) fn owner(state: usize) -> usize {
    state & !(LOCKED | CONTENDED)
}

/// Data for one thread at a time. For threads only: locking may block, so it is not interrupt-safe.
pub struct Mutex<T> {
    state: AtomicUsize,
    waiters: SpinLock<WaitList>,
    data: UnsafeCell<T>,
}

// SAFETY: the state admits one holder at a time, on whatever CPU.
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: owning the mutex is owning the data.
unsafe impl<T: Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    const_fn! {
        /// A free mutex around `data`.
        pub fn new(data: T) -> Self {
            Self { state: AtomicUsize::new(FREE), waiters: SpinLock::new(WaitList::new()), data: UnsafeCell::new(data) }
        }
    }

    /// Locks. Blocks.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if self.try_acquire().is_err() {
            // A program's end forces a timeout; without the lock the caller must not go on.
            while self.acquire_slowly(Deadline::NEVER).is_err() {}
        }
        MutexGuard::new(self)
    }

    /// Locks if that succeeds until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if it does not.
    pub fn lock_until(&self, deadline: Deadline) -> Result<MutexGuard<'_, T>, TimedOut> {
        if self.try_acquire().is_err() {
            self.acquire_slowly(deadline)?;
        }
        Ok(MutexGuard::new(self))
    }

    /// Locks if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.try_acquire().ok().map(|_| MutexGuard::new(self))
    }

    /// The guard of a lock that the calling thread has taken and whose guard was forgotten; `None` if the thread does not hold it.
    ///
    /// # Safety
    /// There is no guard of this mutex in the thread that has not been forgotten.
    #[inline(always)]
    pub unsafe fn adopt(&self) -> Option<MutexGuard<'_, T>> {
        (owner(self.state.load(Ordering::Relaxed)) == Machine::current()).then(|| MutexGuard::new(self))
    }

    /// Unlocks if the calling thread holds the lock; false if it does not.
    ///
    /// # Safety
    /// As for [`Mutex::adopt`].
    #[inline(always)]
    pub unsafe fn unlock(&self) -> bool {
        // SAFETY: the caller's word.
        self.try_release() || unsafe { self.adopt() }.is_some()
    }

    /// The data, by a borrow that proves nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[inline(always)]
    fn try_acquire(&self) -> Result<usize, usize> {
        self.state.compare_exchange(FREE, Machine::current() | LOCKED, Ordering::Acquire, Ordering::Relaxed)
    }

    #[cold]
    fn acquire_slowly(&self, deadline: Deadline) -> Result<(), TimedOut> {
        loop {
            let guard = self.waiters.lock();
            // Once marked, whoever unlocks looks for us under the lock we hold.
            if self.state.fetch_or(LOCKED | CONTENDED, Ordering::Acquire) == FREE {
                self.state.store(Machine::current() | LOCKED | CONTENDED, Ordering::Relaxed);
                return Ok(());
            }
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

    /// Unlocks where this thread holds the lock and nobody waits. Who locks next may destroy the mutex as soon as it is free, so
    /// this is the last access to it, here and in [`Self::release_and_wake`].
    #[inline(always)]
    fn try_release(&self) -> bool {
        self.state.compare_exchange(Machine::current() | LOCKED, FREE, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn release_and_wake(&self) {
        let mut next = TakenOne::NONE;
        loop {
            let mut waiters = self.waiters.lock();
            // Only whoever has the list's lock changes the state of a locked mutex. Who is woken marks it again for those that
            // still wait.
            let state = self.state.load(Ordering::Relaxed) & !CONTENDED;
            self.state.store(state, Ordering::Relaxed);
            if next.is_none() {
                next = waiters.take_one();
            }
            let interrupts = SpinGuard::release(waiters);
            // Fails if a further thread has come to wait.
            if self.state.compare_exchange(state, FREE, Ordering::Release, Ordering::Relaxed).is_ok() {
                next.wake_unlocked();
                drop(interrupts);
                return;
            }
        }
    }
}

/// A locked [`Mutex`]. It belongs to the thread that locked, and is shared only as the data may be.
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

// SAFETY: a shared guard gives shared references to the data, no more.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T> MutexGuard<'a, T> {
    fn new(mutex: &'a Mutex<T>) -> Self {
        Self { mutex, _not_send: PhantomData }
    }

    /// The mutex this is the lock of.
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
        // SAFETY: the mutex is held.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held, by this guard alone.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.mutex.release();
    }
}
