//! Conjugate gradients on the sparse matrix of a 27-point stencil in three dimensions, similar to
//! HPCG.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use platform::{checksum, square_root};

use crate::parallel::{for_each, reduce};
use crate::worker::Worker;

/// The number of rows per task.
const GRAIN: usize = 256;
const ITERATIONS: usize = 25;
const TOLERANCE: f64 = 1e-9;

/// A sparse matrix, row by row.
struct Matrix {
    /// The index of each row's first entry in the other vectors, and their length.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

/// Creates the matrix for a cube of `side` points a side: 26 on the diagonal, -1 for each
/// neighbour.
fn stencil(side: usize) -> Matrix {
    let mut matrix = Matrix { starts: vec![0], columns: Vec::new(), values: Vec::new() };
    let near = |at: usize| at.saturating_sub(1)..(at + 2).min(side);
    for row in 0..side * side * side {
        let (x, y, z) = (row % side, row / side % side, row / side / side);
        for (zz, yy) in near(z).flat_map(|zz| near(y).map(move |yy| (zz, yy))) {
            for xx in near(x) {
                let column = (zz * side + yy) * side + xx;
                matrix.columns.push(column as u32);
                matrix.values.push(if column == row { 26.0 } else { -1.0 });
            }
        }
        matrix.starts.push(matrix.columns.len());
    }
    matrix
}

/// A vector of which several tasks write disjoint parts.
struct Parts(*mut f64, usize);

// SAFETY: concurrent tasks write only parts that do not overlap, as `part` requires.
unsafe impl Sync for Parts {}

impl Parts {
    fn of(vector: &mut [f64]) -> Self {
        Self(vector.as_mut_ptr(), vector.len())
    }

    /// # Safety
    /// Parts that exist at the same time must not overlap.
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap, by the caller's word")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [f64] {
        assert!(range.start <= range.end && range.end <= self.1);
        // SAFETY: the range is within the vector, which stays borrowed for the part's lifetime.
        unsafe { core::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// Calls `each` with every part of `target` and its first index.
fn update(worker: &Worker, target: &mut [f64], each: impl Fn(usize, &mut [f64]) + Sync) {
    let length = target.len();
    let parts = Parts::of(target);
    for_each(worker, 0..length, GRAIN, &|_, range: Range<usize>| {
        // SAFETY: `for_each` splits the range into parts that do not overlap.
        each(range.start, unsafe { parts.part(range) });
    });
}

fn multiply(worker: &Worker, matrix: &Matrix, vector: &[f64], product: &mut [f64]) {
    update(worker, product, |first, rows| {
        for (row, sum) in (first..).zip(rows) {
            let entries = matrix.starts[row]..matrix.starts[row + 1];
            let terms = matrix.values[entries.clone()].iter().zip(&matrix.columns[entries]);
            *sum = terms.map(|(value, &column)| value * vector[column as usize]).sum();
        }
    });
}

fn dot(worker: &Worker, left: &[f64], right: &[f64]) -> f64 {
    let part = |_: &Worker, range: Range<usize>| -> f64 {
        left[range.clone()].iter().zip(&right[range]).map(|(left, right)| left * right).sum()
    };
    reduce(worker, 0..left.len(), GRAIN, &part, &|low, high| low + high)
}

/// Solves the system for a cube of `side` points a side, whose solution is all ones. Returns a
/// checksum of the solution found.
pub fn run(worker: &Worker, side: usize) -> u64 {
    let matrix = stencil(side);
    let size = side * side * side;
    let mut right = vec![0.0; size];
    multiply(worker, &matrix, &vec![1.0; size], &mut right);
    let mut solution = vec![0.0; size];
    let mut residual = right;
    let mut direction = residual.clone();
    let mut product = vec![0.0; size];
    let mut square = dot(worker, &residual, &residual);
    let goal = square_root(square) * TOLERANCE;
    for _ in 0..ITERATIONS {
        if square_root(square) <= goal {
            break;
        }
        multiply(worker, &matrix, &direction, &mut product);
        let step = square / dot(worker, &direction, &product);
        update(worker, &mut solution, |first, part| {
            part.iter_mut().zip(&direction[first..]).for_each(|(to, along)| *to += step * along);
        });
        update(worker, &mut residual, |first, part| {
            part.iter_mut().zip(&product[first..]).for_each(|(to, along)| *to -= step * along);
        });
        let next = dot(worker, &residual, &residual);
        let keep = next / square;
        square = next;
        update(worker, &mut direction, |first, part| {
            part.iter_mut().zip(&residual[first..]).for_each(|(to, from)| *to = from + keep * *to);
        });
    }
    let error = solution.iter().map(|value| (value - 1.0).abs()).fold(0.0, f64::max);
    assert!(error < 1e-4, "conjugate gradients are off by {error}");
    checksum(solution.into_iter().chain([square]).map(f64::to_bits))
}
