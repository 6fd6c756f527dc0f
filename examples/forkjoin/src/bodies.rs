//! Bodies that attract each other, in f64: all pairs, leapfrog steps.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use platform::{checksum, square_root};

use crate::Random;
use crate::parallel::{for_each, reduce};
use crate::worker::Worker;

const STEPS: usize = 4;
const STEP: f64 = 1e-3;
/// Softens the force, which keeps close encounters finite.
const SOFTENING: f64 = 1e-2;
/// The number of bodies per task.
const GRAIN: usize = 8;

type Vector = [f64; 3];

#[derive(Clone, Copy)]
struct Body {
    position: Vector,
    velocity: Vector,
    mass: f64,
}

fn difference(from: Vector, to: Vector) -> Vector {
    core::array::from_fn(|axis| to[axis] - from[axis])
}

fn square(vector: Vector) -> f64 {
    vector.iter().map(|component| component * component).sum()
}

fn acceleration(bodies: &[Body], at: Vector) -> Vector {
    let mut sum = [0.0; 3];
    for body in bodies {
        let towards = difference(at, body.position);
        let distance = square(towards) + SOFTENING * SOFTENING;
        let strength = body.mass / (distance * square_root(distance));
        sum = core::array::from_fn(|axis| sum[axis] + strength * towards[axis]);
    }
    sum
}

/// Computes the kinetic and potential energy.
fn energy(worker: &Worker, bodies: &[Body]) -> f64 {
    let of = |_: &Worker, range: Range<usize>| -> f64 {
        let each = range.map(|index| {
            let body = &bodies[index];
            let potential = bodies[index + 1..].iter().map(|other| {
                let distance = square(difference(body.position, other.position)) + SOFTENING * SOFTENING;
                body.mass * other.mass / square_root(distance)
            });
            0.5 * body.mass * square(body.velocity) - potential.sum::<f64>()
        });
        each.sum()
    };
    reduce(worker, 0..bodies.len(), GRAIN, &of, &|low, high| low + high)
}

/// The new bodies, of which each task writes its own.
struct Next(*mut Body);

// SAFETY: concurrent tasks write only bodies of their own ranges, which do not overlap.
unsafe impl Sync for Next {}

impl Next {
    /// # Safety
    /// `index` is within the bodies, and no other task accesses that body.
    unsafe fn write(&self, index: usize, body: Body) {
        // SAFETY: the caller guarantees that `index` is in bounds and that the body is its own.
        unsafe { self.0.add(index).write(body) };
    }
}

/// Moves `count` bodies and returns a checksum of their positions.
pub fn run(worker: &Worker, count: usize) -> u64 {
    let mut random = Random::new(count as u64);
    let mut bodies: Vec<Body> = (0..count)
        .map(|_| Body {
            position: core::array::from_fn(|_| random.fraction()),
            velocity: core::array::from_fn(|_| random.fraction() - 0.5),
            mass: 1.0 / count as f64,
        })
        .collect();
    let before = energy(worker, &bodies);
    let mut next = vec![Body { position: [0.0; 3], velocity: [0.0; 3], mass: 0.0 }; count];
    for _ in 0..STEPS {
        let target = Next(next.as_mut_ptr());
        for_each(worker, 0..count, GRAIN, &|_, range: Range<usize>| {
            for index in range {
                let mut body = bodies[index];
                let pull = acceleration(&bodies, body.position);
                body.velocity = core::array::from_fn(|axis| body.velocity[axis] + STEP * pull[axis]);
                body.position = core::array::from_fn(|axis| body.position[axis] + STEP * body.velocity[axis]);
                // SAFETY: `next` is as long as `bodies`, and `for_each` gives each index to one
                // task only.
                unsafe { target.write(index, body) };
            }
        });
        core::mem::swap(&mut bodies, &mut next);
    }
    let after = energy(worker, &bodies);
    assert!(((after - before) / before).abs() < 1e-2, "the energy went from {before} to {after}");
    checksum(bodies.iter().flat_map(|body| body.position).chain([after]).map(f64::to_bits))
}
