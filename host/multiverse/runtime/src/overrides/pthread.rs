//! The C library's mutexes, condition variables, barriers and spin locks in the HRT: threads that
//! wait do so in the kernel, without a system call.
//!
//! Mutexes, condition variables and spin locks have glibc's own content (nptl/
//! pthread_mutex_lock.c, pthread_cond_wait.c, sysdeps/x86/nptl/pthread_spin_lock.S of glibc 2.36),
//! so that a thread that executes the library's functions, as in a child of the process, may take
//! part. Waking looks for waiting threads in the kernel, then in Linux.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use hvm::program::waited;
use libc::{EBUSY, EDEADLK, EPERM, ETIMEDOUT, timespec};

use super::shipped::{
    NOTHING, TO_ORIGINAL, Version, call, deadline, entry, look_again, thread_id, wait_begin, wait_end, wait_in_linux,
    wake, wake_here, wake_in_linux,
};

/// The version of a function.
pub fn version(symbol: &str) -> Option<Version> {
    let version = match symbol {
        "pthread_mutex_lock" => Version::new(lock_entry, &LOCK),
        "pthread_mutex_trylock" => Version::new(try_lock_entry, &TRY_LOCK),
        "pthread_mutex_timedlock" => Version::new(timed_lock_entry, &TIMED_LOCK),
        "pthread_mutex_clocklock" => Version::new(clock_lock_entry, &CLOCK_LOCK),
        "pthread_mutex_unlock" => Version::new(unlock_entry, &UNLOCK),
        "pthread_cond_wait" => Version::new(wait_entry, &WAIT),
        "pthread_cond_timedwait" => Version::new(timed_wait_entry, &TIMED_WAIT),
        "pthread_cond_clockwait" => Version::new(clock_wait_entry, &CLOCK_WAIT),
        "pthread_cond_signal" => Version::new(signal_entry, &SIGNAL),
        "pthread_cond_broadcast" => Version::new(broadcast_entry, &BROADCAST),
        "pthread_barrier_wait" => Version::new(barrier_wait_entry, &BARRIER_WAIT),
        "pthread_barrier_destroy" => Version::new(barrier_destroy_entry, &BARRIER_DESTROY),
        "pthread_spin_lock" => Version::new(spin_lock_entry, &SPIN_LOCK),
        "pthread_spin_trylock" => Version::new(spin_try_lock_entry, &SPIN_TRY_LOCK),
        "pthread_cancel" => Version::new(cancel_entry, &CANCEL),
        _ => return None,
    };
    Some(version)
}

entry!(lock_entry, LOCK, mutex_lock);
entry!(try_lock_entry, TRY_LOCK, mutex_try_lock);
entry!(timed_lock_entry, TIMED_LOCK, mutex_timed_lock);
entry!(clock_lock_entry, CLOCK_LOCK, mutex_clock_lock);
entry!(unlock_entry, UNLOCK, mutex_unlock);
entry!(wait_entry, WAIT, condition_wait);
entry!(timed_wait_entry, TIMED_WAIT, condition_timed_wait);
entry!(clock_wait_entry, CLOCK_WAIT, condition_clock_wait);
entry!(signal_entry, SIGNAL, condition_signal);
entry!(broadcast_entry, BROADCAST, condition_broadcast);
entry!(barrier_wait_entry, BARRIER_WAIT, barrier_wait);
entry!(barrier_destroy_entry, BARRIER_DESTROY, barrier_destroy);
entry!(spin_lock_entry, SPIN_LOCK, spin_lock);
entry!(spin_try_lock_entry, SPIN_TRY_LOCK, spin_try_lock);
// How a thread that waits is cancelled is the library's affair.
entry!(cancel_entry, CANCEL, go_to_linux);

/// Not 0 once the library's own pthread_cond_wait has been left a call: it releases mutexes without
/// a look at threads that wait in the HRT, so all wait for them in Linux from then on.
static IN_LINUX: AtomicU32 = AtomicU32::new(0);

/// Has all threads wait for mutexes and conditions in Linux from now on, and leaves the call to the
/// library.
extern "C" fn go_to_linux() -> i32 {
    IN_LINUX.store(1, Ordering::SeqCst);
    look_again();
    TO_ORIGINAL
}

/// A deadline that never passes.
const NEVER: u64 = u64::MAX;

