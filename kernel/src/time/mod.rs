//! The clock in nanoseconds since the image was entered, deadlines, and one-shot timers.

pub mod timer;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::arch::{Architecture, Machine};
pub use timer::Timer;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// Binary point of the conversion factors.
const SHIFT: u32 = 32;

/// Cycles at time 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per cycle and cycles per nanosecond, times 2^32.
static NS_PER_CYCLE: AtomicU64 = AtomicU64::new(1 << SHIFT);
static CYCLES_PER_NS: AtomicU64 = AtomicU64::new(1 << SHIFT);

/// Starts the clock. Once, by the boot CPU.
pub(crate) fn init(epoch_cycles: u64) {
    let frequency = Machine::cycle_frequency_hz().max(1);
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

/// Nanoseconds since the image was entered. Never goes back on one CPU.
#[inline]
pub fn now_ns() -> u64 {
    cycles_to_ns(Machine::cycles().wrapping_sub(EPOCH.load(Ordering::Relaxed)))
}

/// The CPU's time counter, in cycles of [`cycle_frequency_hz`].
#[inline(always)]
pub fn cycles() -> u64 {
    Machine::cycles()
}

/// Rate of [`cycles`], in Hz.
pub fn cycle_frequency_hz() -> u64 {
    Machine::cycle_frequency_hz()
}

/// The time counter when the image was entered.
pub fn epoch_cycles() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// A value of [`cycles`] as time since the image was entered.
pub fn cycles_since_epoch_to_ns(cycles: u64) -> u64 {
    cycles_to_ns(cycles.saturating_sub(EPOCH.load(Ordering::Relaxed)))
}

/// A number of cycles in nanoseconds.
#[inline(always)]
pub fn cycles_to_ns(cycles: u64) -> u64 {
    scale(cycles, NS_PER_CYCLE.load(Ordering::Relaxed))
}

/// A number of nanoseconds in cycles.
#[inline(always)]
pub fn ns_to_cycles(nanoseconds: u64) -> u64 {
    scale(nanoseconds, CYCLES_PER_NS.load(Ordering::Relaxed))
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    cycles: u64,
}

impl Deadline {
    /// No end.
    pub const NEVER: Self = Self { cycles: u64::MAX };
    /// Already over: a wait with it only looks.
    pub const NOW: Self = Self { cycles: 0 };

    /// So much from now.
    pub fn after(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Far more than any machine's life, far less than the counter's range.
        let cycles = ns_to_cycles(nanoseconds.min(u64::MAX >> 8));
        Self { cycles: Machine::cycles().saturating_add(cycles) }
    }

    /// When [`cycles`] reaches this value.
    pub const fn at_cycles(cycles: u64) -> Self {
        Self { cycles }
    }

    /// When [`now_ns`] reaches this value.
    pub fn at_ns(nanoseconds: u64) -> Self {
        Self { cycles: EPOCH.load(Ordering::Relaxed).saturating_add(ns_to_cycles(nanoseconds)) }
    }

    /// As a value of [`cycles`].
    pub const fn cycles(self) -> u64 {
        self.cycles
    }

    /// True once it is over.
    pub fn has_passed(self) -> bool {
        Machine::cycles() >= self.cycles
    }
}

/// Repeats `condition` until it holds or so much time has passed, without sleeping; whether it held.
pub fn spin_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(limit);
    loop {
        if condition() {
            return true;
        }
        if deadline.has_passed() {
            return false;
        }
        Machine::spin_hint();
    }
}
