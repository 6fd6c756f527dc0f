//! Durations of single operations.

use alloc::vec::Vec;

use crate::Counter;

/// The default number of timed repetitions.
pub const REPETITIONS: usize = 2_000;
/// Repetitions before the timed ones, to warm up all caches.
pub const WARM_UP: usize = 50;

/// Durations measured by a counter, without the counter's own cost.
pub struct Samples {
    values: Vec<u64>,
    wanted: usize,
    counter: Counter,
    unit: &'static str,
    warm_up: usize,
    to_skip: usize,
}

impl Samples {
    /// Creates room for `wanted` samples, so that adding one allocates nothing; `None` if memory is
    /// short.
    pub fn new(counter: Counter, wanted: usize) -> Option<Self> {
        Self::with_warm_up(counter, wanted, WARM_UP)
    }

    /// Creates samples with another number of warm-up repetitions.
    pub fn with_warm_up(counter: Counter, wanted: usize, warm_up: usize) -> Option<Self> {
        let mut values = Vec::new();
        values.try_reserve_exact(wanted).ok()?;
        Some(Self { values, wanted, counter, unit: counter.unit(), warm_up, to_skip: warm_up })
    }

    /// Creates a single value that is not a duration, in `unit`; `None` if memory is short.
    pub fn of_one(counter: Counter, value: u64, unit: &'static str) -> Option<Self> {
        let mut samples = Self::with_warm_up(counter, 1, 0)?;
        samples.unit = unit;
        samples.values.push(value);
        Some(samples)
    }

    /// Returns the number of repetitions in total, the warm-up included.
    pub fn rounds(&self) -> usize {
        self.wanted + self.warm_up
    }

    /// Adds the time between two readings, unless it belongs to the warm-up.
    pub fn add(&mut self, start: u64, end: u64) {
        self.add_duration(end.saturating_sub(start).saturating_sub(self.counter.overhead));
    }

    /// Adds the average time of `operations` operations that were timed together.
    pub fn add_shared(&mut self, start: u64, end: u64, operations: u64) {
        let together = end.saturating_sub(start).saturating_sub(self.counter.overhead);
        self.add_duration(together / operations.max(1));
    }

    /// Adds a duration from which the counter's cost has been subtracted.
    pub fn add_duration(&mut self, duration: u64) {
        if self.to_skip > 0 {
            self.to_skip -= 1;
        } else if self.values.len() < self.wanted {
            self.values.push(duration);
        }
    }

    /// Returns true once there are enough samples.
    pub fn is_complete(&self) -> bool {
        self.values.len() == self.wanted
    }

    /// Returns the unit of the values.
    pub(crate) fn unit(&self) -> &'static str {
        self.unit
    }

    /// Returns the durations in ascending order.
    pub(crate) fn into_sorted(mut self) -> Vec<u64> {
        self.values.sort_unstable();
        self.values
    }

    /// Divides each duration by `parts`.
    pub fn divided_by(mut self, parts: u64) -> Self {
        self.values.iter_mut().for_each(|value| *value /= parts.max(1));
        self
    }

    /// Subtracts the smallest duration from all. For a fixed amount of work, the stolen time
    /// remains.
    pub fn beyond_the_smallest(&mut self) {
        let smallest = self.values.iter().copied().min().unwrap_or(0);
        self.values.iter_mut().for_each(|value| *value -= smallest);
    }
}
