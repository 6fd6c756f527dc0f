//! Built-in latency benchmarks: what the kernel's primitives cost, in cycles of the time counter.
//!
//! Each benchmark times single operations, so that the spread can be seen, and checks that what it timed really
//! happened. The cost of reading the counter is measured first and subtracted. Under QEMU with
//! `-icount shift=0,sleep=off` a cycle is an executed guest instruction; the output says which of the two it is.
//!
//! - `harness`: how an operation is timed.
//! - `local`, `memory`, `threads`, `events`, `processors`, `contention`, `runtime`, `noise`: the benchmarks; `program_memory`: a program's blocks.
//! - `output`: tables and JSON. `scale`: the same with many CPUs and many threads.
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

use kernel::arch::{Architecture, Machine};
use kernel::scheduler::{self, Idle};
use report::{Meta, Row, WARM_UP};

use output::Rows;

#[cfg(feature = "hollow")]
/// Makes all benchmarks leave out what they measure, or not.
pub fn leave_work_out(left_out: bool) {
    harness::HOLLOW.store(left_out, Ordering::Relaxed);
}

pub use harness::{Outcome, Setting};
pub use output::Format;
pub use scale::{FEWEST_THREADS, run as scale};

/// A benchmark.
pub struct Benchmark {
    /// Its name, as typed.
    pub name: &'static str,
    /// What is timed.
    pub about: &'static str,
    /// CPUs it needs.
    pub cpus: usize,
    /// Runs it.
    pub run: fn(&Setting) -> Outcome,
}

/// All benchmarks of this architecture.
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
    let is_here = |benchmark: &&Benchmark| Machine::KEEPS_VECTORS || benchmark.name != threads::WITH_VECTORS;
    groups.into_iter().flatten().filter(is_here)
}

/// Why benchmarks were not run.
#[derive(Debug)]
pub enum BenchError {
    /// There is none of that name.
    Unknown(String),
    /// One failed, or its check did.
    Failed(&'static str, String),
    /// Another session measures.
    NotAlone,
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

/// The machine, as figures name it.
pub fn meta(setting: &Setting) -> Meta {
    let mut cpu = String::new();
    let _ = Machine::processor_name(&mut cpu);
    Meta {
        system: format!("Aerokernel {}", env!("CARGO_PKG_VERSION")),
        accelerator: Machine::accelerator().into(),
        cpu,
        cpus: kernel::cpu::count(),
        clock_hz: Machine::cycle_frequency_hz(),
        icount: setting.counter.counts_instructions,
        idle_polls: scheduler::idle_mode() == Idle::Poll,
        overhead: setting.counter.overhead,
        warm_up: WARM_UP,
    }
}

/// True if `name` was asked for: by its whole name, or by its beginning if no benchmark has that as its whole name.
fn is_wanted(name: &str, wanted: &[&str]) -> bool {
    let is_whole = |wanted: &str| all().any(|benchmark| benchmark.name == wanted);
    wanted.is_empty() || wanted.iter().any(|wanted| name == *wanted || name.starts_with(wanted) && !is_whole(wanted))
}

/// Runs the benchmarks called `names`, or whose names begin so, or all, and writes their results.
///
/// # Errors
/// See [`BenchError`].
pub fn run(names: &[&str], format: Format, interrupted: fn() -> bool, out: &mut dyn Write) -> Result<(), BenchError> {
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

/// The right to measure, which one has at a time: others would be measured too.
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
/// If the output cannot be written.
pub fn list(out: &mut dyn Write) -> fmt::Result {
    all().try_for_each(|benchmark| writeln!(out, "  {:<26} {}", benchmark.name, benchmark.about))
}
