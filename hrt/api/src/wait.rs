//! What threads wait on. Every wait takes a deadline; [`Deadline::NEVER`] is none.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::packed::{pack, unpack};
use crate::time::Deadline;
use crate::{Error, check, raw};

/// An object at an address of its own, initialised there.
fn place<O>(object: O, init: impl FnOnce(*mut O) -> abi::Status) -> Result<Box<O>, Error> {
    let mut object = Box::new(object);
    check(init(&raw mut *object))?;
    Ok(object)
}

/// Wakes one waiter a signal, and remembers a signal nobody waited for.
pub struct Event(Box<abi::Event>);

impl Event {
    /// An event without a signal.
    ///
    /// # Errors
    /// [`Error::Invalid`] never, as long as kernel and program are of one version.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: memory for it.
        place(abi::Event::uninit(), |at| unsafe { raw::aero_event_init(at) }).map(Self)
    }

    /// Wakes one waiter, or lets the next one pass.
    pub fn signal(&self) {
        // SAFETY: initialised.
        unsafe { raw::aero_event_signal(&raw const *self.0) };
    }

    /// Wakes all that wait now.
    pub fn broadcast(&self) {
        // SAFETY: initialised.
        unsafe { raw::aero_event_broadcast(&raw const *self.0) };
    }

    /// Waits for a signal. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait(&self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_event_wait(&raw const *self.0, deadline.0) }).map(drop)
    }
}

/// Data for one thread at a time; others sleep.
pub struct Mutex<T> {
    mutex: Box<abi::Mutex>,
    data: UnsafeCell<T>,
}

// SAFETY: the mutex admits one holder at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free mutex around data.
    ///
    /// # Errors
    /// As [`Event::new`].
    pub fn new(data: T) -> Result<Self, Error> {
        // SAFETY: memory for it.
        let mutex = place(abi::Mutex::uninit(), |at| unsafe { raw::aero_mutex_init(at) })?;
        Ok(Self { mutex, data: UnsafeCell::new(data) })
    }

    /// Locks. Blocks.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: initialised.
        let status = unsafe { raw::aero_mutex_lock(&raw const *self.mutex, abi::NEVER) };
        assert!(status == abi::OK, "a mutex was locked in an interrupt handler, where no thread can wait");
        MutexGuard { mutex: self, _not_send: PhantomData }
    }

    /// Locks if that succeeds until a deadline. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn lock_until(&self, deadline: Deadline) -> Result<MutexGuard<'_, T>, Error> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_mutex_lock(&raw const *self.mutex, deadline.0) })?;
        Ok(MutexGuard { mutex: self, _not_send: PhantomData })
    }

    /// Locks if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_mutex_try_lock(&raw const *self.mutex) })
            .ok()
            .map(|_| MutexGuard { mutex: self, _not_send: PhantomData })
    }
}

/// A locked [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Belongs to the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data, no more.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

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
    fn drop(&mut self) {
        // SAFETY: held by this guard.
        unsafe { raw::aero_mutex_unlock(&raw const *self.mutex.mutex) };
    }
}

/// A condition variable, for use with a [`Mutex`].
pub struct Condition(Box<abi::Condition>);

impl Condition {
    /// One nobody waits on.
    ///
    /// # Errors
    /// As [`Event::new`].
    pub fn new() -> Result<Self, Error> {
        // SAFETY: memory for it.
        place(abi::Condition::uninit(), |at| unsafe { raw::aero_condition_init(at) }).map(Self)
    }

    /// Unlocks, waits for a signal, and locks again. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; it is locked again then, too.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: both are initialised, and the mutex is held.
        check(unsafe { raw::aero_condition_wait(&raw const *self.0, &raw const *guard.mutex.mutex, deadline.0) })
            .map(drop)
    }

    /// Wakes one waiter.
    pub fn signal(&self) {
        // SAFETY: initialised.
        unsafe { raw::aero_condition_signal(&raw const *self.0) };
    }

    /// Wakes all waiters.
    pub fn broadcast(&self) {
        // SAFETY: initialised.
        unsafe { raw::aero_condition_broadcast(&raw const *self.0) };
    }
}

/// Counts units; taking one that is not there waits.
pub struct Semaphore(Box<abi::Semaphore>);

impl Semaphore {
    /// A semaphore of so many units.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 2^32 - 1.
    pub fn new(units: u64) -> Result<Self, Error> {
        // SAFETY: memory for it.
        place(abi::Semaphore::uninit(), |at| unsafe { raw::aero_semaphore_init(at, units) }).map(Self)
    }

    /// Takes a unit. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn down(&self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_semaphore_down(&raw const *self.0, deadline.0) }).map(drop)
    }

    /// Gives a unit.
    pub fn up(&self) {
        // SAFETY: initialised.
        unsafe { raw::aero_semaphore_up(&raw const *self.0) };
    }
}

