//! Heat on a square plate with a warm upper edge: Jacobi iterations, a block of rows per member.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use platform::checksum;

use crate::member::{self, Member};

const STEPS: usize = 100;
/// Number of supersteps between two checks of the change.
const LOOK: usize = 10;
/// The change at which the iteration stops.
const SETTLED: f64 = 1e-12;

/// Runs on a grid of `side` by `side` points and returns a checksum of the temperatures.
pub fn run(members: usize, side: usize) -> u64 {
    member::run(members, move |member| plate(member, side))
}

/// Returns the rows of a member.
fn rows(rank: usize, count: usize, side: usize) -> Range<usize> {
    rank * side / count..(rank + 1) * side / count
}

fn plate(member: &mut Member, side: usize) -> u64 {
    let own = rows(member.rank(), member.count(), side);
    // The neighbours hold the adjacent rows; with more members than rows, some members have none.
    let holder = |row: usize| (0..member.count()).find(|&rank| rows(rank, member.count(), side).contains(&row));
    let above = own.start.checked_sub(1).and_then(holder);
    let below = holder(own.end);
    // One more row on each side, for the neighbours' edges.
    let width = own.len() + 2;
    let mut now = vec![0.0; width * side];
    if own.start == 0 && !own.is_empty() {
        now[side..2 * side].fill(1.0);
    }
    let mut next = now.clone();
    for step in 0..STEPS {
        if !own.is_empty() {
            above.inspect(|&rank| member.put(rank, &now[side..2 * side]));
            below.inspect(|&rank| member.put(rank, &now[own.len() * side..(own.len() + 1) * side]));
        }
        member.sync();
        if !own.is_empty() {
            above.inspect(|&rank| now[..side].copy_from_slice(member.received(rank)));
            below.inspect(|&rank| now[(own.len() + 1) * side..].copy_from_slice(member.received(rank)));
        }
        let mut change: f64 = 0.0;
        // The plate's edges keep their temperatures.
        for row in own.clone().filter(|&row| row != 0 && row + 1 != side) {
            let at = (row - own.start + 1) * side;
            for point in at + 1..at + side - 1 {
                let mean = 0.25 * (now[point - side] + now[point + side] + now[point - 1] + now[point + 1]);
                change = change.max((mean - now[point]).abs());
                next[point] = mean;
            }
        }
        core::mem::swap(&mut now, &mut next);
        if step % LOOK == LOOK - 1 && member.reduce(change, f64::max) < SETTLED {
            break;
        }
    }
    member.put(0, &now[side..(own.len() + 1) * side]);
    member.sync();
    let whole: Vec<f64> = (0..member.count()).flat_map(|rank| member.received(rank).iter().copied()).collect();
    checksum(whole.into_iter().map(f64::to_bits))
}
