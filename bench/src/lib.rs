//! Built-in latency benchmarks: what the kernel's primitives cost, in cycles of the time counter.
//!
//! Each benchmark times single operations, so that the spread can be seen, and checks that what it timed really
//! happened. The cost of reading the counter is measured first and subtracted. Under QEMU with
//! `-icount shift=0,sleep=off` a cycle is an executed guest instruction.
#![no_std]

extern crate alloc;

mod communication;
mod local;
mod runtime;
mod sample;
mod threads;

use alloc::string::String;
use core::fmt::{self, Write};

pub use sample::{Samples, Statistics};

/// Timed repetitions of each benchmark.
pub const REPETITIONS: usize = 1_000;
/// Repetitions before, to warm caches of all kinds.
pub const WARM_UP: usize = 50;

/// A benchmark.
pub struct Benchmark {
    /// Its name, as typed.
    pub name: &'static str,
    /// What is timed.
    pub about: &'static str,
    /// CPUs it needs.
    pub cpus: usize,
    /// Runs it.
    pub run: fn() -> Result<Samples, String>,
}

/// All benchmarks.
pub fn all() -> impl Iterator<Item = &'static Benchmark> {
    [local::BENCHMARKS, threads::BENCHMARKS, communication::BENCHMARKS, runtime::BENCHMARKS].into_iter().flatten()
}

/// Why benchmarks were not run.
#[derive(Debug)]
pub enum BenchError {
    /// There is none of that name.
    Unknown(String),
    /// One failed, or its check did.
    Failed(&'static str, String),
    /// Ctrl-C.
    Interrupted,
    /// The output could not be written.
    Output,
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "there is no benchmark `{name}`; `bench list` lists them"),
            Self::Failed(name, reason) => write!(f, "{name}: {reason}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Output => f.write_str("the output could not be written"),
        }
    }
}

impl From<fmt::Error> for BenchError {
    fn from(_: fmt::Error) -> Self {
        Self::Output
    }
}

/// Runs the benchmarks whose names begin with one of `names`, or all, and writes a table.
///
/// # Errors
/// See [`BenchError`].
pub fn run(names: &[&str], interrupted: fn() -> bool, out: &mut dyn Write) -> Result<(), BenchError> {
    if let Some(unknown) = names.iter().find(|name| !all().any(|benchmark| benchmark.name.starts_with(**name))) {
        return Err(BenchError::Unknown((*unknown).into()));
    }
    let cpus = kernel::cpu::count();
    writeln!(
        out,
        "{:<22} {:>8} {:>8} {:>8} {:>8}  cycles, {REPETITIONS} times",
        "benchmark", "median", "p99", "min", "max"
    )?;
    for benchmark in all() {
        if !names.is_empty() && !names.iter().any(|name| benchmark.name.starts_with(name)) {
            continue;
        }
        if interrupted() {
            return Err(BenchError::Interrupted);
        }
        if benchmark.cpus > cpus {
            writeln!(out, "{:<22} needs {} CPUs", benchmark.name, benchmark.cpus)?;
            continue;
        }
        let samples = (benchmark.run)().map_err(|reason| BenchError::Failed(benchmark.name, reason))?;
        let statistics = samples.statistics();
        writeln!(
            out,
            "{:<22} {:>8} {:>8} {:>8} {:>8}  {}",
            benchmark.name, statistics.median, statistics.p99, statistics.minimum, statistics.maximum, benchmark.about
        )?;
    }
    Ok(())
}

/// Lists the benchmarks.
///
/// # Errors
/// If the output cannot be written.
pub fn list(out: &mut dyn Write) -> fmt::Result {
    all().try_for_each(|benchmark| writeln!(out, "  {:<22} {}", benchmark.name, benchmark.about))
}
