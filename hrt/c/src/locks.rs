//! POSIX mutexes, condition variables, reader-writer locks and spin locks, between threads.
//!
//! The types have the size of glibc's. Their content is this library's own, but all zeros is a free
//! lock, or a condition variable without waiters, as in glibc.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hrt::abi::NEVER;
use hrt::raw::aero_thread_yield;

use crate::futex;
use crate::process::{EBUSY, EDEADLK, EINVAL, EPERM, ETIMEDOUT, TimeSpec};
use crate::pthread::pthread_self;

/// Converts a POSIX deadline into the kernel's nanoseconds. A time before the clock's start counts
/// as already passed; `None` if the time is invalid.
///
/// # Safety
/// `time` must point to a readable `timespec`.
pub unsafe fn deadline(time: *const TimeSpec) -> Option<u64> {
    // SAFETY: the caller guarantees that `time` points to a readable `timespec`.
    let time = unsafe { *time };
    if time.seconds < 0 { Some(0) } else { time.nanoseconds() }
}

/// `pthread_mutex_t`, of 40 bytes; `kind` is at the offset that glibc's initialisers use.
#[repr(C)]
pub struct Mutex {
    word: AtomicU32,
    count: AtomicU32,
    owner: AtomicUsize,
    kind: AtomicU32,
}

const RECURSIVE: u32 = 1;
const ERROR_CHECK: u32 = 2;

impl Mutex {
    fn lock(&self, deadline: u64, wait: bool) -> c_int {
        let (kind, me) = (self.kind.load(Ordering::Relaxed), pthread_self() as usize);
        if kind != 0 && self.owner.load(Ordering::Relaxed) == me {
            return match kind {
                RECURSIVE => {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    0
                }
                _ if wait => EDEADLK,
                _ => EBUSY,
            };
        }
        let taken = if wait { futex::lock(&self.word, deadline) } else { futex::try_lock(&self.word) };
        if !taken {
            return if wait { ETIMEDOUT } else { EBUSY };
        }
        if kind != 0 {
            self.owner.store(me, Ordering::Relaxed);
        }
        0
    }

