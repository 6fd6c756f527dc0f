//! What a thread does alone: locks, memory, timers, interrupts.

use alloc::string::{String, ToString};
use core::alloc::Layout;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::{Architecture, Machine};
use kernel::memory::{self, Placement};
use kernel::time::{Deadline, Timer, cycles};
use kernel::wait::{Event, Mutex, Semaphore};

use crate::{Benchmark, Samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "empty", about: "nothing: what the method adds", cpus: 1, run: || Samples::of(|| ()) },
    Benchmark { name: "mutex", about: "mutex lock and unlock, uncontended", cpus: 1, run: mutex },
    Benchmark { name: "semaphore", about: "semaphore down and up, uncontended", cpus: 1, run: semaphore },
    Benchmark { name: "allocate-64", about: "allocate and free 64 B", cpus: 1, run: || allocate(64) },
    Benchmark { name: "allocate-4096", about: "allocate and free 4 KiB", cpus: 1, run: || allocate(4096) },
    Benchmark { name: "interrupt", about: "interrupt entry, empty handler, exit", cpus: 1, run: interrupt },
    Benchmark { name: "timer-set", about: "one-shot timer set", cpus: 1, run: timer_set },
    Benchmark { name: "timer-cancel", about: "one-shot timer cancelled", cpus: 1, run: timer_cancel },
    Benchmark {
        name: "timer-lateness",
        about: "from a one-shot's deadline to its function",
        cpus: 1,
        run: timer_lateness,
    },
];

fn check(condition: bool, what: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.to_string()) }
}

fn mutex() -> Result<Samples, String> {
    static COUNT: Mutex<u64> = Mutex::new(0);
    *COUNT.lock() = 0;
    let mut expected = 0;
    let samples = Samples::of(|| {
        *black_box(&COUNT).lock() += 1;
        expected += 1;
    })?;
    check(*COUNT.lock() == expected, "the mutex lost an update")?;
    Ok(samples)
}

fn semaphore() -> Result<Samples, String> {
    static SEMAPHORE: Semaphore = Semaphore::new(1);
    let samples = Samples::of(|| {
        let semaphore = black_box(&SEMAPHORE);
        semaphore.down();
        semaphore.up();
    })?;
    check(SEMAPHORE.value() == 1, "the semaphore's count changed")?;
    Ok(samples)
}

fn allocate(size: usize) -> Result<Samples, String> {
    let layout = Layout::from_size_align(size, 16).map_err(|error| error.to_string())?;
    let mut failed = false;
    let samples = Samples::of(|| match memory::allocate(black_box(layout), Placement::Near) {
        // SAFETY: just allocated with this layout.
        Ok(at) => unsafe { memory::free(black_box(at), layout) },
        Err(_) => failed = true,
    })?;
    check(!failed, "out of memory")?;
    Ok(samples)
}

fn interrupt() -> Result<Samples, String> {
    let before = kernel::interrupts::count_here(Machine::SELF_VECTOR);
    let samples = Samples::of(Machine::interrupt_self)?;
    let taken = kernel::interrupts::count_here(Machine::SELF_VECTOR) - before;
    check(taken >= crate::REPETITIONS as u64, "interrupts got lost")?;
    Ok(samples)
}

static FIRED: AtomicU64 = AtomicU64::new(0);

fn note_time(fired: &AtomicU64) {
    fired.store(cycles(), Ordering::Relaxed);
}

fn timer() -> Result<Timer, String> {
    Timer::new(&FIRED, note_time).map_err(|error| error.to_string())
}

const LONG: Duration = Duration::from_secs(10);

fn timer_set() -> Result<Samples, String> {
    let mut timer = timer()?;
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        let deadline = Deadline::after(LONG);
        let start = cycles();
        timer.set(deadline);
        samples.add(start, cycles());
        check(timer.cancel(), "a timer was not set")?;
    }
    Ok(samples)
}

fn timer_cancel() -> Result<Samples, String> {
    let mut timer = timer()?;
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        timer.set(Deadline::after(LONG));
        let start = cycles();
        let cancelled = timer.cancel();
        samples.add(start, cycles());
        check(cancelled, "a timer was not set")?;
    }
    Ok(samples)
}

struct Lateness {
    at: AtomicU64,
    done: Event,
}

// SAFETY: an atomic and an event.
unsafe impl kernel::wait::InterruptSafe for Lateness {}

fn timer_lateness() -> Result<Samples, String> {
    static LATENESS: Lateness = Lateness { at: AtomicU64::new(0), done: Event::new() };
    let mut timer = Timer::new(&LATENESS, |lateness: &Lateness| {
        lateness.at.store(cycles(), Ordering::Relaxed);
        lateness.done.signal();
    })
    .map_err(|error| error.to_string())?;
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        let deadline = Deadline::after(Duration::from_micros(50));
        timer.set(deadline);
        LATENESS.done.wait();
        let at = LATENESS.at.load(Ordering::Relaxed);
        check(at >= deadline.cycles(), "a timer fired early")?;
        samples.add(deadline.cycles(), at);
    }
    Ok(samples)
}
