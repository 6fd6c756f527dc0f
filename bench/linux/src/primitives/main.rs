//! Linux's primitives, measured like the Aerokernel's own (`bench/`), through the interfaces of C
//! programs: glibc and system calls.
//!
//! `primitives [NAME...]` prints a report as JSON. Threads are pinned and SCHED_FIFO, for which
//! Linux is fastest.
//!
//! - [`system`]: pinning, priorities, helpers on other CPUs.
//! - [`local`], [`memory`], [`threads`], [`waiting`], [`messages`], [`processes`], [`noise`]: the
//!   benchmarks.

mod local;
mod memory;
mod messages;
mod noise;
mod processes;
mod system;
mod threads;
mod waiting;

use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{Ordering, compiler_fence};

use report::{Counter, Meta, Row, Samples, WARM_UP};

/// Why a measurement failed.
type Error = Box<dyn std::error::Error>;
/// A benchmark's result.
type Outcome = Result<Samples, Error>;

/// A benchmark.
struct Benchmark {
    name: &'static str,
    cpus: usize,
    run: fn(Counter) -> Outcome,
}

const fn benchmark(name: &'static str, cpus: usize, run: fn(Counter) -> Outcome) -> Benchmark {
    Benchmark { name, cpus, run }
}

/// Reads the time counter, which Linux makes readable to processes. The compiler moves no memory
/// access across a reading.
#[inline(always)]
fn cycles() -> u64 {
    compiler_fence(Ordering::SeqCst);
    let now = arch_x64::cpu::model::cycles_in_order();
    compiler_fence(Ordering::SeqCst);
    now
}

/// Creates room for the usual number of samples.
fn samples(counter: Counter) -> Outcome {
    Samples::new(counter, report::REPETITIONS).ok_or_else(|| "out of memory for the samples".into())
}

/// Times an operation once per sample, and checks each result after its time is taken.
#[inline(always)]
fn repeat<R>(counter: Counter, mut operation: impl FnMut() -> R, mut is_right: impl FnMut(R) -> bool) -> Outcome {
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        let result = operation();
        let end = cycles();
        samples.add(start, end);
        if !is_right(result) {
            return Err("what was measured went wrong".into());
        }
    }
    Ok(samples)
}

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names == [processes::NOTHING] {
        return ExitCode::SUCCESS;
    }
    match run(&names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("primitives: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(names: &[String]) -> Result<(), Error> {
    let cpus = system::cpu_count();
    system::favour_latency()?;
    system::pin(0)?;
    system::be_real_time()?;
    let counter = Counter::examine(cycles, cycles);
    println!("{{\"meta\": {}{}", meta(counter, cpus)?, report::BEGIN);
    let groups = [
        local::BENCHMARKS,
        memory::BENCHMARKS,
        threads::BENCHMARKS,
        waiting::BENCHMARKS,
        messages::BENCHMARKS,
        processes::BENCHMARKS,
        noise::BENCHMARKS,
    ];
    let mut comma = "";
    for benchmark in groups.into_iter().flatten() {
        let is_wanted = names.is_empty() || names.iter().any(|name| name == benchmark.name);
        if is_wanted && benchmark.cpus <= cpus {
            let samples = (benchmark.run)(counter).map_err(|error| format!("{}: {error}", benchmark.name))?;
            print!("{comma}{}", Row::new(benchmark.name, "", samples));
            comma = ",\n";
        }
    }
    println!("{}", report::END);
    Ok(())
}

fn meta(counter: Counter, cpus: usize) -> Result<Meta, Error> {
    let mut cpu = String::new();
    arch_x64::cpu::identity::processor_name(&mut cpu)?;
    Ok(Meta {
        system: format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()),
        accelerator: arch_x64::cpu::identity::accelerator().into(),
        cpu,
        cpus,
        clock_hz: system::counter_frequency(cycles),
        icount: counter.counts_instructions,
        idle_polls: fs::read_to_string("/proc/cmdline")?.split_whitespace().any(|word| word == "idle=poll"),
        overhead: counter.overhead,
        warm_up: WARM_UP,
    })
}