/// pthread_mutex_t.
#[repr(C)]
struct Mutex {
    /// 0 free, 1 locked, 2 locked and threads may wait.
    word: AtomicU32,
    /// How often its owner has locked it, if it is recursive.
    count: AtomicU32,
    /// The owner's thread id.
    owner: AtomicU32,
    users: AtomicU32,
    kind: AtomicI32,
}

/// Kinds of mutexes (glibc, nptl/pthreadP.h), and flags of one that has no influence here: whether
/// locks may be elided.
const NORMAL: i32 = 0;
const RECURSIVE: i32 = 1;
const ERROR_CHECK: i32 = 2;
const ADAPTIVE: i32 = 3;
const ELISION: i32 = 0x300;

impl Mutex {
    /// The kind; `None` for those that are left to the library: of several processes, robust ones,
    /// and those with priorities.
    fn kind(&self) -> Option<i32> {
        let kind = self.kind.load(Ordering::Relaxed) & !ELISION;
        (NORMAL..=ADAPTIVE).contains(&kind).then_some(kind)
    }

    fn is_own(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == thread_id()
    }

    /// Locks it, by a way of taking the word.
    fn lock(&self, take: impl FnOnce(&AtomicU32) -> i32, when_own: i32) -> i32 {
        let Some(kind) = self.kind() else { return TO_ORIGINAL };
        if matches!(kind, RECURSIVE | ERROR_CHECK) && self.is_own() {
            if kind == ERROR_CHECK {
                return when_own;
            }
            let Some(count) = self.count.load(Ordering::Relaxed).checked_add(1) else { return libc::EAGAIN };
            self.count.store(count, Ordering::Relaxed);
            return 0;
        }
        let error = take(&self.word);
        if error == 0 {
            self.take_over(kind);
        }
        error
    }

