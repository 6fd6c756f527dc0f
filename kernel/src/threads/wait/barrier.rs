//! The barrier: no thread passes until all have arrived.

use super::{Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// A meeting point of a fixed number of threads, reusable any number of times. For threads only.
pub struct Barrier {
    size: usize,
    state: SpinLock<State>,
}

struct State {
    arrived: usize,
    generation: u64,
    waiters: WaitList,
}

/// The role in which a thread passed a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The thread arrived last and released the others; exactly one thread per round does.
    Last,
    /// The thread waited for others.
    Waited,
}

impl Barrier {
    /// Creates a barrier for `size` threads; 0 counts as 1.
    pub const fn new(size: usize) -> Self {
        Self { size, state: SpinLock::new(State { arrived: 0, generation: 0, waiters: WaitList::new() }) }
    }

    /// Waits until all have arrived. Blocks.
    pub fn wait(&self) -> Arrival {
        self.wait_until(Deadline::NEVER).unwrap_or(Arrival::Waited)
    }

    /// Waits until all have arrived or `deadline` passes. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if not all arrived; the caller then counts as never arrived.
    pub fn wait_until(&self, deadline: Deadline) -> Result<Arrival, TimedOut> {
        let mut guard = self.state.lock();
        guard.arrived += 1;
        if guard.arrived >= self.size {
            guard.arrived = 0;
            guard.generation += 1;
            guard.waiters.take_all().wake(guard);
            return Ok(Arrival::Last);
        }
        let generation = guard.generation;
        let outcome = list::wait_in(&self.state, guard, |state| &mut state.waiters, deadline, || ());
        if outcome == Outcome::TimedOut {
            let mut guard = self.state.lock();
            if guard.generation == generation {
                guard.arrived -= 1;
                return Err(TimedOut);
            }
        }
        Ok(Arrival::Waited)
    }
}
