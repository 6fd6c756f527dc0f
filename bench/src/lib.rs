//! Built-in latency benchmarks: the cost of the kernel's primitives, in cycles of the time counter.
//!
//! Each benchmark times single operations, so that the spread is visible, and checks that the timed
//! operations really happened. The cost of reading the counter is measured first and subtracted.
//! Under QEMU with `-icount shift=0,sleep=off` a cycle is an executed guest instruction; the output
//! says which of the two applies.
//!
//! - `harness`: the timing of operations.
//! - `local`, `memory`, `threads`, `events`, `processors`, `contention`, `runtime`, `noise`: the
//!   benchmarks; `program_memory`: those of a program's memory.
//! - `output`: tables and JSON. `scale`: scaling with CPUs and threads.
#![no_std]

extern crate alloc;

mod contention;
mod events;
mod harness;
mod local;
mod memory;
mod noise;
mod output;
mod processors;
mod program_memory;
mod runtime;
mod scale;
mod threads;

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use kernel::arch::*;
use kernel::scheduler::{self, Idle};
use report::{Meta, Row, WARM_UP};

use output::Rows;

#[cfg(feature = "hollow")]
/// Sets whether all benchmarks omit the work they measure, to test that each of them notices.
pub fn leave_work_out(left_out: bool) {
    harness::HOLLOW.store(left_out, Ordering::Relaxed);
}

pub use harness::{Interrupted, Outcome, Setting};
pub use output::Format;
pub use scale::{FEWEST_THREADS, run as scale};

/// A benchmark.
pub struct Benchmark {
    /// The benchmark's name, as typed.
    pub name: &'static str,
    /// A description of the timed operation.
    pub about: &'static str,
    /// The number of CPUs the benchmark needs.
    pub cpus: usize,
    /// The function that runs the benchmark.
    pub run: fn(&Setting<'_>) -> Outcome,
}

/// Returns all benchmarks that apply to this architecture.
pub fn all() -> impl Iterator<Item = &'static Benchmark> {
    let groups = [
        local::BENCHMARKS,
        memory::BENCHMARKS,
        program_memory::BENCHMARKS,
        threads::BENCHMARKS,
        events::BENCHMARKS,
        processors::BENCHMARKS,
        contention::BENCHMARKS,
        runtime::BENCHMARKS,
        noise::BENCHMARKS,
    ];
    let is_here = |benchmark: &&Benchmark| Vectors::ARE_USED || benchmark.name != threads::WITH_VECTORS;
    groups.into_iter().flatten().filter(is_here)
}

/// Why benchmarks did not run.
#[derive(Debug)]
pub enum BenchError {
    /// No benchmark has this name.
    Unknown(String),
    /// A benchmark, or its check, failed: its name and the reason.
    Failed(&'static str, String),
    /// Another session is measuring.
    NotAlone,
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Writing the output failed.
    Output,
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "there is no benchmark `{name}`; `bench list` lists them"),
            Self::Failed(name, reason) => write!(f, "{name}: {reason}"),
            Self::NotAlone => f.write_str("another session measures at the moment; wait for its end"),
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

/// Returns the description of the machine that accompanies figures.
pub fn meta(setting: &Setting<'_>) -> Meta {
    let mut cpu = String::new();
    let _ = Core::processor_name(&mut cpu);
    Meta {
        system: format!("Aerokernel {}", env!("CARGO_PKG_VERSION")),
        accelerator: Core::accelerator().into(),
        cpu,
        cpus: kernel::cpu::count(),
        clock_hz: Clock::frequency_hz(),
        icount: setting.counter.counts_instructions,
        idle_polls: scheduler::idle_mode() == Idle::Poll,
        overhead: setting.counter.overhead,
        warm_up: WARM_UP,
    }
}

/// Returns true if `name` is among `wanted`, or begins with one of them that is not itself a
/// benchmark's whole name. An empty `wanted` means all.
fn is_wanted(name: &str, wanted: &[&str]) -> bool {
    let is_whole = |wanted: &str| all().any(|benchmark| benchmark.name == wanted);
    wanted.is_empty() || wanted.iter().any(|wanted| name == *wanted || name.starts_with(wanted) && !is_whole(wanted))
}

/// Runs the benchmarks in `names`, or those whose names begin so, or all, and writes their results.
///
/// # Errors
/// See [`BenchError`].
pub fn run(
    names: &[&str],
    format: Format,
    interrupted: &Interrupted<'_>,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    if let Some(unknown) = names.iter().find(|name| !all().any(|benchmark| benchmark.name.starts_with(**name))) {
        return Err(BenchError::Unknown((*unknown).into()));
    }
    let _alone = Alone::claim()?;
    let setting = Setting::new(interrupted);
    let meta = meta(&setting);
    let mut rows = Rows::begin(&meta, format, out)?;
    let wanted = || all().filter(|benchmark| is_wanted(benchmark.name, names));
    let is_single = wanted().count() == 1;
    for benchmark in wanted() {
        if interrupted() {
            return Err(BenchError::Interrupted);
        }
        if benchmark.cpus > meta.cpus {
            if names.contains(&benchmark.name) {
                return Err(BenchError::Failed(benchmark.name, format!("it needs {} CPUs", benchmark.cpus)));
            }
            rows.remark(&format!("{:<26} needs {} CPUs", benchmark.name, benchmark.cpus))?;
            continue;
        }
        let samples = (benchmark.run)(&setting).map_err(|reason| BenchError::Failed(benchmark.name, reason))?;
        let row = Row::new(benchmark.name, benchmark.about, samples);
        rows.row(&row)?;
        if is_single {
            rows.histogram(&row)?;
        }
    }
    rows.end()?;
    Ok(())
}

/// The exclusive right to measure: two sessions at once would measure each other.
struct Alone;

static MEASURING: AtomicBool = AtomicBool::new(false);

impl Alone {
    fn claim() -> Result<Self, BenchError> {
        if MEASURING.swap(true, Ordering::Acquire) { Err(BenchError::NotAlone) } else { Ok(Self) }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        MEASURING.store(false, Ordering::Release);
    }
}

/// Lists the benchmarks.
///
/// # Errors
/// If writing the output fails.
pub fn list(out: &mut dyn Write) -> fmt::Result {
    all().try_for_each(|benchmark| writeln!(out, "  {:<26} {}", benchmark.name, benchmark.about))
}
