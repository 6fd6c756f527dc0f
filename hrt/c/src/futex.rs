//! Threads that wait for a word of memory to change. Mutexes, condition variables, barriers and the
//! like are built on this, so that each is a few words that are initially zero.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hrt::abi::{Event, NEVER, OK};
use hrt::raw::{aero_event_init, aero_event_signal, aero_event_wait, aero_thread_yield};

/// A waiter, on the waiting thread's stack.
struct Waiter {
    word: *const AtomicU32,
    woken: AtomicBool,
    event: Event,
    next: *mut Waiter,
}

/// The waiters on all words that hash to this bucket, in order of arrival.
struct Bucket {
    locked: AtomicBool,
    first: UnsafeCell<*mut Waiter>,
}

// SAFETY: the list is only accessed while `locked` is held.
unsafe impl Sync for Bucket {}

const BUCKETS: usize = 64;
static TABLE: [Bucket; BUCKETS] =
    [const { Bucket { locked: AtomicBool::new(false), first: UnsafeCell::new(ptr::null_mut()) } }; BUCKETS];

/// Number of times a thread polls the lock before it yields the CPU, which the holder may need.
const SPINS: u32 = 100;

impl Bucket {
    fn of(word: *const AtomicU32) -> &'static Self {
        &TABLE[(word as usize >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> (usize::BITS - BUCKETS.ilog2())]
    }

    /// Runs an operation with exclusive access to the list.
    fn with<R>(&self, operation: impl FnOnce(&mut *mut Waiter) -> R) -> R {
        let mut spins = 0;
        while self.locked.swap(true, Ordering::Acquire) {
            spins += 1;
            if spins % SPINS == 0 {
                // SAFETY: the interface allows a yield in any state.
                unsafe { aero_thread_yield() };
            }
            core::hint::spin_loop();
        }
        // SAFETY: the lock is held, so this is the only reference to the list.
        let result = operation(unsafe { &mut *self.first.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// Removes and returns the first waiter that satisfies the condition; null if there is none.
fn take(list: &mut *mut Waiter, mut is_wanted: impl FnMut(&Waiter) -> bool) -> *mut Waiter {
    let mut link: *mut *mut Waiter = list;
    // SAFETY: waiters stay alive while they are in a list, and the caller holds the list's lock.
    unsafe {
        while !(*link).is_null() {
            let waiter = *link;
            if is_wanted(&*waiter) {
                *link = (*waiter).next;
                return waiter;
            }
            link = &raw mut (*waiter).next;
        }
    }
    ptr::null_mut()
}

/// Waits to be woken, if the word still has this value. Returns false once the deadline, in
/// nanoseconds of the kernel's clock, has passed.
pub fn wait(word: &AtomicU32, value: u32, deadline: u64) -> bool {
    let bucket = Bucket::of(word);
    let mut waiter = Waiter { word, woken: AtomicBool::new(false), event: Event::uninit(), next: ptr::null_mut() };
    let own = &raw mut waiter;
    // SAFETY: the event is on this stack frame, unused so far, and does not move until the function
    // returns.
    if unsafe { aero_event_init(&raw mut (*own).event) } != OK {
        return false;
    }
    let queued = bucket.with(|list| {
        if word.load(Ordering::SeqCst) != value {
            return false;
        }
        let mut link: *mut *mut Waiter = list;
        // SAFETY: the list is locked, and its waiters stay alive while they are in it.
        unsafe {
            while !(*link).is_null() {
                link = &raw mut (**link).next;
            }
            *link = own;
        }
        true
    });
    if !queued {
        return true;
    }
    // SAFETY: the event is initialised and stays in place until the function returns.
    unsafe { aero_event_wait(&raw const (*own).event, deadline) };
    // A waker signals the event while it holds the list. Once this thread has the list, no waker
    // uses the waiter any more and the frame may go.
    bucket.with(|list| {
        // SAFETY: the waiter is on this stack frame, and the flag is only accessed under the list's
        // lock.
        let woken = unsafe { &(*own).woken }.load(Ordering::Relaxed);
        if !woken {
            take(list, |waiter| ptr::eq(waiter, own));
        }
        woken
    })
}

/// Wakes up to `count` of the threads that wait for a word, in order of arrival.
pub fn wake(word: &AtomicU32, count: u32) {
    Bucket::of(word).with(|list| {
        for _ in 0..count {
            let waiter = take(list, |waiter| ptr::eq(waiter.word, word));
            if waiter.is_null() {
                return;
            }
            // SAFETY: a waiter stays alive until its thread has had the list to itself, and this
            // thread holds the list.
            unsafe {
                (*waiter).woken.store(true, Ordering::Relaxed);
                aero_event_signal(&raw const (*waiter).event);
            }
        }
    });
}

/// Takes a one-word lock: 0 is free, 1 is taken, 2 is taken with possible waiters. Returns false
/// once the deadline has passed.
pub fn lock(word: &AtomicU32, deadline: u64) -> bool {
    if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return true;
    }
    // Other threads may be waiting too, so the word becomes 2 even when this thread takes the lock;
    // the price is at most one needless wake-up.
    while word.swap(2, Ordering::Acquire) != 0 {
        if !wait(word, 2, deadline) {
            return false;
        }
    }
    true
}

/// Takes the lock if it is free, without waiting.
pub fn try_lock(word: &AtomicU32) -> bool {
    word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Releases the lock, and wakes a waiter if there may be one.
pub fn unlock(word: &AtomicU32) {
    if word.swap(0, Ordering::Release) == 2 {
        wake(word, 1);
    }
}

/// Waits without a deadline while a word has this value.
pub fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        wait(word, value, NEVER);
    }
}
