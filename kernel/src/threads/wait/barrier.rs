//! The barrier: nobody passes until all have arrived.

use super::{Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// A meeting point of a fixed number of threads, usable again and again. For threads only.
pub struct Barrier {
    size: usize,
    state: SpinLock<State>,
}

struct State {
    arrived: usize,
    generation: u64,
    waiters: WaitList,
}

/// In which role a thread passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It came last and let the others go: exactly one of them.
    Last,
    /// It waited.
    Waited,
}

impl Barrier {
    /// A barrier for `size` threads; 0 counts as 1.
    pub const fn new(size: usize) -> Self {
        Self { size, state: SpinLock::new(State { arrived: 0, generation: 0, waiters: WaitList::new() }) }
    }

    /// Waits until all have arrived. Blocks.
    pub fn wait(&self) -> Arrival {
        self.wait_until(Deadline::NEVER).unwrap_or(Arrival::Waited)
    }

    /// Waits until all have arrived or `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if not all came; the caller counts as never arrived.
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
