//! Samples of a benchmark, and what is said of them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kernel::time::cycles;

use crate::{REPETITIONS, WARM_UP};

/// Durations in cycles, the counter's own cost subtracted.
pub struct Samples {
    values: Vec<u64>,
    overhead: u64,
    to_skip: usize,
}

/// What is said of samples, in cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Half are below.
    pub median: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// Smallest.
    pub minimum: u64,
    /// Largest.
    pub maximum: u64,
}

impl Samples {
    /// Room for all samples, so that adding one allocates nothing.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> Result<Self, String> {
        let mut values = Vec::new();
        values.try_reserve_exact(REPETITIONS).map_err(|_| "out of memory for the samples".to_string())?;
        Ok(Self { values, overhead: counter_overhead(), to_skip: WARM_UP })
    }

    /// Times `operation` once for each sample.
    ///
    /// # Errors
    /// Out of memory.
    #[inline(always)]
    pub fn of(mut operation: impl FnMut()) -> Result<Self, String> {
        let mut samples = Self::new()?;
        while !samples.is_complete() {
            let start = cycles();
            operation();
            let end = cycles();
            samples.add(start, end);
        }
        Ok(samples)
    }

    /// Adds a duration, unless it is still part of the warm-up.
    pub fn add(&mut self, start: u64, end: u64) {
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else if self.values.len() < REPETITIONS {
            self.values.push(end.saturating_sub(start).saturating_sub(self.overhead));
        }
    }

    /// True once there are enough.
    pub fn is_complete(&self) -> bool {
        self.values.len() == REPETITIONS
    }

    /// The statistics.
    pub fn statistics(mut self) -> Statistics {
        self.values.sort_unstable();
        let at = |percent: usize| {
            self.values.get((self.values.len() * percent / 100).min(self.values.len().saturating_sub(1)))
        };
        Statistics {
            median: at(50).copied().unwrap_or(0),
            p99: at(99).copied().unwrap_or(0),
            minimum: at(0).copied().unwrap_or(0),
            maximum: at(100).copied().unwrap_or(0),
        }
    }
}

/// Cycles between two readings with nothing between them: the smallest of many.
fn counter_overhead() -> u64 {
    (0..100)
        .map(|_| {
            let start = cycles();
            cycles().saturating_sub(start)
        })
        .min()
        .unwrap_or(0)
}
