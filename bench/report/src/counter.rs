//! What a time counter counts: time or instructions.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

/// A time counter and its properties.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// The function that reads the counter.
    pub read: fn() -> u64,
    /// The difference between two adjacent readings: the smallest of many.
    pub overhead: u64,
    /// True if the counter counts executed instructions: figures then repeat exactly and are not
    /// times.
    pub counts_instructions: bool,
}

impl Counter {
    /// Examines a counter. `inlined` must be the reading that is inlined where durations are taken,
    /// or one of the same cost.
    #[inline(always)]
    pub fn examine(read: fn() -> u64, inlined: impl Fn() -> u64) -> Self {
        let between = || {
            let start = inlined();
            inlined().saturating_sub(start)
        };
        let overhead = (0..100).map(|_| between()).min().unwrap_or(0);
        Self { read, overhead, counts_instructions: counts_instructions(read) }
    }

    /// Returns the unit of the counter's durations.
    pub fn unit(&self) -> &'static str {
        if self.counts_instructions { "instructions" } else { "cycles" }
    }
}

/// Returns true if the counter counts instructions. Then further rounds of a loop always cost
/// exactly the same, unlike on a clock of an out-of-order CPU, and an atomic instruction costs no
/// more than others, unlike on any clock.
fn counts_instructions(read: fn() -> u64) -> bool {
    // A multiple of any factor by which the compiler may unroll the loop.
    const STEP: u64 = 64;
    // The most instructions per iteration besides the atomic one.
    const OTHERS: u64 = 5;
    // The smallest of a few attempts, because an interrupt may come during one.
    let least = |time: fn(fn() -> u64, u64) -> u64, rounds| (0..4).map(|_| time(read, rounds)).min().unwrap_or(0);
    let step = |time, steps: u64| least(time, (steps + 1) * STEP).saturating_sub(least(time, steps * STEP));
    let (plain, atomic) = (step(time, 1), step(time_atomics, 1));
    plain > 0 && atomic <= (OTHERS + 1) * STEP && (2..16).all(|steps| step(time, steps) == plain)
}

/// Times a loop. Kept out of line, so that all callers time the same code.
#[inline(never)]
fn time(read: fn() -> u64, rounds: u64) -> u64 {
    let start = read();
    for round in 0..rounds {
        black_box(round);
    }
    read().saturating_sub(start)
}

/// Times a loop with an atomic instruction in each round, also kept out of line.
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
