//! Contended locks.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernel::arch::*;
use kernel::cpu;
use kernel::lock::SpinLock;
use kernel::thread::{Builder, JoinHandle};
use kernel::wait::Mutex;

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, cpu_after, cycles, finish, spin_for, text, work};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "mutex_contended_2",
        about: "mutex lock and unlock, another CPU doing the same",
        cpus: 2,
        run: |setting| contend::<Mutex<u64>>(setting, 2),
    },
    Benchmark {
        name: "mutex_contended_all",
        about: "mutex lock and unlock, all CPUs doing the same",
        cpus: 2,
        run: |setting| contend::<Mutex<u64>>(setting, cpu::count()),
    },
    Benchmark {
        name: "spinlock_contended_2",
        about: "spin lock and unlock, another CPU doing the same",
        cpus: 2,
        run: |setting| contend::<SpinLock<u64>>(setting, 2),
    },
    Benchmark {
        name: "spinlock_contended_all",
        about: "spin lock and unlock, all CPUs doing the same",
        cpus: 2,
        run: |setting| contend::<SpinLock<u64>>(setting, cpu::count()),
    },
];

/// A lock around a counter.
trait Counting: Send + Sync + 'static {
    fn new() -> Self;
    /// Increments the counter, holding the lock long enough for other CPUs to contend.
    fn add(&self) -> u64;
    fn count(&self) -> u64;
}

/// Keeps the lock held for a moment, in which an emulator runs the other CPUs.
fn hold() {
    Core::spin_hint();
}

/// Implements `Counting` for a lock; both locks have these methods, but no common trait.
macro_rules! count_with {
    ($lock:ident) => {
        impl Counting for $lock<u64> {
            fn new() -> Self {
                Self::new(0)
            }

            #[inline(always)]
            fn add(&self) -> u64 {
                let mut guard = self.lock();
                hold();
                *guard += 1;
                *guard
            }

            fn count(&self) -> u64 {
                *self.lock()
            }
        }
    };
}
count_with!(Mutex);
count_with!(SpinLock);

struct Contest<L> {
    lock: L,
    stop: AtomicBool,
    running: AtomicUsize,
}

fn contend<L: Counting>(setting: &Setting<'_>, contenders: usize) -> Outcome {
    let contest = Arc::new(Contest { lock: L::new(), stop: AtomicBool::new(false), running: AtomicUsize::new(0) });
    let mut others: Vec<JoinHandle<u64>> = Vec::new();
    let mut result: Result<(), String> = Ok(());
    for steps in 1..contenders {
        let theirs = contest.clone();
        let other = Builder::new("bench").cpu(cpu_after(steps)).spawn(move || {
            theirs.running.fetch_add(1, Ordering::Relaxed);
            let mut times = 0;
            while !theirs.stop.load(Ordering::Relaxed) {
                theirs.lock.add();
                times += 1;
                Core::spin_hint();
            }
            times
        });
        match other {
            Ok(other) => others.push(other),
            Err(error) => result = Err(text(error)),
        }
    }
    let started = spin_for("a CPU does not run threads", || contest.running.load(Ordering::Relaxed) == others.len());
    result = result.and(started);
    let mut samples = setting.samples()?;
    let (mut ours, mut seen) = (0, 0);
    while !samples.is_complete() && result.is_ok() {
        let start = cycles();
        let count = work(|| contest.lock.add());
        samples.add(start, cycles());
        Core::spin_hint();
        ours += 1;
        result = check(count.is_some_and(|count| count > seen), "the lock did not lock");
        seen = count.unwrap_or(0);
    }
    contest.stop.store(true, Ordering::Relaxed);
    let mut theirs = 0;
    for other in others {
        theirs += finish(other)?;
    }
    result?;
    check(contest.lock.count() == ours + theirs, "the lock let two in at once")?;
    Ok(samples)
}
