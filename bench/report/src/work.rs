//! A fixed amount of work, from which stolen time can be read.

use core::hint::black_box;

/// Performs `rounds` rounds of the work. Kept out of line, so that all callers run the same code.
#[inline(never)]
pub fn compute(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}

/// Returns the number of rounds of [`compute`] that take `wanted` cycles of the counter, by the
/// fastest of a few attempts.
pub fn rounds_of(wanted: u64, read: fn() -> u64) -> u64 {
    const ATTEMPT: u64 = 10_000;
    let time = |_| {
        let start = read();
        compute(ATTEMPT);
        read().saturating_sub(start)
    };
    let fastest = (0..20).map(time).min().unwrap_or(1).max(1);
    wanted * ATTEMPT / fastest
}