/// Holds threads back until all have come, for any number of rounds.
pub struct Barrier(Box<abi::Barrier>);

/// Which of the threads of a round the caller was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The last to come; one per round.
    Last,
    /// Another.
    Earlier,
}

impl Barrier {
    /// A barrier for so many threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none.
    pub fn new(threads: usize) -> Result<Self, Error> {
        let threads = u32::try_from(threads).map_err(|_| Error::Invalid)?;
        // SAFETY: memory for it.
        place(abi::Barrier::uninit(), |at| unsafe { raw::aero_barrier_init(at, threads) }).map(Self)
    }

    /// Waits until all are there. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait(&self, deadline: Deadline) -> Result<Arrival, Error> {
        // SAFETY: initialised.
        let arrival = check(unsafe { raw::aero_barrier_wait(&raw const *self.0, deadline.0) })?;
        Ok(if arrival == 1 { Arrival::Last } else { Arrival::Earlier })
    }
}

/// Data that many may read at once and one may write.
pub struct ReaderWriterLock<T> {
    lock: Box<abi::ReaderWriterLock>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock admits readers or one writer.
unsafe impl<T: Send + Sync> Sync for ReaderWriterLock<T> {}

impl<T> ReaderWriterLock<T> {
    /// A free lock around data.
    ///
    /// # Errors
    /// As [`Event::new`].
    pub fn new(data: T) -> Result<Self, Error> {
        // SAFETY: memory for it.
        let lock = place(abi::ReaderWriterLock::uninit(), |at| unsafe { raw::aero_reader_writer_init(at) })?;
        Ok(Self { lock, data: UnsafeCell::new(data) })
    }

    /// Locks for reading. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn read(&self, deadline: Deadline) -> Result<ReadGuard<'_, T>, Error> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_reader_writer_read(&raw const *self.lock, deadline.0) })?;
        Ok(ReadGuard { lock: self, _not_send: PhantomData })
    }

    /// Locks for writing. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn write(&self, deadline: Deadline) -> Result<WriteGuard<'_, T>, Error> {
        // SAFETY: initialised.
        check(unsafe { raw::aero_reader_writer_write(&raw const *self.lock, deadline.0) })?;
        Ok(WriteGuard { lock: self, _not_send: PhantomData })
    }
}

/// A [`ReaderWriterLock`] locked for reading.
pub struct ReadGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    /// Belongs to the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data, no more.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: held for reading.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: held by this guard.
        unsafe { raw::aero_reader_writer_read_unlock(&raw const *self.lock.lock) };
    }
}

/// A [`ReaderWriterLock`] locked for writing.
pub struct WriteGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    /// Belongs to the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the data, no more.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: held for writing.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: held for writing, by this guard alone.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: held by this guard.
        unsafe { raw::aero_reader_writer_write_unlock(&raw const *self.lock.lock) };
    }
}

/// A bounded queue of messages. One of at most a word travels as it is, a larger one in a box; what is in it when it is dropped is dropped too.
pub struct Channel<T> {
    channel: *mut abi::Channel,
    _messages: PhantomData<T>,
}

// SAFETY: the kernel's channel locks, and messages change threads.
unsafe impl<T: Send> Sync for Channel<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Channel<T> {}

impl<T: Send> Channel<T> {
    /// A channel for so many messages.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Invalid`] for none.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let mut channel = core::ptr::null_mut();
        // SAFETY: a place for the handle.
        check(unsafe { raw::aero_channel_create(capacity, &raw mut channel) })?;
        Ok(Self { channel, _messages: PhantomData })
    }

    /// Puts a message in, waiting for room. Blocks.
    ///
    /// # Errors
    /// The message, if there is no room until the deadline.
    pub fn send(&self, message: T, deadline: Deadline) -> Result<(), T> {
        let message = pack(message);
        // SAFETY: a live channel.
        match unsafe { raw::aero_channel_send(self.channel, message, deadline.0) } {
            abi::OK => Ok(()),
            // SAFETY: not sent, so still ours.
            _ => Err(unsafe { unpack(message) }),
        }
    }

    /// Takes a message out, waiting for one. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn receive(&self, deadline: Deadline) -> Result<T, Error> {
        let mut word = 0;
        // SAFETY: a live channel.
        check(unsafe { raw::aero_channel_receive(self.channel, &raw mut word, deadline.0) })?;
        // SAFETY: sent by `send`, received once.
        Ok(unsafe { unpack(word) })
    }
}

impl<T> Drop for Channel<T> {
    fn drop(&mut self) {
        let mut word = 0;
        // SAFETY: a live channel, used by nobody else; each message is received once.
        unsafe {
            while raw::aero_channel_receive(self.channel, &raw mut word, 0) == abi::OK {
                drop(unpack::<T>(word));
            }
            raw::aero_channel_destroy(self.channel);
        }
    }
}
