//! Threads: making, ending, switching, moving them.

use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::cpu;
use kernel::memory::stack::{self, Keep};
use kernel::thread::{self, Builder};
use kernel::time::cycles;

use crate::{Benchmark, Samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "spawn", about: "thread spawn returns, warm", cpus: 1, run: spawn },
    Benchmark {
        name: "spawn-cold",
        about: "spawn to the thread's first instruction, nothing to reuse",
        cpus: 1,
        run: spawn_cold,
    },
    Benchmark { name: "spawn-join", about: "spawn, run empty, join, warm, same CPU", cpus: 1, run: || spawn_join(0) },
    Benchmark {
        name: "spawn-join-other",
        about: "spawn, run empty, join, warm, other CPU",
        cpus: 2,
        run: || spawn_join(1),
    },
    Benchmark { name: "yield", about: "context switch by yield, one way", cpus: 1, run: yield_switch },
    Benchmark { name: "migrate", about: "thread migration to another CPU and back", cpus: 2, run: migrate },
];

/// Index of the CPU `steps` after this one.
fn cpu_after(steps: usize) -> usize {
    (cpu::this_index() + steps) % cpu::limit()
}

fn spawn() -> Result<Samples, String> {
    static RAN: AtomicU64 = AtomicU64::new(0);
    RAN.store(0, Ordering::Relaxed);
    let mut samples = Samples::new()?;
    let mut spawned = 0;
    while !samples.is_complete() {
        let start = cycles();
        let handle = thread::spawn("bench", || {
            RAN.fetch_add(1, Ordering::Relaxed);
        });
        samples.add(start, cycles());
        handle.map_err(|error| error.to_string())?.join().map_err(|error| error.to_string())?;
        spawned += 1;
    }
    if RAN.load(Ordering::Relaxed) != spawned {
        return Err("a thread did not run".into());
    }
    Ok(samples)
}

fn spawn_cold() -> Result<Samples, String> {
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        thread::empty_stock();
        stack::reclaim(Keep::None);
        kernel::memory::flush_this_cpus_caches();
        let start = cycles();
        let handle = thread::spawn("bench", cycles).map_err(|error| error.to_string())?;
        samples.add(start, handle.join().map_err(|error| error.to_string())?);
    }
    Ok(samples)
}

fn spawn_join(steps: usize) -> Result<Samples, String> {
    let target = cpu_after(steps);
    let mut wrong = 0;
    let samples = Samples::of(|| {
        let handle = Builder::new("bench").cpu(target).spawn(|| 7u64);
        wrong += u64::from(handle.map(|handle| handle.join()) != Ok(Ok(7)));
    })?;
    if wrong > 0 { Err(format!("{wrong} threads failed")) } else { Ok(samples) }
}

fn yield_switch() -> Result<Samples, String> {
    static LEFT_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let partner = thread::spawn("bench", || {
        let mut switches = 0u64;
        while !STOP.load(Ordering::Relaxed) {
            LEFT_AT.store(cycles(), Ordering::Relaxed);
            thread::yield_now();
            switches += 1;
        }
        switches
    })
    .map_err(|error| error.to_string())?;
    thread::yield_now();
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        thread::yield_now();
        let now = cycles();
        samples.add(LEFT_AT.load(Ordering::Relaxed), now);
    }
    STOP.store(true, Ordering::Relaxed);
    let switches = partner.join().map_err(|error| error.to_string())?;
    if switches < crate::REPETITIONS as u64 {
        return Err(format!("only {switches} switches happened"));
    }
    Ok(samples)
}

fn migrate() -> Result<Samples, String> {
    let (home, other) = (cpu_after(0), cpu_after(1));
    let mut wrong = 0;
    let samples = Samples::of(|| {
        let there = thread::migrate(other);
        wrong += u64::from(there.is_err() || cpu::this_index() != other);
        let back = thread::migrate(home);
        wrong += u64::from(back.is_err() || cpu::this_index() != home);
    })?;
    if wrong > 0 { Err(format!("{wrong} migrations failed")) } else { Ok(samples) }
}
