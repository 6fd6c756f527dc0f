//! The event: a signal that something has happened.

use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::time::Deadline;

/// A signal between threads, and from interrupt handlers to threads.
pub struct Event {
    state: SpinLock<State>,
}

struct State {
    memory: Memory,
    waiters: WaitList,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Clear,
    /// One signal that found no waiter: the next waiter takes it.
    Signalled,
    /// Every waiter passes.
    Latched,
}

// SAFETY: signalling takes a spin lock only, and neither blocks nor allocates.
unsafe impl InterruptSafe for Event {}

impl Event {
    /// Creates an event that has not happened.
    pub const fn new() -> Self {
        Self { state: SpinLock::new(State { memory: Memory::Clear, waiters: WaitList::new() }) }
    }

    /// Waits for a signal. Blocks.
    #[inline]
    pub fn wait(&self) {
        let _ = self.wait_until(Deadline::NEVER);
    }

    /// Waits for a signal until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if there was no signal by then.
    #[inline]
    pub fn wait_until(&self, deadline: Deadline) -> Result<(), TimedOut> {
        let mut guard = self.state.lock();
        match guard.memory {
            Memory::Latched => Ok(()),
            Memory::Signalled => {
                guard.memory = Memory::Clear;
                Ok(())
            }
            Memory::Clear => match list::wait_in(&self.state, guard, |state| &mut state.waiters, deadline, || ()) {
                Outcome::Woken => Ok(()),
                Outcome::TimedOut => Err(TimedOut),
            },
        }
    }

    /// Wakes one waiter; without a waiter, the next thread to wait passes. Signals without a waiter
    /// do not add up.
    #[inline]
    pub fn signal(&self) {
        let mut state = self.state.lock();
        let taken = state.waiters.take_one();
        if taken.is_none() && state.memory == Memory::Clear {
            state.memory = Memory::Signalled;
        }
        taken.wake(state);
    }

    /// Wakes all current waiters and leaves no signal behind. Returns their number.
    pub fn broadcast(&self) -> usize {
        let mut state = self.state.lock();
        state.waiters.take_all().wake(state)
    }

    /// Wakes all waiters and lets every thread pass until [`Event::reset`].
    pub fn latch(&self) {
        let mut state = self.state.lock();
        state.memory = Memory::Latched;
        state.waiters.take_all().wake(state);
    }

    /// Clears a pending signal and the latch.
    pub fn reset(&self) {
        self.state.lock().memory = Memory::Clear;
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}
