//! Threads: creation, exit, switches, migration.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kernel::arch::*;
use kernel::cpu;
use kernel::memory::stack::{self, Keep};
use kernel::thread::{self, Builder};

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, cpu_after, cycles, finish, text, work};

/// The name of the benchmark that applies only where threads have vector state.
pub const WITH_VECTORS: &str = "context_switch_vectors";

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "thread_spawn", about: "spawn returns, warm", cpus: 1, run: spawn },
    Benchmark {
        name: "thread_spawn_cold",
        about: "spawn to the thread's first instruction, nothing to reuse",
        cpus: 1,
        run: |setting| first_instruction(setting, forget_threads),
    },
    Benchmark {
        name: "thread_spawn_first",
        about: "spawn to the thread's first instruction, warm",
        cpus: 1,
        run: |setting| first_instruction(setting, || ()),
    },
    Benchmark {
        name: "thread_create_join",
        about: "spawn, run empty, join, warm, same CPU",
        cpus: 1,
        run: |setting| create_join(setting, 0),
    },
    Benchmark {
        name: "thread_create_join_remote",
        about: "spawn, run empty, join, warm, other CPU",
        cpus: 2,
        run: |setting| create_join(setting, 1),
    },
    Benchmark {
        name: "thread_exit",
        about: "from a thread's last instruction to its joiner, same CPU",
        cpus: 1,
        run: exit,
    },
    Benchmark { name: "context_switch", about: "switch by yield, one way", cpus: 1, run: |s| switch(s, yield_plainly) },
    Benchmark {
        name: WITH_VECTORS,
        about: "the same, both with vector state to save, as when preempted",
        cpus: 1,
        run: |s| switch(s, yield_with_vectors),
    },
    Benchmark { name: "yield_alone", about: "yield with no other thread ready", cpus: 1, run: yield_alone },
    Benchmark { name: "migration_round_trip", about: "thread to another CPU and back", cpus: 2, run: migrate },
];

fn spawn(setting: &Setting<'_>) -> Outcome {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    RAN.store(0, Ordering::Relaxed);
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        let start = cycles();
        let handle = work(|| {
            thread::spawn("bench", || {
                RAN.fetch_add(1, Ordering::Relaxed);
            })
        });
        samples.add(start, cycles());
        handle.ok_or("no thread was made")?.map_err(text)?.join().map_err(text)?;
    }
    check(RAN.load(Ordering::Relaxed) == samples.rounds(), "a thread did not run")?;
    Ok(samples)
}

/// Frees everything that a new thread could reuse: dead threads, freed stacks, and the objects in
/// this CPU's caches.
fn forget_threads() {
    thread::empty_stock();
    stack::reclaim(Keep::None);
    kernel::memory::flush_this_cpus_caches();
}

fn first_instruction(setting: &Setting<'_>, prepare: fn()) -> Outcome {
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        prepare();
        let start = cycles();
        let handle = work(|| thread::spawn("bench", cycles)).ok_or("no thread was made")?.map_err(text)?;
        samples.add(start, handle.join().map_err(text)?);
    }
    Ok(samples)
}

fn create_join(setting: &Setting<'_>, steps: usize) -> Outcome {
    let target = cpu_after(steps);
    setting.repeat(
        || Builder::new("bench").cpu(target).spawn(cpu::this_index).map(thread::JoinHandle::join),
        |result| result == Ok(Ok(target)),
    )
}

fn exit(setting: &Setting<'_>) -> Outcome {
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        let handle = thread::spawn("bench", cycles).map_err(text)?;
        let last = work(|| handle.join());
        let end = cycles();
        samples.add(last.ok_or("no thread was joined")?.map_err(text)?, end);
    }
    Ok(samples)
}

#[inline(always)]
fn yield_plainly() {
    thread::yield_now();
}

#[inline(always)]
fn yield_with_vectors() {
    extern "C" fn give_way(_: usize) {
        thread::yield_now();
    }
    Vectors::keep(give_way, 0);
}

/// Times switches between two threads on one CPU.
#[inline(always)]
fn switch(setting: &Setting<'_>, yield_now: impl Fn() + Copy + Send + 'static) -> Outcome {
    static LEFT_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let partner = thread::spawn("bench", move || {
        let mut switches = 0;
        while !STOP.load(Ordering::Relaxed) {
            LEFT_AT.store(cycles(), Ordering::Relaxed);
            yield_now();
            switches += 1;
        }
        switches
    })
    .map_err(text)?;
    thread::yield_now();
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        work(yield_now);
        let now = cycles();
        samples.add(LEFT_AT.load(Ordering::Relaxed), now);
    }
    STOP.store(true, Ordering::Relaxed);
    let switches: usize = finish(partner)?;
    check(switches > samples.rounds(), "fewer switches happened than were measured")?;
    Ok(samples)
}

fn yield_alone(setting: &Setting<'_>) -> Outcome {
    setting.repeat_blindly(thread::yield_now)
}

fn migrate(setting: &Setting<'_>) -> Outcome {
    let (home, other) = (cpu_after(0), cpu_after(1));
    let samples = setting.repeat(
        || {
            let there = thread::migrate(other).map(|()| cpu::this_index());
            (there, thread::migrate(home))
        },
        |(there, back)| there == Ok(other) && back.is_ok() && cpu::this_index() == home,
    );
    thread::migrate(home).map_err(text)?;
    samples
}
