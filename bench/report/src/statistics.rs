//! Statistics of durations.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::Samples;

/// A number with three decimals, without floating point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(from = "f64", into = "f64"))]
pub struct Decimal {
    /// The number times 1,000.
    pub thousandths: u64,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.thousandths / 1000, self.thousandths % 1000)
    }
}

#[cfg(feature = "serde")]
impl From<f64> for Decimal {
    fn from(value: f64) -> Self {
        Self { thousandths: (value * 1000.0 + 0.5) as u64 }
    }
}

#[cfg(feature = "serde")]
impl From<Decimal> for f64 {
    fn from(value: Decimal) -> Self {
        value.thousandths as f64 / 1000.0
    }
}

/// A benchmark's result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Row {
    /// The benchmark's name.
    pub name: String,
    /// A description of the measured operation, for people.
    #[cfg_attr(feature = "serde", serde(default))]
    pub about: String,
    /// The unit: `instructions`, `cycles` or [`PERMILLE`](crate::PERMILLE).
    pub unit: String,
    /// The number of durations.
    pub count: usize,
    /// The smallest duration.
    pub min: u64,
    /// The median.
    pub median: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The largest duration.
    pub max: u64,
    /// The standard deviation.
    pub stddev: Decimal,
    /// The mean, which tells more than the median where durations are of two kinds.
    #[cfg_attr(feature = "serde", serde(default))]
    pub mean: Decimal,
    /// The smallest value of each non-empty class, and the number of durations in it. A class is a
    /// single value below 16, and an eighth of a power of two above.
    pub histogram: Vec<(u64, u64)>,
}

/// The number of classes per power of two, as a binary logarithm.
const CLASS_BITS: u32 = 3;

/// Returns the smallest value in the class of `value`.
fn class_of(value: u64) -> u64 {
    if value < 2 << CLASS_BITS {
        return value;
    }
    let shift = value.ilog2() - CLASS_BITS;
    value >> shift << shift
}

impl Row {
    /// Returns true if more is better, as for a share of the memory; for durations less is better.
    pub fn is_share(&self) -> bool {
        self.unit == crate::PERMILLE
    }

    /// Computes the statistics of samples.
    pub fn new(name: &str, about: &str, samples: Samples) -> Self {
        let unit = samples.unit();
        let sorted = samples.into_sorted();
        // A percentile by nearest rank: the smallest value that so many thousandths do not exceed.
        let at = |thousandths: usize| {
            let rank = (sorted.len() * thousandths).div_ceil(1000);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        let mut histogram: Vec<(u64, u64)> = Vec::new();
        for &value in &sorted {
            let class = class_of(value);
            match histogram.last_mut() {
                Some((last, number)) if *last == class => *number += 1,
                _ => histogram.push((class, 1)),
            }
        }
        Self {
            name: name.into(),
            about: about.into(),
            unit: unit.into(),
            count: sorted.len(),
            min: at(0),
            median: at(500),
            p95: at(950),
            p99: at(990),
            p999: at(999),
            max: at(1000),
            stddev: standard_deviation(&sorted),
            mean: mean(&sorted),
            histogram,
        }
    }
}

fn mean(values: &[u64]) -> Decimal {
    let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
    let thousandths = sum.saturating_mul(1000).checked_div(values.len() as u128).unwrap_or(0);
    Decimal { thousandths: u64::try_from(thousandths).unwrap_or(u64::MAX) }
}

fn standard_deviation(values: &[u64]) -> Decimal {
    let count = values.len() as u128;
    if count == 0 {
        return Decimal::default();
    }
    // The variance times a million: (sum of squares / n - (sum / n)^2), exact within 128 bits.
    let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
    let squares = values.iter().fold(0u128, |all, &value| all.saturating_add(u128::from(value) * u128::from(value)));
    let scaled = squares.saturating_mul(count).saturating_sub(sum.saturating_mul(sum));
    let variance = scaled.saturating_mul(1_000_000) / (count * count);
    Decimal { thousandths: u64::try_from(variance.isqrt()).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{Counter, WARM_UP};

    fn row(values: impl IntoIterator<Item = u64>) -> Row {
        let counter = Counter { read: || 0, overhead: 2, counts_instructions: true };
        let values: Vec<u64> = values.into_iter().collect();
        let mut samples = Samples::new(counter, values.len()).expect("memory");
        (0..WARM_UP).for_each(|_| samples.add(0, 1_000_000));
        values.iter().for_each(|value| samples.add(100, 102 + value));
        assert!(samples.is_complete());
        Row::new("a", "", samples)
    }

    #[test]
    fn percentiles_are_by_rank() {
        let row = row((1..=1000).rev());
        assert_eq!((row.count, row.min, row.median, row.p95), (1000, 1, 500, 950));
        assert_eq!((row.p99, row.p999, row.max), (990, 999, 1000));
        // For the numbers 1 to n, the deviation is the root of (n^2 - 1) / 12.
        assert_eq!(std::format!("{}", row.stddev), "288.674");
        assert_eq!(row.histogram.iter().map(|class| class.1).sum::<u64>(), 1000);
        assert!(row.histogram.is_sorted());
    }

    #[test]
    fn few_and_equal_values() {
        let one = row([7]);
        assert_eq!((one.min, one.median, one.p999, one.max, one.stddev.thousandths), (7, 7, 7, 7, 0));
        assert_eq!(one.histogram, [(7, 1)]);
        let two = row([10, 20]);
        assert_eq!((two.median, two.p95, two.stddev.thousandths), (10, 20, 5_000));
        assert_eq!(two.mean.thousandths, 15_000);
    }

    #[test]
    fn classes_are_an_eighth_of_a_power_of_two() {
        assert_eq!(class_of(15), 15);
        assert_eq!(class_of(16), 16);
        assert_eq!(class_of(17), 16);
        assert_eq!(class_of(255), 240);
        assert_eq!(class_of(u64::MAX), 0xf << 60);
    }

    #[test]
    fn huge_values_are_no_panic() {
        assert!(row([0, u64::MAX - 200]).stddev.thousandths > 0);
    }
}
