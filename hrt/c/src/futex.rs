//! Threads that wait for a word of memory to change: what mutexes, conditions, barriers and the like are built on, so that
//! each of them is a few words that are zero at first.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hrt::abi::{Event, NEVER, OK};
use hrt::raw::{aero_event_init, aero_event_signal, aero_event_wait, aero_thread_yield};

/// A waiter, on the stack of the thread that waits.
struct Waiter {
    word: *const AtomicU32,
    woken: AtomicBool,
    event: Event,
    next: *mut Waiter,
}

/// The waiters for some of the words, in their order.
struct Bucket {
    locked: AtomicBool,
    first: UnsafeCell<*mut Waiter>,
}

// SAFETY: the list is touched under the lock only.
unsafe impl Sync for Bucket {}

const BUCKETS: usize = 64;
static TABLE: [Bucket; BUCKETS] =
    [const { Bucket { locked: AtomicBool::new(false), first: UnsafeCell::new(ptr::null_mut()) } }; BUCKETS];

/// Looks at the lock before the CPU is given up, which whoever has it may need.
const SPINS: u32 = 100;

impl Bucket {
    fn of(word: *const AtomicU32) -> &'static Self {
        &TABLE[(word as usize >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> (usize::BITS - BUCKETS.ilog2())]
    }

    /// Does something with the list, alone.
    fn with<R>(&self, operation: impl FnOnce(&mut *mut Waiter) -> R) -> R {
        let mut spins = 0;
        while self.locked.swap(true, Ordering::Acquire) {
            spins += 1;
            if spins % SPINS == 0 {
                // SAFETY: no condition.
                unsafe { aero_thread_yield() };
            }
            core::hint::spin_loop();
        }
        // SAFETY: locked.
        let result = operation(unsafe { &mut *self.first.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// Takes the first waiter out that is wanted.
fn take(list: &mut *mut Waiter, mut is_wanted: impl FnMut(&Waiter) -> bool) -> *mut Waiter {
    let mut link: *mut *mut Waiter = list;
    // SAFETY: waiters in a list live until they are out of it, and the list is locked.
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

/// Waits until it is woken, if the word still has a value; false once the deadline, in nanoseconds of the kernel's clock, has
/// passed.
pub fn wait(word: &AtomicU32, value: u32, deadline: u64) -> bool {
    let bucket = Bucket::of(word);
    let mut waiter = Waiter { word, woken: AtomicBool::new(false), event: Event::uninit(), next: ptr::null_mut() };
    let own = &raw mut waiter;
    // SAFETY: an event of ours, which stays where it is.
    if unsafe { aero_event_init(&raw mut (*own).event) } != OK {
        return false;
    }
    let queued = bucket.with(|list| {
        if word.load(Ordering::SeqCst) != value {
            return false;
        }
        let mut link: *mut *mut Waiter = list;
        // SAFETY: the list is locked, and its waiters live.
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
    // SAFETY: an event of ours.
    unsafe { aero_event_wait(&raw const (*own).event, deadline) };
    // Who wakes has done with the waiter once the list is free again.
    bucket.with(|list| {
        // SAFETY: ours.
        let woken = unsafe { &(*own).woken }.load(Ordering::Relaxed);
        if !woken {
            take(list, |waiter| ptr::eq(waiter, own));
        }
        woken
    })
}

/// Wakes up to so many of those that wait for a word, the first ones first.
pub fn wake(word: &AtomicU32, count: u32) {
    Bucket::of(word).with(|list| {
        for _ in 0..count {
            let waiter = take(list, |waiter| ptr::eq(waiter.word, word));
            if waiter.is_null() {
                return;
            }
            // SAFETY: a waiter does not go before it has had the list for itself.
            unsafe {
                (*waiter).woken.store(true, Ordering::Relaxed);
                aero_event_signal(&raw const (*waiter).event);
            }
        }
    });
}

/// A lock of one word: 0 free, 1 taken, 2 taken and perhaps waited for.
pub fn lock(word: &AtomicU32, deadline: u64) -> bool {
    if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return true;
    }
    while word.swap(2, Ordering::Acquire) != 0 {
        if !wait(word, 2, deadline) {
            return false;
        }
    }
    true
}

/// The same without waiting.
pub fn try_lock(word: &AtomicU32) -> bool {
    word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Frees it.
pub fn unlock(word: &AtomicU32) {
    if word.swap(0, Ordering::Release) == 2 {
        wake(word, 1);
    }
}

/// Waits without a deadline while a word has a value.
pub fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        wait(word, value, NEVER);
    }
}
