//! The number of ways to place n queens on a board so that none attacks another.

use crate::parallel::reduce;
use crate::worker::Worker;

/// The number of rows whose positions are tried in parallel.
const PARALLEL_ROWS: usize = 3;

/// A board's attacked columns and diagonals, as seen from the next row.
#[derive(Clone, Copy)]
struct Board {
    size: usize,
    row: usize,
    columns: u64,
    left: u64,
    right: u64,
}

impl Board {
    fn free(self) -> u64 {
        !(self.columns | self.left | self.right) & ((1 << self.size) - 1)
    }

    fn with(self, queen: u64) -> Self {
        Self {
            row: self.row + 1,
            columns: self.columns | queen,
            left: (self.left | queen) << 1,
            right: (self.right | queen) >> 1,
            ..self
        }
    }
}

/// Counts the solutions on a board of `size` rows, at most 32.
pub fn run(worker: &Worker, size: usize) -> u64 {
    ways(worker, Board { size: size.min(32), row: 0, columns: 0, left: 0, right: 0 })
}

fn ways(worker: &Worker, board: Board) -> u64 {
    if board.row == PARALLEL_ROWS || board.row == board.size {
        return ways_alone(board);
    }
    let try_column = |worker: &Worker, columns: core::ops::Range<usize>| {
        let queen = 1 << columns.start;
        if !columns.is_empty() && board.free() & queen != 0 { ways(worker, board.with(queen)) } else { 0 }
    };
    reduce(worker, 0..board.size, 1, &try_column, &|low, high| low + high)
}

fn ways_alone(board: Board) -> u64 {
    if board.row == board.size {
        return 1;
    }
    let mut free = board.free();
    let mut count = 0;
    while free != 0 {
        let queen = free & free.wrapping_neg();
        free ^= queen;
        count += ways_alone(board.with(queen));
    }
    count
}
