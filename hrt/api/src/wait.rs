//! Objects that threads wait on. Every wait takes a deadline; [`Deadline::NEVER`] means none.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::packed::{pack, unpack};
use crate::time::Deadline;
use crate::{Error, check, raw};

/// Boxes an object and initialises it in place, so that its address never changes.
fn place<O>(object: O, init: impl FnOnce(*mut O) -> abi::Status) -> Result<Box<O>, Error> {
    let mut object = Box::new(object);
    check(init(&raw mut *object))?;
    Ok(object)
}

/// Wakes one waiter per signal, and remembers a signal that finds no waiter.
pub struct Event(Box<abi::Event>);

impl Event {
    /// Creates an event without a signal.
    ///
    /// # Errors
    /// None as long as kernel and program are of the same version; otherwise [`Error::Invalid`].
    pub fn new() -> Result<Self, Error> {
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        place(abi::Event::uninit(), |at| unsafe { raw::aero_event_init(at) }).map(Self)
    }

    /// Wakes one waiter, or lets the next one pass.
    pub fn signal(&self) {
        // SAFETY: the event was initialised in `new` and stays in its box.
        unsafe { raw::aero_event_signal(&raw const *self.0) };
    }

    /// Wakes all current waiters.
    pub fn broadcast(&self) {
        // SAFETY: the event was initialised in `new` and stays in its box.
        unsafe { raw::aero_event_broadcast(&raw const *self.0) };
    }

    /// Waits for a signal. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait(&self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: the event was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_event_wait(&raw const *self.0, deadline.0) }).map(drop)
    }
}

/// Data for one thread at a time; other threads sleep until it is free.
pub struct Mutex<T> {
    mutex: Box<abi::Mutex>,
    data: UnsafeCell<T>,
}

// SAFETY: the mutex admits one holder at a time, so the data is never accessed concurrently.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Creates a free mutex around data.
    ///
    /// # Errors
    /// As for [`Event::new`].
    pub fn new(data: T) -> Result<Self, Error> {
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        let mutex = place(abi::Mutex::uninit(), |at| unsafe { raw::aero_mutex_init(at) })?;
        Ok(Self { mutex, data: UnsafeCell::new(data) })
    }

    /// Locks the mutex. Blocks.
    ///
    /// # Panics
    /// In an interrupt handler, where no thread can wait.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: the mutex was initialised in `new` and stays in its box.
        let status = unsafe { raw::aero_mutex_lock(&raw const *self.mutex, abi::NEVER) };
        assert!(status == abi::OK, "a mutex was locked in an interrupt handler, where no thread can wait");
        MutexGuard { mutex: self, _not_send: PhantomData }
    }

    /// Locks the mutex, waiting until the deadline at most. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn lock_until(&self, deadline: Deadline) -> Result<MutexGuard<'_, T>, Error> {
        // SAFETY: the mutex was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_mutex_lock(&raw const *self.mutex, deadline.0) })?;
        Ok(MutexGuard { mutex: self, _not_send: PhantomData })
    }

    /// Locks the mutex if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // SAFETY: the mutex was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_mutex_try_lock(&raw const *self.mutex) })
            .ok()
            .map(|_| MutexGuard { mutex: self, _not_send: PhantomData })
    }
}

/// Exclusive access to the data of a locked [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Keeps the guard on the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard only gives out shared references to the data, which `T: Sync` permits.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the mutex, so no other thread accesses the data.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the mutex, and its exclusive borrow makes this the only
        // reference.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the mutex is initialised, and this guard's thread holds it.
        unsafe { raw::aero_mutex_unlock(&raw const *self.mutex.mutex) };
    }
}

/// A condition variable, for use with a [`Mutex`].
pub struct Condition(Box<abi::Condition>);

impl Condition {
    /// Creates a condition variable without waiters.
    ///
    /// # Errors
    /// As for [`Event::new`].
    pub fn new() -> Result<Self, Error> {
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        place(abi::Condition::uninit(), |at| unsafe { raw::aero_condition_init(at) }).map(Self)
    }

    /// Unlocks the mutex, waits for a signal, and locks the mutex again. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; the mutex is locked again in this case too.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: both objects are initialised and stay in their boxes, and the guard's thread
        // holds the mutex.
        check(unsafe { raw::aero_condition_wait(&raw const *self.0, &raw const *guard.mutex.mutex, deadline.0) })
            .map(drop)
    }

    /// Wakes one waiter.
    pub fn signal(&self) {
        // SAFETY: the condition variable was initialised in `new` and stays in its box.
        unsafe { raw::aero_condition_signal(&raw const *self.0) };
    }

    /// Wakes all waiters.
    pub fn broadcast(&self) {
        // SAFETY: the condition variable was initialised in `new` and stays in its box.
        unsafe { raw::aero_condition_broadcast(&raw const *self.0) };
    }
}

/// A count of units; taking a unit waits while there is none.
pub struct Semaphore(Box<abi::Semaphore>);

impl Semaphore {
    /// Creates a semaphore with this many units.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 2^32 - 1.
    pub fn new(units: u64) -> Result<Self, Error> {
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        place(abi::Semaphore::uninit(), |at| unsafe { raw::aero_semaphore_init(at, units) }).map(Self)
    }

    /// Takes a unit. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn down(&self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: the semaphore was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_semaphore_down(&raw const *self.0, deadline.0) }).map(drop)
    }

    /// Returns a unit.
    pub fn up(&self) {
        // SAFETY: the semaphore was initialised in `new` and stays in its box.
        unsafe { raw::aero_semaphore_up(&raw const *self.0) };
    }
}

/// Holds threads back until all have arrived, for any number of rounds.
pub struct Barrier(Box<abi::Barrier>);

/// The caller's position among the threads of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The last thread to arrive; one per round.
    Last,
    /// Any other thread.
    Earlier,
}

