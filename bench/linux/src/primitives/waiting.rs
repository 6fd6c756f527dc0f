//! Synchronisation between threads and CPUs: futexes, condition variables, semaphores, barriers,
//! contended locks, interrupts.

use std::hint;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use report::Counter;

use crate::local::new_semaphore;
use crate::system::{self, Spinners, check, check_code, futex_wait, futex_wake, let_others_sleep, on_cpu};
use crate::{Benchmark, Outcome, benchmark, cycles, repeat, samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("futex_wake_local", 1, |counter| wake(counter, 0)),
    benchmark("futex_wake_remote_idle", 2, |counter| wake(counter, 1)),
    benchmark("futex_wake_remote_busy", 2, |counter| {
        let _spinners = Spinners::start(1..2);
        wake(counter, 1)
    }),
    benchmark("condvar_wake_local", 1, |counter| condition(counter, 0)),
    benchmark("condvar_wake_remote_idle", 2, |counter| condition(counter, 1)),
    benchmark("futex_wake_all", 1, broadcast),
    benchmark("sem_ping_pong", 1, semaphores),
    benchmark("pthread_barrier", 1, barrier),
    benchmark("membarrier", 2, membarrier),
    benchmark("pthread_mutex_contended_2", 2, |counter| contend::<PthreadMutex>(counter, 2)),
    benchmark("pthread_mutex_contended_all", 2, |counter| contend::<PthreadMutex>(counter, system::cpu_count())),
    benchmark("pthread_spin_contended_2", 2, |counter| contend::<PthreadSpin>(counter, 2)),
    benchmark("pthread_spin_contended_all", 2, |counter| contend::<PthreadSpin>(counter, system::cpu_count())),
];

/// A word to wait on, and its waiters' answers.
#[derive(Default)]
struct Signal {
    word: AtomicI32,
    missing: AtomicUsize,
    woken_at: AtomicU64,
    stop: AtomicBool,
}

impl Signal {
    /// Waits for round after round; the last waiter to run records the time.
    fn wait(&self) {
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            while self.word.load(Ordering::Acquire) == round {
                futex_wait(&self.word, round);
            }
            round += 1;
            if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.woken_at.store(cycles(), Ordering::Release);
            }
        }
    }

    /// Wakes `waiters` waiters and waits until the last has run. Returns when the wake-up began.
    fn wake(&self, waiters: usize, has_local: bool) -> u64 {
        self.missing.store(waiters, Ordering::Relaxed);
        self.woken_at.store(0, Ordering::Relaxed);
        let start = cycles();
        self.word.fetch_add(1, Ordering::Release);
        futex_wake(&self.word, waiters as i32);
        let_run(|| self.woken_at.load(Ordering::Acquire) != 0, has_local);
        start
    }
}

/// Lets woken threads run until `ran` holds: one on this CPU by yielding to it; an emulator runs
/// the other CPUs during this one's pauses.
fn let_run(ran: impl Fn() -> bool, has_local: bool) {
    while !ran() {
        if has_local {
            // SAFETY: the call takes no arguments and touches no memory of ours.
            unsafe { libc::sched_yield() };
        }
        if !ran() {
            hint::spin_loop();
        }
    }
}

fn wake(counter: Counter, cpu: usize) -> Outcome {
    wake_all(counter, cpu..cpu + 1)
}

fn broadcast(counter: Counter) -> Outcome {
    wake_all(counter, 0..system::cpu_count())
}

fn wake_all(counter: Counter, cpus: std::ops::Range<usize>) -> Outcome {
    let signal = Arc::new(Signal::default());
    let (waiters, has_local) = (cpus.len(), cpus.contains(&0));
    let start = |cpu| {
        let theirs = signal.clone();
        on_cpu(cpu, move || theirs.wait())
    };
    let threads: Vec<_> = cpus.map(start).collect();
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let_others_sleep();
        let start = signal.wake(waiters, has_local);
        samples.add(start, signal.woken_at.load(Ordering::Relaxed));
    }
    let_others_sleep();
    signal.stop.store(true, Ordering::Relaxed);
    signal.wake(waiters, has_local);
    for thread in threads {
        thread.join().map_err(|_| "a waiter ended early")?;
    }
    Ok(samples)
}

struct Monitor {
    mutex: libc::pthread_mutex_t,
    changed: libc::pthread_cond_t,
    round: usize,
    stop: bool,
}