    /// Notes that the calling thread has it.
    fn take_over(&self, kind: i32) {
        if kind == RECURSIVE {
            self.count.store(1, Ordering::Relaxed);
        }
        self.owner.store(thread_id(), Ordering::Relaxed);
        self.users.store(self.users.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn unlock(&self) -> i32 {
        let Some(kind) = self.kind() else { return TO_ORIGINAL };
        if matches!(kind, RECURSIVE | ERROR_CHECK) && !self.is_own() {
            return EPERM;
        }
        if kind == RECURSIVE {
            let count = self.count.load(Ordering::Relaxed).wrapping_sub(1);
            self.count.store(count, Ordering::Relaxed);
            if count != 0 {
                return 0;
            }
        }
        self.owner.store(0, Ordering::Relaxed);
        self.users.store(self.users.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
        if self.word.swap(0, Ordering::Release) == 2 {
            wake(&self.word, 1);
        }
        0
    }
}

fn try_take(word: &AtomicU32) -> i32 {
    if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() { 0 } else { EBUSY }
}

/// Takes a lock's word until a deadline.
fn take(word: &AtomicU32, deadline: impl Fn() -> Result<u64, i32>) -> i32 {
    if try_take(word) == 0 { 0 } else { take_contended(word, &deadline) }
}

fn take_contended(word: &AtomicU32, deadline: &dyn Fn() -> Result<u64, i32>) -> i32 {
    // Others may wait too, so the word is 2 even if this thread gets it.
    while word.swap(2, Ordering::Acquire) != 0 {
        let until = match deadline() {
            Ok(0) => return ETIMEDOUT,
            Ok(until) => until,
            Err(error) => return error,
        };
        if IN_LINUX.load(Ordering::SeqCst) != 0 {
            wait_in_linux(word, 2, until);
        } else if let Some(number) = wait_begin(word, 2) {
            wait_end(number, until, &IN_LINUX);
        }
    }
    0
}

unsafe extern "C" fn mutex_lock(mutex: *const Mutex) -> i32 {
    // SAFETY: the program's call has this argument.
    unsafe { &*mutex }.lock(|word| take(word, || Ok(NEVER)), EDEADLK)
}

unsafe extern "C" fn mutex_try_lock(mutex: *const Mutex) -> i32 {
    // SAFETY: the program's call has this argument.
    unsafe { &*mutex }.lock(try_take, EBUSY)
}

unsafe extern "C" fn mutex_timed_lock(mutex: *const Mutex, time: *const timespec) -> i32 {
    // SAFETY: the program's call has these arguments.
    unsafe { mutex_clock_lock(mutex, libc::CLOCK_REALTIME, time) }
}

unsafe extern "C" fn mutex_clock_lock(mutex: *const Mutex, clock: i32, time: *const timespec) -> i32 {
    if !matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC) {
        return TO_ORIGINAL;
    }
    // SAFETY: the program's call has these arguments.
    unsafe { &*mutex }.lock(|word| take(word, || deadline(clock, unsafe { &*time })), EDEADLK)
}

unsafe extern "C" fn mutex_unlock(mutex: *const Mutex) -> i32 {
    // SAFETY: the program's call has this argument.
    unsafe { &*mutex }.unlock()
}

/// pthread_cond_t. Threads that wait here are in the kernel's list for the first word, which only
/// those that wait in Linux change.
#[repr(C)]
struct Condition {
    sequence: AtomicU32,
    others: [u32; 8],
    /// Threads that wait, here and in Linux, in units of [`WAITER`]; and flags.
    waiters: AtomicU32,
}

const WAITER: u32 = 8;
/// Flags of a condition variable: it is shared by processes, it has the monotonic clock, and a
/// thread waits to destroy it (glibc, nptl/pthread_cond_common.c).
const IS_SHARED: u32 = 1;
const IS_MONOTONIC: u32 = 2;
const IS_ENDING: u32 = 4;

impl Condition {
    fn wait(&self, mutex: &Mutex, deadline: impl Fn() -> Result<u64, i32>) -> i32 {
        let is_shared = self.waiters.load(Ordering::Relaxed) & IS_SHARED != 0;
        let Some(kind) = mutex.kind() else { return TO_ORIGINAL };
        if IN_LINUX.load(Ordering::SeqCst) != 0 {
            return TO_ORIGINAL;
        }
        if is_shared {
            return go_to_linux();
        }
        let until = match deadline() {
            Ok(until) => until,
            Err(error) => return error,
        };
        self.waiters.fetch_add(WAITER, Ordering::SeqCst);
        let Some(number) = wait_begin(&self.sequence, self.sequence.load(Ordering::SeqCst)) else {
            // A wake-up in Linux may have come in between, so this counts as one.
            self.leave();
            return 0;
        };
        let error = mutex.unlock();
        if error != 0 {
            wait_end(number, 0, &NOTHING);
            self.leave();
            return error;
        }
        let outcome = wait_end(number, until, &IN_LINUX);
        // Before the mutex is taken: who holds that may be waiting to destroy this.
        self.leave();
        let is_still_locked = kind == RECURSIVE && mutex.is_own();
        if is_still_locked {
            mutex.count.fetch_add(1, Ordering::Relaxed);
        } else {
            take_contended(&mutex.word, &|| Ok(NEVER));
            mutex.take_over(kind);
        }
        // A thread may be woken for nothing (POSIX, pthread_cond_wait): after a signal's handler,
        // when all go on in Linux, and where Linux's clock is behind the kernel's.
        if outcome == waited::TIMED_OUT && deadline() == Ok(0) { ETIMEDOUT } else { 0 }
    }

    fn leave(&self) {
        let before = self.waiters.fetch_sub(WAITER, Ordering::SeqCst);
        if before / WAITER == 1 && before & IS_ENDING != 0 {
            wake_in_linux(&self.waiters, u32::MAX >> 1);
        }
    }

    /// Wakes threads that wait here. Returns whether others may wait in Linux.
    fn wake(&self, most: u32) -> i32 {
        let waiting = self.waiters.load(Ordering::SeqCst);
        if waiting & IS_SHARED != 0 {
            return TO_ORIGINAL;
        }
        if waiting / WAITER == 0 {
            return 0;
        }
        let woken = wake_here(&self.sequence, most);
        let is_enough = woken >= u64::from(most.min(waiting / WAITER));
        if is_enough { 0 } else { TO_ORIGINAL }
    }
}

unsafe extern "C" fn condition_wait(condition: *const Condition, mutex: *const Mutex) -> i32 {
    // SAFETY: the program's call has these arguments.
    unsafe { (*condition).wait(&*mutex, || Ok(NEVER)) }
}

unsafe extern "C" fn condition_timed_wait(
    condition: *const Condition,
    mutex: *const Mutex,
    time: *const timespec,
) -> i32 {
    // SAFETY: the program's call has these arguments.
    unsafe {
        let is_monotonic = (*condition).waiters.load(Ordering::Relaxed) & IS_MONOTONIC != 0;
        let clock = if is_monotonic { libc::CLOCK_MONOTONIC } else { libc::CLOCK_REALTIME };
        (*condition).wait(&*mutex, || deadline(clock, &*time))
    }
}

unsafe extern "C" fn condition_clock_wait(
    condition: *const Condition,
    mutex: *const Mutex,
    clock: i32,
    time: *const timespec,
) -> i32 {
    if !matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC) {
        return TO_ORIGINAL;
    }
    // SAFETY: the program's call has these arguments.
    unsafe { (*condition).wait(&*mutex, || deadline(clock, &*time)) }
}

unsafe extern "C" fn condition_signal(condition: *const Condition) -> i32 {
    // SAFETY: the program's call has this argument.
    unsafe { &*condition }.wake(1)
}

unsafe extern "C" fn condition_broadcast(condition: *const Condition) -> i32 {
    // SAFETY: the program's call has this argument.
    unsafe { &*condition }.wake(u32::MAX)
}

/// pthread_barrier_t, of which the library's initialisation sets the number of threads and whether
/// several processes share it.
#[repr(C)]
struct Barrier {
    /// Threads that have arrived, and, in the upper half, the number of the round.
    state: AtomicU64,
    threads: u32,
    is_shared: i32,
    /// Threads that are in the function below.
    inside: AtomicU32,
}

impl Barrier {
    /// The upper half of the state.
    fn round(&self) -> &AtomicU32 {
        // SAFETY: the word is part of the state, with the machine's order of bytes.
        unsafe { AtomicU32::from_ptr(self.state.as_ptr().cast::<u32>().add(1)) }
    }

