//! The runtime's own cost: an empty superstep, and a reduction.

use platform::{Samples, cycles, say};

use crate::member;

/// Measures the latencies and prints them.
pub fn run(members: usize) {
    if members < 2 {
        return say!("latency barrier needs 2 members");
    }
    let (barrier, reduce) = member::run(2, |member| {
        let (mut barrier, mut reduce) = (Samples::new(), Samples::new());
        for _ in 0..Samples::wanted() {
            let start = cycles();
            member.sync();
            barrier.add(start, cycles());
        }
        for _ in 0..Samples::wanted() {
            let start = cycles();
            member.reduce(1.0, |sum, value| sum + value);
            reduce.add(start, cycles());
        }
        (barrier, reduce)
    });
    barrier.report("barrier");
    reduce.report("reduce");
}
