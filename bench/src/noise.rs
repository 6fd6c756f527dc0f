//! Time stolen from a thread that only computes.

use core::time::Duration;

use kernel::time::ns_to_cycles;
use report::{compute, rounds_of};

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, cycles, work};

/// The benchmark.
pub const BENCHMARKS: &[Benchmark] = &[Benchmark {
    name: "noise",
    about: "stolen from each millisecond of a fixed amount of work, for 10 s",
    cpus: 1,
    run: noise,
}];

/// Duration of a piece of work when nothing is stolen.
const PIECE: Duration = Duration::from_millis(1);
/// Number of pieces.
const PIECES: usize = 10_000;

fn noise(setting: &Setting<'_>) -> Outcome {
    let rounds = rounds_of(ns_to_cycles(PIECE.as_nanos() as u64), cycles);
    let mut samples = setting.samples_of(PIECES)?;
    while !samples.is_complete() {
        let start = cycles();
        work(|| compute(rounds));
        let end = cycles();
        check(end - start >= rounds / 10, "the work was not done")?;
        samples.add(start, end);
        check(!(setting.interrupted)(), "interrupted")?;
    }
    samples.beyond_the_smallest();
    Ok(samples)
}
