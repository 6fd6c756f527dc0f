//! A work-stealing fork-join runtime, and programs on it: on the Aerokernel and as a Linux process.
//!
//! - [`deque`], [`job`], [`worker`]: the runtime; [`parallel`]: its interface to programs.
//! - [`quicksort`], [`queens`], [`gradient`], [`bodies`]: the programs. Their results are the same,
//!   to the bit, with any number of workers and on both systems.
//! - [`latencies`]: the runtime's own cost.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod bodies;
pub mod deque;
pub mod gradient;
pub mod job;
pub mod latencies;
pub mod parallel;
pub mod queens;
pub mod quicksort;
pub mod worker;

/// The deque's atomics, which the model checker replaces by its own.
mod atomic {
    pub use core::sync::atomic::{AtomicIsize, AtomicPtr, Ordering, fence};
}

use platform::{cpu_count, cycles, say};
use worker::{Worker, run as with_workers};

platform::program!(run);

/// A program: its name, its default size, and the function that computes its result from the size.
type Program = (&'static str, usize, fn(&Worker, usize) -> u64);

const PROGRAMS: [Program; 4] = [
    ("quicksort", 200_000, quicksort::run),
    ("queens", 9, queens::run),
    ("gradient", 16, gradient::run),
    ("bodies", 256, bodies::run),
];

const USAGE: &str = "\
usage: forkjoin [NAME[:SIZE]] [WORKERS]
  NAME      quicksort (elements), queens (board), gradient (grid), bodies (number), latencies, or all
  WORKERS   number of workers, one per CPU; all CPUs if none is given";

/// Runs what the arguments ask for and returns the exit status.
pub fn run(arguments: &[&str]) -> i32 {
    let (name, size) = match arguments.get(1).copied().unwrap_or("all").split_once(':') {
        Some((name, size)) => (name, Some(size)),
        None => (arguments.get(1).copied().unwrap_or("all"), None),
    };
    let size = size.map(str::parse::<usize>);
    let workers = arguments.get(2).map_or(Ok(cpu_count()), |workers| workers.parse::<usize>());
    let (Ok(workers @ 1..=256), Ok(size)) = (workers, size.transpose()) else {
        say!("{USAGE}");
        return 2;
    };
    if name == "latencies" {
        latencies::run(workers);
        return 0;
    }
    let mut chosen = PROGRAMS.iter().filter(|program| name == "all" || program.0 == name).peekable();
    if chosen.peek().is_none() {
        say!("forkjoin: there is no program `{name}`\n{USAGE}");
        return 2;
    }
    for (name, default, program) in chosen {
        let size = size.unwrap_or(*default);
        let (result, took) = with_workers(workers, |worker| {
            let start = cycles();
            let result = program(worker, size);
            (result, cycles() - start)
        });
        say!("result {name}:{size} {result:016x}");
        say!("took {name}:{size} workers {workers} cycles {took}");
    }
    0
}

/// A random number generator (Marsaglia's xorshift64*), with the same sequence everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 0 to below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
