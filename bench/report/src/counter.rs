//! What a time counter counts.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

/// A time counter, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// Reads it.
    pub read: fn() -> u64,
    /// What two readings with nothing between them differ by: the smallest of many.
    pub overhead: u64,
    /// True if it counts executed instructions, so that figures repeat and are no times.
    pub counts_instructions: bool,
}

impl Counter {
    /// Looks what `read` counts. `read` must be what is inlined where durations are taken, or as dear.
    #[inline(always)]
    pub fn examine(read: fn() -> u64, inlined: impl Fn() -> u64) -> Self {
        let between = || {
            let start = inlined();
            inlined().saturating_sub(start)
        };
        let overhead = (0..100).map(|_| between()).min().unwrap_or(0);
        Self { read, overhead, counts_instructions: counts_instructions(read) }
    }

    /// The unit of its durations.
    pub fn unit(&self) -> &'static str {
        if self.counts_instructions { "instructions" } else { "cycles" }
    }
}

/// True if further rounds of a loop cost exactly the same, wherever one looks, which they do on no clock of a CPU that executes out of
/// order; and if an atomic instruction costs no more than others, which it does on any.
fn counts_instructions(read: fn() -> u64) -> bool {
    // A multiple of whatever the compiler unrolls by.
    const STEP: u64 = 64;
    // What an iteration of the loop may have besides the atomic instruction.
    const OTHERS: u64 = 5;
    // The smallest of a few, because an interrupt may come.
    let least = |time: fn(fn() -> u64, u64) -> u64, rounds| (0..4).map(|_| time(read, rounds)).min().unwrap_or(0);
    let step = |time, steps: u64| least(time, (steps + 1) * STEP).saturating_sub(least(time, steps * STEP));
    let (plain, atomic) = (step(time, 1), step(time_atomics, 1));
    plain > 0 && atomic <= (OTHERS + 1) * STEP && (2..16).all(|steps| step(time, steps) == plain)
}

/// How long a loop takes. Not a part of its callers, so that it is always the same code.
#[inline(never)]
fn time(read: fn() -> u64, rounds: u64) -> u64 {
    let start = read();
    for round in 0..rounds {
        black_box(round);
    }
    read().saturating_sub(start)
}

/// The same with an atomic instruction in each round.
#[inline(never)]
fn time_atomics(read: fn() -> u64, rounds: u64) -> u64 {
    let number = AtomicU64::new(0);
    let start = read();
    for _ in 0..rounds {
        black_box(&number).fetch_add(1, Ordering::SeqCst);
    }
    read().saturating_sub(start)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::Counter;

    #[test]
    fn a_clock_is_no_count_of_instructions() {
        let started = std::time::Instant::now();
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(|| started);
        let read: fn() -> u64 = || START.get().map_or(0, |start| start.elapsed().as_nanos() as u64);
        let counter = Counter::examine(read, read);
        assert!(!counter.counts_instructions);
        assert_eq!(counter.unit(), "cycles");
    }

    #[test]
    fn a_reading_costs_what_two_in_a_row_differ_by() {
        static TICKS: AtomicU64 = AtomicU64::new(0);
        let read: fn() -> u64 = || TICKS.fetch_add(3, Ordering::Relaxed);
        assert_eq!(Counter::examine(read, read).overhead, 3);
    }
}
