//! The event: something happened.

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
    /// One signal that nobody waited for: the next waiter takes it.
    Signalled,
    /// Everybody passes.
    Latched,
}

// SAFETY: signalling takes a spin lock and nothing else.
unsafe impl InterruptSafe for Event {}

impl Event {
    /// An event that has not happened.
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
    /// [`TimedOut`] if there was none.
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

    /// Wakes one waiter; without one, the next to come passes. Signals nobody waits for do not add up.
    #[inline]
    pub fn signal(&self) {
        let mut state = self.state.lock();
        let taken = state.waiters.take_one();
        if taken.is_none() && state.memory == Memory::Clear {
            state.memory = Memory::Signalled;
        }
        taken.wake(state);
    }

    /// Wakes all who wait now and leaves nothing behind; how many there were.
    pub fn broadcast(&self) -> usize {
        let mut state = self.state.lock();
        state.waiters.take_all().wake(state)
    }

    /// Wakes all, and lets everybody pass until [`Event::reset`].
    pub fn latch(&self) {
        let mut state = self.state.lock();
        state.memory = Memory::Latched;
        state.waiters.take_all().wake(state);
    }

    /// Forgets signals and latch.
    pub fn reset(&self) {
        self.state.lock().memory = Memory::Clear;
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}
