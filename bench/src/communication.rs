//! Between threads and between CPUs.

use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::arch::{Architecture, Machine};
use kernel::thread::{self, Builder, JoinHandle};
use kernel::time::{Deadline, cycles};
use kernel::wait::{Condition, Event, Mutex};
use kernel::{call, cpu, interrupts};

use crate::{Benchmark, Samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "event", about: "event signal to waiter running, same CPU", cpus: 1, run: event_same_cpu },
    Benchmark {
        name: "event-other",
        about: "event signal to waiter running, other CPU asleep",
        cpus: 2,
        run: event_other_cpu,
    },
    Benchmark { name: "condition", about: "condition signal to waiter running, same CPU", cpus: 1, run: condition },
    Benchmark { name: "ipi", about: "IPI round trip, target spinning", cpus: 2, run: ipi },
    Benchmark { name: "call", about: "remote call, waiting, target spinning", cpus: 2, run: remote_call },
];

/// Longest wait for the other side before the benchmark counts as failed.
const LIMIT: core::time::Duration = core::time::Duration::from_secs(5);

fn other_cpu() -> usize {
    (cpu::this_index() + 1) % cpu::limit()
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn event_same_cpu() -> Result<Samples, String> {
    event_on(cpu::this_index(), thread::yield_now)
}

fn event_other_cpu() -> Result<Samples, String> {
    event_on(other_cpu(), || ())
}

/// Signals a waiter on a CPU; `give_way` lets it run if it shares ours.
fn event_on(cpu: usize, give_way: fn()) -> Result<Samples, String> {
    static SIGNAL: Event = Event::new();
    static ANSWER: Event = Event::new();
    static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    SIGNAL.reset();
    ANSWER.reset();
    let waiter = Builder::new("bench")
        .cpu(cpu)
        .spawn(|| {
            loop {
                SIGNAL.wait();
                WOKEN_AT.store(cycles(), Ordering::Relaxed);
                if STOP.load(Ordering::Relaxed) {
                    return;
                }
                ANSWER.signal();
            }
        })
        .map_err(text)?;
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        wait_until_blocked(&waiter)?;
        let start = cycles();
        SIGNAL.signal();
        give_way();
        ANSWER.wait();
        samples.add(start, WOKEN_AT.load(Ordering::Relaxed));
    }
    STOP.store(true, Ordering::Relaxed);
    SIGNAL.signal();
    waiter.join().map_err(text)?;
    Ok(samples)
}

/// Waits until a thread sleeps and its CPU too, if that is another one.
fn wait_until_blocked<T>(thread: &JoinHandle<T>) -> Result<(), String> {
    let deadline = Deadline::after(LIMIT);
    while thread.thread().state() != thread::State::Blocked {
        if deadline.has_passed() {
            return Err("the waiter does not wait".into());
        }
        // Sleeping lets the other CPU run under any emulator, and reach its idle loop.
        thread::sleep(core::time::Duration::from_micros(20));
    }
    thread::sleep(core::time::Duration::from_micros(20));
    Ok(())
}

fn condition() -> Result<Samples, String> {
    static ROUND: Mutex<(u64, bool)> = Mutex::new((0, false));
    static CHANGED: Condition = Condition::new();
    static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
    *ROUND.lock() = (0, false);
    let waiter = thread::spawn("bench", || {
        let mut guard = ROUND.lock();
        let mut wakeups = 0u64;
        while !guard.1 {
            let before = guard.0;
            guard = CHANGED.wait(guard);
            WOKEN_AT.store(cycles(), Ordering::Relaxed);
            wakeups += guard.0 - before;
        }
        wakeups
    })
    .map_err(text)?;
    let mut samples = Samples::new()?;
    let mut rounds = 0;
    while !samples.is_complete() {
        wait_until_blocked(&waiter)?;
        ROUND.lock().0 += 1;
        rounds += 1;
        let start = cycles();
        CHANGED.signal();
        thread::yield_now();
        samples.add(start, WOKEN_AT.load(Ordering::Relaxed));
    }
    wait_until_blocked(&waiter)?;
    ROUND.lock().1 = true;
    CHANGED.signal();
    let wakeups = waiter.join().map_err(text)?;
    if wakeups != rounds { Err(format!("{wakeups} wake-ups for {rounds} signals")) } else { Ok(samples) }
}

/// A thread that keeps another CPU spinning.
struct Spinner {
    handle: JoinHandle<()>,
}

static SPIN: AtomicBool = AtomicBool::new(false);

impl Spinner {
    fn start() -> Result<Self, String> {
        static RUNS: AtomicBool = AtomicBool::new(false);
        SPIN.store(true, Ordering::Relaxed);
        RUNS.store(false, Ordering::Relaxed);
        let handle = Builder::new("bench-spinner")
            .cpu(other_cpu())
            .spawn(|| {
                RUNS.store(true, Ordering::Relaxed);
                while SPIN.load(Ordering::Relaxed) {
                    Machine::spin_hint();
                }
            })
            .map_err(text)?;
        if kernel::time::spin_until(LIMIT, || RUNS.load(Ordering::Relaxed)) {
            Ok(Self { handle })
        } else {
            Err("the other CPU does not run threads".into())
        }
    }

    fn stop(self) -> Result<(), String> {
        SPIN.store(false, Ordering::Relaxed);
        self.handle.join().map_err(text)
    }
}

fn ipi() -> Result<Samples, String> {
    static ARRIVED: AtomicU64 = AtomicU64::new(0);
    let vector = interrupts::register_vector(&ARRIVED, |arrived: &AtomicU64| {
        arrived.store(arrived.load(Ordering::Relaxed) + 1, Ordering::Release);
    })
    .map_err(text)?;
    ARRIVED.store(0, Ordering::Relaxed);
    let spinner = Spinner::start()?;
    let target = other_cpu();
    let mut samples = Samples::new()?;
    let mut result = Ok(());
    let mut round = 0;
    while !samples.is_complete() && result.is_ok() {
        round += 1;
        let start = cycles();
        result = call::send_ipi(target, vector).map_err(text);
        while ARRIVED.load(Ordering::Acquire) != round && result.is_ok() {
            Machine::spin_hint();
            if cycles() > start + 10_000_000_000 {
                result = Err("an IPI got lost".into());
            }
        }
        samples.add(start, cycles());
    }
    spinner.stop()?;
    interrupts::unregister_vector(vector);
    result.map(|()| samples)
}

fn remote_call() -> Result<Samples, String> {
    static RAN: AtomicU64 = AtomicU64::new(0);
    RAN.store(0, Ordering::Relaxed);
    let spinner = Spinner::start()?;
    let target = other_cpu();
    let mut calls = 0;
    let mut failed = 0;
    let samples = Samples::of(|| {
        calls += 1;
        let run = || {
            RAN.fetch_add(1, Ordering::Relaxed);
        };
        failed += u64::from(call::on(target, run, call::DEFAULT_LIMIT).is_err());
    })?;
    spinner.stop()?;
    let ran = RAN.load(Ordering::Relaxed);
    if failed > 0 || ran != calls { Err(format!("{ran} of {calls} calls ran")) } else { Ok(samples) }
}