    fn unlock(&self) -> c_int {
        if self.kind.load(Ordering::Relaxed) != 0 {
            if self.owner.load(Ordering::Relaxed) != pthread_self() as usize {
                return EPERM;
            }
            if self.count.load(Ordering::Relaxed) > 0 {
                self.count.fetch_sub(1, Ordering::Relaxed);
                return 0;
            }
            self.owner.store(0, Ordering::Relaxed);
        }
        futex::unlock(&self.word);
        0
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutexattr_init(attributes: *mut c_int) -> c_int {
    // SAFETY: the caller passes memory for a `pthread_mutexattr_t`, which holds an `int`.
    unsafe { attributes.write(0) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_mutexattr_destroy(_: *mut c_int) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutexattr_settype(attributes: *mut c_int, kind: c_int) -> c_int {
    if !(0..=ERROR_CHECK as c_int).contains(&kind) {
        return EINVAL;
    }
    // SAFETY: the caller passes initialised attributes, as POSIX requires, and does not use them
    // concurrently.
    unsafe { attributes.write(kind) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_init(mutex: *mut Mutex, attributes: *const c_int) -> c_int {
    // SAFETY: the caller passes memory for a mutex that is not in use, and null or initialised
    // attributes.
    unsafe {
        let kind = attributes.as_ref().map_or(0, |&kind| kind as u32);
        mutex.write(Mutex {
            word: AtomicU32::new(0),
            count: AtomicU32::new(0),
            owner: AtomicUsize::new(0),
            kind: AtomicU32::new(kind),
        });
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_destroy(mutex: *const Mutex) -> c_int {
    // SAFETY: POSIX requires an initialised mutex, which stays in place during the call.
    if unsafe { &(*mutex).word }.load(Ordering::Relaxed) == 0 { 0 } else { EBUSY }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_lock(mutex: *const Mutex) -> c_int {
    // SAFETY: POSIX requires an initialised mutex, which stays in place during the call.
    unsafe { &*mutex }.lock(NEVER, true)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_trylock(mutex: *const Mutex) -> c_int {
    // SAFETY: POSIX requires an initialised mutex, which stays in place during the call.
    unsafe { &*mutex }.lock(NEVER, false)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_timedlock(mutex: *const Mutex, time: *const TimeSpec) -> c_int {
    // SAFETY: POSIX requires an initialised mutex, which stays in place during the call, and a
    // readable time.
    unsafe { deadline(time) }.map_or(EINVAL, |deadline| unsafe { &*mutex }.lock(deadline, true))
}

/// Locks with a deadline on any clock; all clocks are the same here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_clocklock(mutex: *const Mutex, _: c_int, time: *const TimeSpec) -> c_int {
    // SAFETY: the caller's arguments meet the conditions of `pthread_mutex_timedlock`, to which
    // they are passed on.
    unsafe { pthread_mutex_timedlock(mutex, time) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_unlock(mutex: *const Mutex) -> c_int {
    // SAFETY: POSIX requires an initialised mutex, which stays in place during the call.
    unsafe { &*mutex }.unlock()
}

/// `pthread_cond_t`, of 48 bytes: a number that every signal changes, and the number of threads in
/// a wait.
#[repr(C)]
pub struct Condition {
    signals: AtomicU32,
    waiters: AtomicU32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_init(condition: *mut Condition, _: *const c_void) -> c_int {
    // SAFETY: the caller passes memory for a condition variable that is not in use.
    unsafe { condition.write(Condition { signals: AtomicU32::new(0), waiters: AtomicU32::new(0) }) };
    0
}

/// Waits until the threads that were woken earlier have left the condition variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_destroy(condition: *const Condition) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable, which stays in place during the
    // call.
    let waiters = unsafe { &(*condition).waiters };
    while waiters.load(Ordering::Acquire) != 0 {
        // SAFETY: the interface allows a yield in any state.
        unsafe { aero_thread_yield() };
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_init(_: *mut c_int) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_destroy(_: *mut c_int) -> c_int {
    0
}

/// Accepts any clock; all clocks are the same here.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_setclock(_: *mut c_int, _: c_int) -> c_int {
    0
}

fn wait(condition: &Condition, mutex: &Mutex, deadline: u64) -> c_int {
    // The number is read before the mutex is unlocked, so that a signal in between changes it and
    // the wait does not begin.
    let before = condition.signals.load(Ordering::Acquire);
    condition.waiters.fetch_add(1, Ordering::Relaxed);
    let error = mutex.unlock();
    if error != 0 {
        condition.waiters.fetch_sub(1, Ordering::Release);
        return error;
    }
    let in_time = futex::wait(&condition.signals, before, deadline);
    condition.waiters.fetch_sub(1, Ordering::Release);
    let error = mutex.lock(NEVER, true);
    match (error, in_time) {
        (0, true) => 0,
        (0, false) => ETIMEDOUT,
        (error, _) => error,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(condition: *const Condition, mutex: *const Mutex) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable and mutex, which stay in place
    // during the call.
    unsafe { wait(&*condition, &*mutex, NEVER) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *const Condition,
    mutex: *const Mutex,
    time: *const TimeSpec,
) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable and mutex, which stay in place
    // during the call, and a readable time.
    unsafe { deadline(time).map_or(EINVAL, |deadline| wait(&*condition, &*mutex, deadline)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_clockwait(
    condition: *const Condition,
    mutex: *const Mutex,
    _: c_int,
    time: *const TimeSpec,
) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable and mutex, which stay in place
    // during the call, and a readable time.
    unsafe { pthread_cond_timedwait(condition, mutex, time) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_signal(condition: *const Condition) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable, which stays in place during the
    // call.
    let signals = unsafe { &(*condition).signals };
    signals.fetch_add(1, Ordering::Release);
    futex::wake(signals, 1);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_broadcast(condition: *const Condition) -> c_int {
    // SAFETY: POSIX requires an initialised condition variable, which stays in place during the
    // call.
    let signals = unsafe { &(*condition).signals };
    signals.fetch_add(1, Ordering::Release);
    futex::wake(signals, u32::MAX);
    0
}

/// `pthread_rwlock_t`, of 56 bytes: the number of readers, or [`WRITTEN`].
#[repr(C)]
pub struct ReaderWriterLock {
    state: AtomicU32,
}

const WRITTEN: u32 = u32::MAX;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_init(lock: *mut ReaderWriterLock, _: *const c_void) -> c_int {
    // SAFETY: the caller passes memory for a lock that is not in use.
    unsafe { lock.write(ReaderWriterLock { state: AtomicU32::new(0) }) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_rwlock_destroy(_: *mut ReaderWriterLock) -> c_int {
    0
}

/// Moves the lock to its next state, waiting until there is one. Without a deadline, returns
/// `EBUSY` instead of waiting.
fn pass(state: &AtomicU32, next: impl Fn(u32) -> Option<u32>, deadline: Option<u64>) -> c_int {
    loop {
        match (state.fetch_update(Ordering::AcqRel, Ordering::Acquire, &next), deadline) {
            (Ok(_), _) => return 0,
            (Err(_), None) => return EBUSY,
            (Err(now), Some(deadline)) => {
                if !futex::wait(state, now, deadline) {
                    return ETIMEDOUT;
                }
            }
        }
    }
}

/// Moves the lock to its next state as [`pass`] does, until a time that the caller gives.
///
/// # Safety
/// `time` must point to a readable `timespec`.
unsafe fn pass_until(state: &AtomicU32, next: fn(u32) -> Option<u32>, time: *const TimeSpec) -> c_int {
    // SAFETY: the caller guarantees that `time` points to a readable `timespec`.
    match unsafe { deadline(time) } {
        Some(deadline) => pass(state, next, Some(deadline)),
        None => EINVAL,
    }
}

macro_rules! timed {
    ($($name:ident $clock:ident $next:ident;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(lock: *const ReaderWriterLock, time: *const TimeSpec) -> c_int {
            // SAFETY: POSIX requires an initialised lock, which stays in place during the call, and
            // a readable time.
            unsafe { pass_until(&(*lock).state, $next, time) }
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $clock(lock: *const ReaderWriterLock, _: c_int, time: *const TimeSpec) -> c_int {
            // SAFETY: POSIX requires an initialised lock, which stays in place during the call, and
            // a readable time.
            unsafe { pass_until(&(*lock).state, $next, time) }
        })*
    };
}
timed! {
    pthread_rwlock_timedrdlock pthread_rwlock_clockrdlock one_more_reader;
    pthread_rwlock_timedwrlock pthread_rwlock_clockwrlock the_writer;
}

fn one_more_reader(state: u32) -> Option<u32> {
    (state < WRITTEN - 1).then(|| state + 1)
}

fn the_writer(state: u32) -> Option<u32> {
    (state == 0).then_some(WRITTEN)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_rdlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: POSIX requires an initialised lock, which stays in place during the call.
    pass(unsafe { &(*lock).state }, one_more_reader, Some(NEVER))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_tryrdlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: POSIX requires an initialised lock, which stays in place during the call.
    pass(unsafe { &(*lock).state }, one_more_reader, None)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_wrlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: POSIX requires an initialised lock, which stays in place during the call.
    pass(unsafe { &(*lock).state }, the_writer, Some(NEVER))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_trywrlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: POSIX requires an initialised lock, which stays in place during the call.
    pass(unsafe { &(*lock).state }, the_writer, None)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_unlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: POSIX requires an initialised lock, which stays in place during the call.
    let state = unsafe { &(*lock).state };
    let free = |now: u32| match now {
        0 => None,
        WRITTEN => Some(0),
        readers => Some(readers - 1),
    };
    match state.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
        Ok(_) => {
            futex::wake(state, u32::MAX);
            0
        }
        Err(_) => EPERM,
    }
}

/// Initialises a `pthread_spinlock_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_init(lock: *mut u32, _: c_int) -> c_int {
    // SAFETY: the caller passes memory for a spin lock that is not in use.
    unsafe { lock.write(0) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_spin_destroy(_: *mut u32) -> c_int {
    0
}

/// Waits as for a mutex. The holder may be a thread of this CPU, so a waiter must give up the CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_lock(lock: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised spin lock, which stays in place during the call.
    futex::lock(unsafe { &*lock }, NEVER);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_trylock(lock: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised spin lock, which stays in place during the call.
    if futex::try_lock(unsafe { &*lock }) { 0 } else { EBUSY }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_unlock(lock: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised spin lock, which stays in place during the call.
    futex::unlock(unsafe { &*lock });
    0
}