/// A pointer shared between threads. Fields other than pthread's objects are accessed only with the
/// mutex held.
struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: pthread's objects are made to be shared between threads, and the mutex guards the other
// fields.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

fn condition(counter: Counter, cpu: usize) -> Outcome {
    static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
    let mut monitor = Box::new(Monitor {
        mutex: libc::PTHREAD_MUTEX_INITIALIZER,
        changed: libc::PTHREAD_COND_INITIALIZER,
        round: 0,
        stop: false,
    });
    let at = Shared(&raw mut *monitor);
    let waiter = on_cpu(cpu, move || {
        let monitor = at.get();
        // SAFETY: the monitor lives until this thread is joined, and its fields are accessed with
        // the mutex held.
        unsafe {
            libc::pthread_mutex_lock(&raw mut (*monitor).mutex);
            let mut wakeups = 0;
            while !(*monitor).stop {
                let before = (*monitor).round;
                while (*monitor).round == before && !(*monitor).stop {
                    libc::pthread_cond_wait(&raw mut (*monitor).changed, &raw mut (*monitor).mutex);
                }
                WOKEN_AT.store(cycles(), Ordering::Release);
                wakeups += (*monitor).round - before;
            }
            libc::pthread_mutex_unlock(&raw mut (*monitor).mutex);
            wakeups
        }
    });
    let monitor = at.get();
    let mut samples = samples(counter)?;
    let rounds = samples.rounds();
    let change = |round: usize, stop: bool| {
        WOKEN_AT.store(0, Ordering::Relaxed);
        // SAFETY: the monitor lives until the end of this function, and its fields are accessed
        // with the mutex held.
        unsafe {
            libc::pthread_mutex_lock(&raw mut (*monitor).mutex);
            (*monitor).round = round;
            (*monitor).stop = stop;
            libc::pthread_mutex_unlock(&raw mut (*monitor).mutex);
        }
        let start = cycles();
        // SAFETY: the condition variable is initialised, lives until the end of this function, and
        // may be signalled without the mutex.
        unsafe { libc::pthread_cond_signal(&raw mut (*monitor).changed) };
        let_run(|| WOKEN_AT.load(Ordering::Acquire) != 0, cpu == 0);
        start
    };
    for round in 1..=rounds {
        let_others_sleep();
        let start = change(round, false);
        samples.add(start, WOKEN_AT.load(Ordering::Relaxed));
    }
    let_others_sleep();
    change(rounds, true);
    let wakeups = waiter.join().map_err(|_| "the waiter ended early")?;
    if wakeups == rounds { Ok(samples) } else { Err(format!("{wakeups} wake-ups for {rounds} signals").into()) }
}

fn semaphores(counter: Counter) -> Outcome {
    let (mut ping, mut pong) = (new_semaphore(0)?, new_semaphore(0)?);
    let (ping, pong) = (Shared(&raw mut *ping), Shared(&raw mut *pong));
    let mut samples = samples(counter)?;
    let rounds = samples.rounds();
    let partner = on_cpu(0, move || {
        for _ in 0..rounds {
            // SAFETY: both semaphores are initialised and live until this thread is joined.
            unsafe {
                libc::sem_wait(ping.get());
                libc::sem_post(pong.get());
            }
        }
    });
    while !samples.is_complete() {
        let start = cycles();
        // SAFETY: both semaphores are initialised and live until the end of this function.
        unsafe {
            libc::sem_post(ping.get());
            libc::sem_wait(pong.get());
        }
        samples.add(start, cycles());
    }
    partner.join().map_err(|_| "the partner ended early")?;
    Ok(samples)
}

/// Barriers per sample, as in the Aerokernel's benchmark.
const BARRIERS: usize = 16;

fn barrier(counter: Counter) -> Outcome {
    // SAFETY: `pthread_barrier_t` is plain memory, for which zeros are valid.
    let mut barrier: Box<libc::pthread_barrier_t> = Box::new(unsafe { mem::zeroed() });
    let barrier = Shared(&raw mut *barrier);
    let cpus = system::cpu_count();
    // SAFETY: the box has room for a barrier, which no thread uses yet.
    check_code(unsafe { libc::pthread_barrier_init(barrier.get(), ptr::null(), cpus as u32) })?;
    let mut samples = samples(counter)?;
    let rounds = samples.rounds() * BARRIERS;
    let start = |cpu| {
        on_cpu(cpu, move || {
            for _ in 0..rounds {
                // SAFETY: the barrier is initialised and lives until this thread is joined.
                unsafe { libc::pthread_barrier_wait(barrier.get()) };
            }
        })
    };
    let partners: Vec<_> = (1..cpus).map(start).collect();
    while !samples.is_complete() {
        let start = cycles();
        for _ in 0..BARRIERS {
            // SAFETY: the barrier is initialised and lives until the end of this function.
            unsafe { libc::pthread_barrier_wait(barrier.get()) };
        }
        samples.add_shared(start, cycles(), BARRIERS as u64);
    }
    for partner in partners {
        partner.join().map_err(|_| "a partner ended early")?;
    }
    Ok(samples)
}

