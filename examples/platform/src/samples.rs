//! Latencies in cycles, and their report.

use alloc::vec::Vec;

use crate::{cycles, say};

/// Latencies of one kind.
pub struct Samples {
    values: Vec<u64>,
    /// The cost of reading the counter twice.
    overhead: u64,
}

/// The number of warm-up samples, which do not count.
const WARM_UP: usize = 100;
/// The number of samples that count.
const COUNT: usize = 1000;

impl Samples {
    /// Creates an empty set of samples.
    pub fn new() -> Self {
        let overhead = (0..100).map(|_| {
            let start = cycles();
            cycles() - start
        });
        Self { values: Vec::with_capacity(WARM_UP + COUNT), overhead: overhead.min().unwrap_or(0) }
    }

    /// Returns the number of samples to take, the warm-up included.
    pub const fn wanted() -> usize {
        WARM_UP + COUNT
    }

    /// Adds a sample; does not allocate up to [`Samples::wanted`] samples.
    #[inline(always)]
    pub fn add(&mut self, start: u64, end: u64) {
        self.values.push(end.saturating_sub(start));
    }

    /// Prints `latency NAME COUNT MIN MEDIAN P95 P99 MAX`, in cycles.
    pub fn report(mut self, name: &str) {
        let mut values = self.values.split_off(WARM_UP.min(self.values.len()));
        values.iter_mut().for_each(|value| *value = value.saturating_sub(self.overhead));
        values.sort_unstable();
        let Some(last) = values.len().checked_sub(1) else { return say!("latency {name} has no samples") };
        let at = |permille: usize| values[last * permille / 1000];
        say!("latency {name} {} {} {} {} {} {}", values.len(), values[0], at(500), at(950), at(990), values[last]);
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self::new()
    }
}
