//! Operations of a single thread: locks, timers, interrupts, system calls.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::*;
use kernel::lock::SpinLock;
use kernel::time::{Deadline, Timer};
use kernel::wait::{Event, Mutex, Semaphore};

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, cycles, text, work};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "empty", about: "nothing: what the method adds", cpus: 1, run: empty },
    Benchmark { name: "mutex_uncontended", about: "mutex lock and unlock", cpus: 1, run: mutex },
    Benchmark { name: "spinlock_uncontended", about: "spin lock, interrupts off, and unlock", cpus: 1, run: spinlock },
    Benchmark { name: "semaphore_uncontended", about: "semaphore down and up", cpus: 1, run: semaphore },
    Benchmark { name: "interrupt_null", about: "interrupt entry, empty handler, exit", cpus: 1, run: interrupt },
    Benchmark {
        name: "syscall_null",
        about: "system call instruction in kernel mode, and back",
        cpus: 1,
        run: system_call,
    },
    Benchmark { name: "timer_set", about: "one-shot timer set", cpus: 1, run: timer_set },
    Benchmark { name: "timer_cancel", about: "one-shot timer cancelled", cpus: 1, run: timer_cancel },
    Benchmark {
        name: "timer_lateness",
        about: "from a one-shot's deadline to its function",
        cpus: 1,
        run: timer_lateness,
    },
];

fn empty(setting: &Setting<'_>) -> Outcome {
    setting.repeat_blindly(|| ())
}

fn mutex(setting: &Setting<'_>) -> Outcome {
    static COUNT: Mutex<usize> = Mutex::new(0);
    *COUNT.lock() = 0;
    let samples = setting.repeat_blindly(|| *COUNT.lock() += 1)?;
    check(*COUNT.lock() == samples.rounds(), "the mutex lost an update")?;
    Ok(samples)
}

fn spinlock(setting: &Setting<'_>) -> Outcome {
    static COUNT: SpinLock<usize> = SpinLock::new(0);
    *COUNT.lock() = 0;
    let samples = setting.repeat_blindly(|| *COUNT.lock() += 1)?;
    check(*COUNT.lock() == samples.rounds(), "the spin lock lost an update")?;
    Ok(samples)
}

/// Takes from one semaphore and gives to another, so that both effects can be checked afterwards.
fn semaphore(setting: &Setting<'_>) -> Outcome {
    static FROM: Semaphore = Semaphore::new(u32::MAX / 2);
    static TO: Semaphore = Semaphore::new(0);
    let before = (FROM.value(), TO.value());
    let samples = setting.repeat_blindly(|| {
        FROM.down();
        TO.up();
    })?;
    let rounds = samples.rounds() as i64;
    check((FROM.value(), TO.value()) == (before.0 - rounds, before.1 + rounds), "a semaphore lost a count")?;
    Ok(samples)
}

fn interrupt(setting: &Setting<'_>) -> Outcome {
    let before = kernel::interrupts::count_here(Traps::SELF_VECTOR);
    let samples = setting.repeat_blindly(Traps::interrupt_self)?;
    let taken = kernel::interrupts::count_here(Traps::SELF_VECTOR) - before;
    check(taken == samples.rounds() as u64, "interrupts got lost")?;
    Ok(samples)
}

fn system_call(setting: &Setting<'_>) -> Outcome {
    // Linux's error for an unknown system call.
    const UNKNOWN: isize = -38;
    setting.repeat(|| Core::system_call(black_box(0)), |result| result == UNKNOWN)
}

fn timer() -> Result<Timer, alloc::string::String> {
    static FIRED: AtomicU64 = AtomicU64::new(0);
    Timer::new(&FIRED, |fired: &AtomicU64| fired.store(cycles(), Ordering::Relaxed)).map_err(text)
}

const LONG: Duration = Duration::from_secs(10);

fn timer_set(setting: &Setting<'_>) -> Outcome {
    let mut timer = timer()?;
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        let deadline = Deadline::after(LONG);
        let start = cycles();
        work(|| timer.set(deadline));
        samples.add(start, cycles());
        check(timer.cancel(), "a timer was not set")?;
    }
    Ok(samples)
}

fn timer_cancel(setting: &Setting<'_>) -> Outcome {
    let mut timer = timer()?;
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        timer.set(Deadline::after(LONG));
        let start = cycles();
        let cancelled = work(|| timer.cancel());
        samples.add(start, cycles());
        check(cancelled == Some(true), "a timer was not cancelled")?;
    }
    Ok(samples)
}

struct Lateness {
    at: AtomicU64,
    done: Event,
}

// SAFETY: the handler only stores to the atomic and signals the event, which takes only spin locks
// and never allocates.
unsafe impl kernel::wait::InterruptSafe for Lateness {}

fn timer_lateness(setting: &Setting<'_>) -> Outcome {
    static LATENESS: Lateness = Lateness { at: AtomicU64::new(0), done: Event::new() };
    let mut timer = Timer::new(&LATENESS, |lateness: &Lateness| {
        lateness.at.store(cycles(), Ordering::Relaxed);
        lateness.done.signal();
    })
    .map_err(text)?;
    LATENESS.done.reset();
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        let deadline = Deadline::after(Duration::from_micros(50));
        work(|| timer.set(deadline)).ok_or("no timer was set")?;
        // No deadline here: it would set a second timer.
        LATENESS.done.wait();
        let at = LATENESS.at.load(Ordering::Relaxed);
        check(at >= deadline.cycles(), "a timer fired early")?;
        samples.add(deadline.cycles(), at);
    }
    Ok(samples)
}