/// Times an interrupt of every CPU that runs the process, and their answers.
fn membarrier(counter: Counter) -> Outcome {
    let command = |command: libc::c_int| {
        // SAFETY: the system call takes no pointers, only numbers.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
    };
    check(command(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))?;
    let _spinners = Spinners::start(1..system::cpu_count());
    repeat(counter, || command(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED), |result| result == 0)
}

/// One of pthread's locks.
trait Lock: 'static {
    fn new() -> Self;
    /// Calls `held` with the lock held.
    ///
    /// # Safety
    /// `lock` was created by `new`, is alive, and has not moved since it was first used.
    unsafe fn hold(lock: *mut Self, held: impl FnOnce());
}

struct PthreadMutex(libc::pthread_mutex_t);
struct PthreadSpin(libc::pthread_spinlock_t);

impl Lock for PthreadMutex {
    fn new() -> Self {
        Self(libc::PTHREAD_MUTEX_INITIALIZER)
    }

    #[inline(always)]
    unsafe fn hold(lock: *mut Self, held: impl FnOnce()) {
        // SAFETY: the caller guarantees that the mutex is initialised and has not moved.
        unsafe { libc::pthread_mutex_lock(&raw mut (*lock).0) };
        held();
        // SAFETY: the mutex was locked above by this thread and has not moved since.
        unsafe { libc::pthread_mutex_unlock(&raw mut (*lock).0) };
    }
}

impl Lock for PthreadSpin {
    fn new() -> Self {
        let mut lock = 0;
        // SAFETY: the pointer is to a local that has room for a lock.
        unsafe { libc::pthread_spin_init(&raw mut lock, 0) };
        Self(lock)
    }

    #[inline(always)]
    unsafe fn hold(lock: *mut Self, held: impl FnOnce()) {
        // SAFETY: the caller guarantees that the lock is initialised and has not moved.
        unsafe { libc::pthread_spin_lock(&raw mut (*lock).0) };
        held();
        // SAFETY: the lock was taken above by this thread and has not moved since.
        unsafe { libc::pthread_spin_unlock(&raw mut (*lock).0) };
    }
}

struct Contest<L> {
    lock: L,
    count: u64,
    stop: AtomicBool,
}

fn contend<L: Lock>(counter: Counter, contenders: usize) -> Outcome {
    let mut contest = Box::new(Contest { lock: L::new(), count: 0, stop: AtomicBool::new(false) });
    let at = Shared(&raw mut *contest);
    /// Increments the count, holding the lock long enough for others to contend, as in the
    /// Aerokernel's benchmark.
    #[inline(always)]
    fn add<L: Lock>(at: *mut Contest<L>) {
        // SAFETY: the contest lives until all threads are joined, and the lock guards the count.
        unsafe {
            L::hold(&raw mut (*at).lock, || {
                hint::spin_loop();
                (*at).count += 1;
            });
        }
    }
    let start = |cpu| {
        on_cpu(cpu, move || {
            let at = at.get();
            let mut times = 0u64;
            // SAFETY: the contest lives until this thread is joined, and the field is an atomic.
            while !unsafe { &(*at).stop }.load(Ordering::Relaxed) {
                add(at);
                times += 1;
                hint::spin_loop();
            }
            times
        })
    };
    let others: Vec<_> = (1..contenders).map(start).collect();
    let pause = |()| {
        hint::spin_loop();
        true
    };
    let samples = repeat(counter, || add(at.get()), pause)?;
    // SAFETY: the contest lives until the end of this function, and the field is an atomic.
    unsafe { &(*at.get()).stop }.store(true, Ordering::Relaxed);
    let mut times = samples.rounds() as u64;
    for other in others {
        times += other.join().map_err(|_| "a contender ended early")?;
    }
    hint::black_box(&contest);
    if contest.count == times { Ok(samples) } else { Err("the lock let two in at once".into()) }
}
