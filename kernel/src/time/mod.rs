//! The clock in nanoseconds since the image was entered, deadlines, and one-shot timers.

pub mod timer;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::arch::*;
pub use timer::Timer;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// Number of fraction bits of the conversion factors.
const SHIFT: u32 = 32;

/// The time counter at time 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per cycle, times 2^32.
static NS_PER_CYCLE: AtomicU64 = AtomicU64::new(1 << SHIFT);
/// Cycles per nanosecond, times 2^32.
static CYCLES_PER_NS: AtomicU64 = AtomicU64::new(1 << SHIFT);

/// Starts the clock. The boot CPU calls this once.
pub(crate) fn init(epoch_cycles: u64) {
    let frequency = Clock::frequency_hz().max(1);
    EPOCH.store(epoch_cycles, Ordering::Relaxed);
    NS_PER_CYCLE.store(ratio(NANOSECONDS_PER_SECOND, frequency), Ordering::Relaxed);
    CYCLES_PER_NS.store(ratio(frequency, NANOSECONDS_PER_SECOND), Ordering::Relaxed);
}

fn ratio(numerator: u64, denominator: u64) -> u64 {
    ((u128::from(numerator) << SHIFT) / u128::from(denominator)) as u64
}

#[inline(always)]
fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> SHIFT) as u64
}

/// Like [`scale`], but returns the largest number if the result does not fit.
#[inline(always)]
fn scale_saturating(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> SHIFT).unwrap_or(u64::MAX)
}

/// Returns the nanoseconds since the image was entered. The clock never goes back on one CPU.
#[inline]
pub fn now_ns() -> u64 {
    cycles_to_ns(Core::cycles().wrapping_sub(EPOCH.load(Ordering::Relaxed)))
}

/// Returns the CPU's time counter, in cycles of [`cycle_frequency_hz`].
#[inline(always)]
pub fn cycles() -> u64 {
    Core::cycles()
}

/// Returns the rate of [`cycles`] in Hz.
pub fn cycle_frequency_hz() -> u64 {
    Clock::frequency_hz()
}

/// Returns the time counter at the moment the image was entered.
pub fn epoch_cycles() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// Converts a value of [`cycles`] to nanoseconds since the image was entered.
pub fn cycles_since_epoch_to_ns(cycles: u64) -> u64 {
    cycles_to_ns(cycles.saturating_sub(EPOCH.load(Ordering::Relaxed)))
}

/// Converts a number of cycles to nanoseconds.
#[inline(always)]
pub fn cycles_to_ns(cycles: u64) -> u64 {
    scale(cycles, NS_PER_CYCLE.load(Ordering::Relaxed))
}

/// Converts a number of nanoseconds to cycles, or to the largest number if the result does not fit.
#[inline(always)]
pub fn ns_to_cycles(nanoseconds: u64) -> u64 {
    scale_saturating(nanoseconds, CYCLES_PER_NS.load(Ordering::Relaxed))
}

/// The time at which a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    cycles: u64,
}

impl Deadline {
    /// Never passes.
    pub const NEVER: Self = Self { cycles: u64::MAX };
    /// Already passed: a wait with this deadline only polls.
    pub const NOW: Self = Self { cycles: 0 };

    /// Returns the deadline `duration` from now.
    pub fn after(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { cycles: Core::cycles().saturating_add(ns_to_cycles(nanoseconds)) }
    }

    /// Returns the deadline at which [`cycles`] reaches this value.
    pub const fn at_cycles(cycles: u64) -> Self {
        Self { cycles }
    }

    /// Returns the deadline at which [`now_ns`] reaches this value.
    pub fn at_ns(nanoseconds: u64) -> Self {
        Self { cycles: EPOCH.load(Ordering::Relaxed).saturating_add(ns_to_cycles(nanoseconds)) }
    }

    /// Returns the deadline as a value of [`cycles`].
    pub const fn cycles(self) -> u64 {
        self.cycles
    }

    /// Returns true once the deadline has passed.
    pub fn has_passed(self) -> bool {
        Core::cycles() >= self.cycles
    }
}

/// Polls `condition` without sleeping until it holds or `limit` has passed. Returns whether it
/// held.
pub fn spin_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(limit);
    loop {
        if condition() {
            return true;
        }
        if deadline.has_passed() {
            return false;
        }
        Core::spin_hint();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// At every clock rate a later time is a later deadline, exact to the resolution of the
        /// factor.
        #[test]
        fn times_do_not_wrap(hz in 1_000_000u64..10_000_000_000, ns in any::<u64>(), more in any::<u64>()) {
            let factor = ratio(hz, NANOSECONDS_PER_SECOND);
            let cycles = scale_saturating(ns, factor);
            prop_assert!(scale_saturating(ns.saturating_add(more), factor) >= cycles);
            let exact = u128::from(ns) * u128::from(hz) / u128::from(NANOSECONDS_PER_SECOND);
            let error = exact.min(u64::MAX.into()) - u128::from(cycles);
            prop_assert!(error <= (exact >> 20) + 1, "{cycles} instead of {exact}");
        }

        /// The lifetime of a machine, 50 years, fits in nanoseconds.
        #[test]
        fn a_machines_life_fits(hz in 1_000_000u64..10_000_000_000, years in 0u64..50) {
            let cycles = years * 365 * 86_400 * hz;
            let ns = scale(cycles, ratio(NANOSECONDS_PER_SECOND, hz));
            let exact = years * 365 * 86_400 * NANOSECONDS_PER_SECOND;
            prop_assert!(exact.abs_diff(ns) <= (exact >> 20) + 1, "{ns} instead of {exact}");
        }
    }
}