impl Barrier {
    /// Creates a barrier for this many threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for zero threads, or more than 2^32 - 1.
    pub fn new(threads: usize) -> Result<Self, Error> {
        let threads = u32::try_from(threads).map_err(|_| Error::Invalid)?;
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        place(abi::Barrier::uninit(), |at| unsafe { raw::aero_barrier_init(at, threads) }).map(Self)
    }

    /// Waits until all threads have arrived. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn wait(&self, deadline: Deadline) -> Result<Arrival, Error> {
        // SAFETY: the barrier was initialised in `new` and stays in its box.
        let arrival = check(unsafe { raw::aero_barrier_wait(&raw const *self.0, deadline.0) })?;
        Ok(if arrival == 1 { Arrival::Last } else { Arrival::Earlier })
    }
}

/// Data with many concurrent readers or one writer.
pub struct ReaderWriterLock<T> {
    lock: Box<abi::ReaderWriterLock>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock admits either readers or one writer, so a write never runs concurrently with
// another access.
unsafe impl<T: Send + Sync> Sync for ReaderWriterLock<T> {}

impl<T> ReaderWriterLock<T> {
    /// Creates a free lock around data.
    ///
    /// # Errors
    /// As for [`Event::new`].
    pub fn new(data: T) -> Result<Self, Error> {
        // SAFETY: `at` points to unused memory of the object's own type, which `place` has boxed.
        let lock = place(abi::ReaderWriterLock::uninit(), |at| unsafe { raw::aero_reader_writer_init(at) })?;
        Ok(Self { lock, data: UnsafeCell::new(data) })
    }

    /// Locks for reading. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn read(&self, deadline: Deadline) -> Result<ReadGuard<'_, T>, Error> {
        // SAFETY: the lock was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_reader_writer_read(&raw const *self.lock, deadline.0) })?;
        Ok(ReadGuard { lock: self, _not_send: PhantomData })
    }

    /// Locks for writing. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn write(&self, deadline: Deadline) -> Result<WriteGuard<'_, T>, Error> {
        // SAFETY: the lock was initialised in `new` and stays in its box.
        check(unsafe { raw::aero_reader_writer_write(&raw const *self.lock, deadline.0) })?;
        Ok(WriteGuard { lock: self, _not_send: PhantomData })
    }
}

/// Shared access to the data of a [`ReaderWriterLock`] locked for reading.
pub struct ReadGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    /// Keeps the guard on the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard only gives out shared references to the data, which `T: Sync` permits.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock for reading, so no thread writes to the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the lock is initialised, and this guard's thread holds it for reading.
        unsafe { raw::aero_reader_writer_read_unlock(&raw const *self.lock.lock) };
    }
}

/// Exclusive access to the data of a [`ReaderWriterLock`] locked for writing.
pub struct WriteGuard<'a, T> {
    lock: &'a ReaderWriterLock<T>,
    /// Keeps the guard on the thread that locked.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard only gives out shared references to the data, which `T: Sync` permits.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock for writing, so no other thread accesses the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock for writing, and its exclusive borrow makes this the
        // only reference.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the lock is initialised, and this guard's thread holds it for writing.
        unsafe { raw::aero_reader_writer_write_unlock(&raw const *self.lock.lock) };
    }
}

/// A bounded queue of messages. A message of at most one word is stored inline, a larger one in a
/// box. Dropping the message queue drops the messages in it.
pub struct MessageQueue<T> {
    queue: *mut abi::MessageQueue,
    _messages: PhantomData<T>,
}

// SAFETY: the kernel's message queue locks internally, and the messages may change threads.
unsafe impl<T: Send> Sync for MessageQueue<T> {}
// SAFETY: the handle is valid on every thread, and the messages may change threads.
unsafe impl<T: Send> Send for MessageQueue<T> {}

impl<T: Send> MessageQueue<T> {
    /// Creates a message queue for this many messages.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Invalid`] for a capacity of zero.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let mut queue = core::ptr::null_mut();
        // SAFETY: `queue` is a valid place for the handle during the call.
        check(unsafe { raw::aero_message_queue_create(capacity, &raw mut queue) })?;
        Ok(Self { queue, _messages: PhantomData })
    }

    /// Sends a message, waiting for room. Blocks.
    ///
    /// # Errors
    /// The message, if there is no room until the deadline.
    pub fn send(&self, message: T, deadline: Deadline) -> Result<(), T> {
        let message = pack(message);
        // SAFETY: the handle names a live message queue, which is destroyed only in `drop`.
        match unsafe { raw::aero_message_queue_send(self.queue, message, deadline.0) } {
            abi::OK => Ok(()),
            // SAFETY: the word was packed above and not sent, so it is unpacked only here.
            _ => Err(unsafe { unpack(message) }),
        }
    }

    /// Receives a message, waiting for one. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn receive(&self, deadline: Deadline) -> Result<T, Error> {
        let mut word = 0;
        // SAFETY: the handle names a live message queue, and `word` is a valid place for the
        // message.
        check(unsafe { raw::aero_message_queue_receive(self.queue, &raw mut word, deadline.0) })?;
        // SAFETY: only `send` puts words into the message queue, each a packed `T`, and each is
        // received once.
        Ok(unsafe { unpack(word) })
    }
}

impl<T> Drop for MessageQueue<T> {
    fn drop(&mut self) {
        let mut word = 0;
        // SAFETY: `&mut self` excludes other users of the live message queue, and each word, a
        // packed `T`, is received once.
        unsafe {
            while raw::aero_message_queue_receive(self.queue, &raw mut word, 0) == abi::OK {
                drop(unpack::<T>(word));
            }
            raw::aero_message_queue_destroy(self.queue);
        }
    }
}
