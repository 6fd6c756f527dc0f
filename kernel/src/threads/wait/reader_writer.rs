//! The reader-writer lock: many readers or one writer.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::list::TakenAll;
use super::{Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// Data that many threads may read at once and one may write. Writers take precedence, so readers
/// cannot starve them. For threads only.
pub struct ReaderWriterLock<T> {
    state: SpinLock<State>,
    data: UnsafeCell<T>,
}

struct State {
    readers: usize,
    writing: bool,
    writers_waiting: usize,
    reader_list: WaitList,
    writer_list: WaitList,
}

// SAFETY: the state admits either readers or one writer, and `T` can be shared and sent.
unsafe impl<T: Send + Sync> Sync for ReaderWriterLock<T> {}
// SAFETY: sending the lock sends the data it owns and nothing else, and `T` can be sent.
unsafe impl<T: Send> Send for ReaderWriterLock<T> {}

impl<T> ReaderWriterLock<T> {
    /// Creates a free lock around `data`.
    pub const fn new(data: T) -> Self {
        let state = State {
            readers: 0,
            writing: false,
            writers_waiting: 0,
            reader_list: WaitList::new(),
            writer_list: WaitList::new(),
        };
        Self { state: SpinLock::new(state), data: UnsafeCell::new(data) }
    }

    /// Releases a lock that was taken for reading and whose guard was forgotten. Returns false if
    /// no thread holds it for reading.
    ///
    /// # Safety
    /// Every guard of this lock in the calling thread has been forgotten.
    pub unsafe fn unlock_read(&self) -> bool {
        let mut state = self.state.lock();
        let is_held = state.readers > 0;
        if is_held {
            state.readers -= 1;
            let next = state.next_in();
            next.wake(state);
        }
        is_held
    }

    /// Releases a lock that was taken for writing and whose guard was forgotten. Returns false if
    /// no thread holds it for writing.
    ///
    /// # Safety
    /// Every guard of this lock in the calling thread has been forgotten.
    pub unsafe fn unlock_write(&self) -> bool {
        let mut state = self.state.lock();
        let is_held = state.writing;
        if is_held {
            state.writing = false;
            let next = state.next_in();
            next.wake(state);
        }
        is_held
    }

    /// Locks for reading. Blocks.
    pub fn read(&self) -> ReadGuard<'_, T> {
        loop {
            if let Ok(guard) = self.read_until(Deadline::NEVER) {
                return guard;
            }
        }
    }

    /// Locks for writing. Blocks.
    pub fn write(&self) -> WriteGuard<'_, T> {
        loop {
            if let Ok(guard) = self.write_until(Deadline::NEVER) {
                return guard;
            }
        }
    }

    /// Locks for reading, waiting until `deadline` at most. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if the lock could not be taken by then.
    pub fn read_until(&self, deadline: Deadline) -> Result<ReadGuard<'_, T>, TimedOut> {
        loop {
            let mut guard = self.state.lock();
            if !guard.writing && guard.writers_waiting == 0 {
                guard.readers += 1;
                return Ok(ReadGuard { lock: self, _not_send: PhantomData });
            }
            let outcome = list::wait_in(&self.state, guard, |state| &mut state.reader_list, deadline, || ());
            if outcome == Outcome::TimedOut {
                return Err(TimedOut);
            }
        }
    }

    /// Locks for writing, waiting until `deadline` at most. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if the lock could not be taken by then.
    pub fn write_until(&self, deadline: Deadline) -> Result<WriteGuard<'_, T>, TimedOut> {
        let mut counted = false;
        loop {
            let mut guard = self.state.lock();
            if !guard.writing && guard.readers == 0 {
                guard.writing = true;
                guard.writers_waiting -= usize::from(counted);
                return Ok(WriteGuard { lock: self, _not_send: PhantomData });
            }
            guard.writers_waiting += usize::from(!counted);
            counted = true;
            let outcome = list::wait_in(&self.state, guard, |state| &mut state.writer_list, deadline, || ());
            if outcome == Outcome::TimedOut {
                let mut guard = self.state.lock();
                guard.writers_waiting -= 1;
                // A wake-up may have been meant for this thread, or readers may have waited only
                // for this writer.
                let next = guard.next_in();
                next.wake(guard);
                return Err(TimedOut);
            }
        }
    }
}

impl State {
    /// Takes out the threads that may try to lock now.
    fn next_in(&mut self) -> TakenAll {
        match (self.writing, self.writers_waiting, self.readers) {
            (true, ..) => TakenAll::NONE,
            (false, 0, _) => self.reader_list.take_all(),
            (false, _, 0) => self.writer_list.take_one().into(),
            (false, ..) => TakenAll::NONE,
        }
    }
}

/// A lock held for reading.
pub struct ReadGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data and nothing more.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for reading, so no thread writes the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this releases the hold of the guard being dropped, and of no other guard.
        unsafe { self.lock.unlock_read() };
    }
}

/// A lock held for writing.
pub struct WriteGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data and nothing more.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held for writing, so no other thread accesses the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held for writing and the guard is borrowed exclusively, so nothing
        // else accesses the data.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this releases the hold of the guard being dropped, and of no other guard.
        unsafe { self.lock.unlock_write() };
    }
}
