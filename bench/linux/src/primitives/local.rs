//! Operations of a single thread: locks, timers, signals, system calls.

use std::hint::black_box;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

use report::Counter;

use crate::system::{check, check_code};
use crate::{Benchmark, Error, Outcome, benchmark, cycles, repeat, samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("empty", 1, |counter| repeat(counter, || (), |()| true)),
    benchmark("pthread_mutex", 1, mutex),
    benchmark("pthread_spin", 1, spin),
    benchmark("sem", 1, semaphore),
    benchmark("signal_self", 1, signal),
    benchmark("getppid", 1, system_call),
    benchmark("timerfd_set", 1, timer_set),
    benchmark("timerfd_cancel", 1, timer_cancel),
    benchmark("nanosleep_lateness", 1, lateness),
];

fn mutex(counter: Counter) -> Outcome {
    let mut mutex = libc::PTHREAD_MUTEX_INITIALIZER;
    let mutex = &raw mut mutex;
    repeat(
        counter,
        // SAFETY: the mutex is initialised, lives through the loop, and is held by no thread.
        || unsafe { libc::pthread_mutex_lock(black_box(mutex)) + libc::pthread_mutex_unlock(black_box(mutex)) },
        |result| result == 0,
    )
}

fn spin(counter: Counter) -> Outcome {
    let mut lock: libc::pthread_spinlock_t = 0;
    let lock = &raw mut lock;
    // SAFETY: the pointer is to a local that has room for a lock.
    check_code(unsafe { libc::pthread_spin_init(lock, 0) })?;
    repeat(
        counter,
        // SAFETY: the lock is initialised, lives through the loop, and is held by no thread.
        || unsafe { libc::pthread_spin_lock(black_box(lock)) + libc::pthread_spin_unlock(black_box(lock)) },
        |result| result == 0,
    )
}

/// Creates a semaphore private to this process.
pub fn new_semaphore(count: u32) -> Result<Box<libc::sem_t>, Error> {
    // SAFETY: `sem_t` consists of integers, for which zeros are valid values.
    let mut semaphore: Box<libc::sem_t> = Box::new(unsafe { mem::zeroed() });
    // SAFETY: the box has room for a semaphore, which no thread uses yet.
    check(unsafe { libc::sem_init(&raw mut *semaphore, 0, count) })?;
    Ok(semaphore)
}

fn semaphore(counter: Counter) -> Outcome {
    let mut semaphore = new_semaphore(1)?;
    let semaphore = &raw mut *semaphore;
    repeat(
        counter,
        // SAFETY: the semaphore is initialised, and its box lives through the loop.
        || unsafe { libc::sem_wait(black_box(semaphore)) + libc::sem_post(black_box(semaphore)) },
        |result| result == 0,
    )
}

fn signal(counter: Counter) -> Outcome {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(_: i32) {
        TAKEN.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only increments an atomic, and the thread signals only itself.
    let (process, thread) = unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t);
        (libc::getpid(), libc::syscall(libc::SYS_gettid))
    };
    // SAFETY: the call takes no pointers, and SIGUSR1's handler is installed.
    let send = || unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    let samples = repeat(counter, send, |result| result == 0)?;
    if TAKEN.load(Ordering::Relaxed) == samples.rounds() { Ok(samples) } else { Err("signals got lost".into()) }
}

fn system_call(counter: Counter) -> Outcome {
    // SAFETY: the system call takes no arguments and changes nothing.
    repeat(counter, || unsafe { libc::syscall(libc::SYS_getppid) }, |parent| parent >= 0)
}

const fn seconds(seconds: i64) -> libc::itimerspec {
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    libc::itimerspec { it_interval: never, it_value: libc::timespec { tv_sec: seconds, tv_nsec: 0 } }
}

fn timer() -> Result<i32, Error> {
    // SAFETY: the call takes no pointers, only two numbers.
    Ok(check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) })? as i32)
}

fn set(timer: i32, to: &libc::itimerspec) -> i32 {
    // SAFETY: the time lives through the call, and the old value's pointer may be null.
    unsafe { libc::timerfd_settime(timer, 0, to, std::ptr::null_mut()) }
}

fn timer_set(counter: Counter) -> Outcome {
    let timer = timer()?;
    let mut samples = samples(counter)?;
    let (long, never) = (seconds(10), seconds(0));
    while !samples.is_complete() {
        let start = cycles();
        let result = set(timer, &long);
        samples.add(start, cycles());
        check(result | set(timer, &never))?;
    }
    Ok(samples)
}

fn timer_cancel(counter: Counter) -> Outcome {
    let timer = timer()?;
    let mut samples = samples(counter)?;
    let (long, never) = (seconds(10), seconds(0));
    while !samples.is_complete() {
        check(set(timer, &long))?;
        let start = cycles();
        let result = set(timer, &never);
        samples.add(start, cycles());
        check(result)?;
    }
    Ok(samples)
}

/// Measures the cycles between a sleeper's deadline and its resumption.
fn lateness(counter: Counter) -> Outcome {
    let mut samples = samples(counter)?;
    let rate = crate::system::counter_frequency(cycles);
    let now = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the time is a local that lives through the call.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        (cycles(), time)
    };
    while !samples.is_complete() {
        let (at, mut time) = now();
        let wait = 50_000;
        time.tv_nsec += wait;
        if time.tv_nsec >= 1_000_000_000 {
            time.tv_nsec -= 1_000_000_000;
            time.tv_sec += 1;
        }
        let deadline = at + wait as u64 * rate / 1_000_000_000;
        // SAFETY: the time is a local that lives through the call; the remainder may be null.
        check_code(unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const time, std::ptr::null_mut())
        })?;
        samples.add(deadline, cycles());
    }
    Ok(samples)
}
