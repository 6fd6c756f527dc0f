//! Work that is always the same, for seeing what is stolen from who does it.

use core::hint::black_box;

/// Does so many rounds of it. Not a part of its callers, so that it is always the same code.
#[inline(never)]
pub fn compute(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}

/// How many rounds of [`compute`] take `wanted` cycles of the counter: by the fastest of a few attempts.
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