    /// Arrives. Returns the number of the round, and whether it is complete.
    fn arrive(&self) -> (u32, bool) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (arrived, round) = (state as u32 + 1, (state >> 32) as u32);
            let is_complete = arrived >= self.threads;
            let next = match is_complete {
                true => u64::from(round.wrapping_add(1)) << 32,
                false => u64::from(round) << 32 | u64::from(arrived),
            };
            match self.state.compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return (round, is_complete),
                Err(now) => state = now,
            }
        }
    }
}

unsafe extern "C" fn barrier_wait(barrier: *const Barrier) -> i32 {
    // SAFETY: the program's call has this argument.
    let barrier = unsafe { &*barrier };
    if barrier.is_shared != 0 {
        return TO_ORIGINAL;
    }
    barrier.inside.fetch_add(1, Ordering::SeqCst);
    let (round, is_complete) = barrier.arrive();
    if is_complete {
        wake(barrier.round(), u32::MAX >> 1);
    }
    while barrier.round().load(Ordering::SeqCst) == round {
        if let Some(number) = wait_begin(barrier.round(), round) {
            wait_end(number, NEVER, &NOTHING);
        }
    }
    barrier.inside.fetch_sub(1, Ordering::SeqCst);
    if is_complete { libc::PTHREAD_BARRIER_SERIAL_THREAD } else { 0 }
}

unsafe extern "C" fn barrier_destroy(barrier: *const Barrier) -> i32 {
    // SAFETY: the program's call has this argument.
    let barrier = unsafe { &*barrier };
    if barrier.is_shared != 0 {
        return TO_ORIGINAL;
    }
    // Those that the last one has woken leave at once.
    while barrier.inside.load(Ordering::SeqCst) != 0 {
        make_room();
    }
    0
}

/// Lets other threads of Linux run on this CPU.
fn make_room() {
    // SAFETY: the call has no other effect.
    unsafe { call(libc::SYS_sched_yield, [0; 4]) };
}

/// How often a spin lock is looked at before other threads may run on the CPU.
const SPINS: u32 = 1000;

/// pthread_spinlock_t: 1 is free.
unsafe extern "C" fn spin_lock(lock: *const AtomicI32) -> i32 {
    // SAFETY: the program's call has this argument.
    let lock = unsafe { &*lock };
    loop {
        for _ in 0..SPINS {
            if lock.load(Ordering::Relaxed) == 1 && try_spin(lock) {
                return 0;
            }
            std::hint::spin_loop();
        }
        // Its owner may have no CPU.
        make_room();
    }
}

fn try_spin(lock: &AtomicI32) -> bool {
    lock.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

unsafe extern "C" fn spin_try_lock(lock: *const AtomicI32) -> i32 {
    // SAFETY: the program's call has this argument.
    if try_spin(unsafe { &*lock }) { 0 } else { EBUSY }
}
