//! Thread-local values: a static key, and a value for each thread that asks for it, dropped when
//! the thread ends.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use alloc::boxed::Box;

use super::Thread;
use crate::cpu;
use crate::memory::{self, OutOfMemory};

/// Limit on the number of keys.
pub const KEY_LIMIT: usize = 16;
const NO_KEY: u32 = u32::MAX;

static NEXT_KEY: AtomicU32 = AtomicU32::new(0);
/// The function that drops a key's values, by key.
static DROPPERS: [AtomicUsize; KEY_LIMIT] = [const { AtomicUsize::new(0) }; KEY_LIMIT];

/// A thread's values, by key.
pub(crate) struct Slots {
    values: [AtomicPtr<()>; KEY_LIMIT],
    /// Bit n is set if there is a value for key n.
    used: AtomicU32,
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self { values: [const { AtomicPtr::new(core::ptr::null_mut()) }; KEY_LIMIT], used: AtomicU32::new(0) }
    }
}

/// Drops the values of the calling thread. Stops as soon as the thread has other fibers, which may
/// be using a value, and forgets the rest.
#[inline(always)]
pub(crate) fn drop_all(thread: &Thread) {
    let slots = &thread.locals;
    while slots.used.load(Ordering::Relaxed) != 0 {
        if thread.fibers.has_others() {
            return forget_all(slots);
        }
        let key = slots.used.load(Ordering::Relaxed).trailing_zeros() as usize;
        slots.used.fetch_and(!(1 << key), Ordering::Relaxed);
        let value = slots.values[key].swap(core::ptr::null_mut(), Ordering::Relaxed);
        let dropper = DROPPERS[key].load(Ordering::Acquire);
        // SAFETY: a key in use has the drop function of its type, and the value came from
        // `Box::into_raw` of that type.
        unsafe { core::mem::transmute::<usize, unsafe fn(*mut ())>(dropper)(value) };
    }
}

/// Empties the slots without dropping the values.
#[cold]
fn forget_all(slots: &Slots) {
    slots.values.iter().for_each(|value| value.store(core::ptr::null_mut(), Ordering::Relaxed));
    slots.used.store(0, Ordering::Relaxed);
}

/// Empties the slots of a dead thread. A thread that ended inside a call of the interface, or was
/// ended, has left its values behind.
#[inline(always)]
pub(crate) fn reset(slots: &Slots) {
    if slots.used.load(Ordering::Relaxed) != 0 {
        forget_all(slots);
    }
}

/// A value of which each thread has its own. Declare it as a `static`.
pub struct ThreadLocal<T: 'static> {
    key: AtomicU32,
    initial: fn() -> T,
    _value: PhantomData<fn() -> T>,
}

/// Why a thread-local value is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadLocalError {
    /// No memory for the value.
    OutOfMemory,
    /// More than [`KEY_LIMIT`] keys are in use.
    TooManyKeys,
    /// An interrupt handler has no thread.
    InHandler,
}

impl From<OutOfMemory> for ThreadLocalError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<T: 'static> ThreadLocal<T> {
    /// Creates a thread-local value that starts as `initial()` in each thread.
    pub const fn new(initial: fn() -> T) -> Self {
        Self { key: AtomicU32::new(NO_KEY), initial, _value: PhantomData }
    }

    /// Calls `with` on the calling thread's value, which is created on first use.
    ///
    /// # Errors
    /// See [`ThreadLocalError`].
    pub fn with<R>(&self, with: impl FnOnce(&T) -> R) -> Result<R, ThreadLocalError> {
        // The interrupted thread may be in the middle of using its value.
        if cpu::in_interrupt() {
            return Err(ThreadLocalError::InHandler);
        }
        let key = self.key()?;
        let slots = &super::running().locals;
        let mut value = slots.values[key].load(Ordering::Relaxed);
        if value.is_null() {
            value = Box::into_raw(memory::try_box((self.initial)())?).cast();
            slots.values[key].store(value, Ordering::Relaxed);
            slots.used.fetch_or(1 << key, Ordering::Relaxed);
        }
        // SAFETY: the value was made above for this key and type; only this thread uses it, and it
        // stays until the thread ends.
        Ok(with(unsafe { &*value.cast::<T>() }))
    }

    fn key(&self) -> Result<usize, ThreadLocalError> {
        let known = self.key.load(Ordering::Acquire);
        if known != NO_KEY {
            return Ok(known as usize);
        }
        let take = |next: u32| ((next as usize) < KEY_LIMIT).then_some(next + 1);
        let fresh = NEXT_KEY
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|_| ThreadLocalError::TooManyKeys)?;
        DROPPERS[fresh as usize].store(drop_value::<T> as *const () as usize, Ordering::Release);
        // If another thread was faster, its key counts and this one stays unused.
        match self.key.compare_exchange(NO_KEY, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(fresh as usize),
            Err(faster) => Ok(faster as usize),
        }
    }
}

unsafe fn drop_value<T>(value: *mut ()) {
    // SAFETY: the caller passes a pointer that `Box::into_raw` returned for this type.
    drop(unsafe { Box::from_raw(value.cast::<T>()) });
}
