//! Time stolen from a thread that only computes, measured like the Aerokernel's.

use report::{Counter, Samples, compute, rounds_of};

use crate::{Benchmark, Outcome, benchmark, cycles};

/// The benchmark.
pub const BENCHMARKS: &[Benchmark] = &[benchmark("noise", 1, noise)];

/// Number of pieces of work, a millisecond each.
const PIECES: usize = 10_000;

fn noise(counter: Counter) -> Outcome {
    let millisecond = crate::system::counter_frequency(cycles) / 1_000;
    let rounds = rounds_of(millisecond, cycles);
    let mut samples = Samples::with_warm_up(counter, PIECES, report::WARM_UP).ok_or("out of memory for the samples")?;
    while !samples.is_complete() {
        let start = cycles();
        compute(rounds);
        samples.add(start, cycles());
    }
    samples.beyond_the_smallest();
    Ok(samples)
}
