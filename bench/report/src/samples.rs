//! Durations of single operations.

use alloc::vec::Vec;

use crate::Counter;

/// Timed repetitions of a benchmark that does not ask for another number.
pub const REPETITIONS: usize = 2_000;
/// Repetitions before, to warm caches of all kinds.
pub const WARM_UP: usize = 50;

/// Durations by a counter, its own cost subtracted.
pub struct Samples {
    values: Vec<u64>,
    wanted: usize,
    counter: Counter,
    unit: &'static str,
    warm_up: usize,
    to_skip: usize,
}

impl Samples {
    /// Room for `wanted` samples, so that adding one allocates nothing; `None` without memory.
    pub fn new(counter: Counter, wanted: usize) -> Option<Self> {
        Self::with_warm_up(counter, wanted, WARM_UP)
    }

    /// The same with another number of repetitions before.
    pub fn with_warm_up(counter: Counter, wanted: usize, warm_up: usize) -> Option<Self> {
        let mut values = Vec::new();
        values.try_reserve_exact(wanted).ok()?;
        Some(Self { values, wanted, counter, unit: counter.unit(), warm_up, to_skip: warm_up })
    }

    /// A single value that is no duration, and what it is counted in; `None` without memory.
    pub fn of_one(counter: Counter, value: u64, unit: &'static str) -> Option<Self> {
        let mut samples = Self::with_warm_up(counter, 1, 0)?;
        samples.unit = unit;
        samples.values.push(value);
        Some(samples)
    }

    /// How often an operation is done in all.
    pub fn rounds(&self) -> usize {
        self.wanted + self.warm_up
    }

    /// Adds the time between two readings, unless it is still part of the warm-up.
    pub fn add(&mut self, start: u64, end: u64) {
        self.add_duration(end.saturating_sub(start).saturating_sub(self.counter.overhead));
    }

    /// Adds the time of `operations` together, as that of each.
    pub fn add_shared(&mut self, start: u64, end: u64, operations: u64) {
        let together = end.saturating_sub(start).saturating_sub(self.counter.overhead);
        self.add_duration(together / operations.max(1));
    }

    /// Adds a duration from which the counter's cost is already gone.
    pub fn add_duration(&mut self, duration: u64) {
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else if self.values.len() < self.wanted {
            self.values.push(duration);
        }
    }

    /// True once there are enough.
    pub fn is_complete(&self) -> bool {
        self.values.len() == self.wanted
    }

    /// What its values are counted in.
    pub(crate) fn unit(&self) -> &'static str {
        self.unit
    }

    /// The durations, sorted.
    pub(crate) fn into_sorted(mut self) -> Vec<u64> {
        self.values.sort_unstable();
        self.values
    }

    /// The same durations, each as that of one of `parts`.
    pub fn divided_by(mut self, parts: u64) -> Self {
        self.values.iter_mut().for_each(|value| *value /= parts.max(1));
        self
    }

    /// Subtracts the smallest duration from all: of work that is always the same, what was stolen remains.
    pub fn beyond_the_smallest(&mut self) {
        let smallest = self.values.iter().copied().min().unwrap_or(0);
        self.values.iter_mut().for_each(|value| *value -= smallest);
    }
}
