//! The message channel: a bounded queue of values between threads, and from interrupt handlers to threads.

use alloc::collections::VecDeque;

use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::memory::OutOfMemory;
use crate::time::Deadline;

/// A queue of at most `capacity` messages, any number of senders and receivers. Order is kept; nothing is lost.
pub struct Channel<T> {
    state: SpinLock<State<T>>,
}

struct State<T> {
    /// Never grows beyond the capacity reserved at the start.
    messages: VecDeque<T>,
    capacity: usize,
    senders: WaitList,
    receivers: WaitList,
}

// SAFETY: `try_send` and `try_receive` take a spin lock; the queue's memory was reserved at the start.
unsafe impl<T: Send> InterruptSafe for Channel<T> {}

/// A message that could not be sent, given back.
#[derive(Debug, PartialEq, Eq)]
pub struct TrySendError<T>(pub T);

impl<T> Channel<T> {
    /// An empty channel for up to `capacity` messages; 0 counts as 1.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no memory for them.
    pub fn new(capacity: usize) -> Result<Self, OutOfMemory> {
        let capacity = capacity.max(1);
        let mut messages = VecDeque::new();
        messages.try_reserve_exact(capacity).map_err(|_| OutOfMemory)?;
        let state = State { messages, capacity, senders: WaitList::new(), receivers: WaitList::new() };
        Ok(Self { state: SpinLock::new(state) })
    }

    /// Sends, waiting for room. Blocks.
    pub fn send(&self, message: T) {
        let mut message = message;
        while let Err(TrySendError(back)) = self.send_until(message, Deadline::NEVER) {
            message = back;
        }
    }

    /// Sends if there is room until `deadline`. Blocks.
    ///
    /// # Errors
    /// The message, if there was no room.
    pub fn send_until(&self, message: T, deadline: Deadline) -> Result<(), TrySendError<T>> {
        let mut timed_out = false;
        loop {
            let mut guard = self.state.lock();
            if guard.messages.len() < guard.capacity {
                guard.messages.push_back(message);
                guard.receivers.take_one().wake(guard);
                return Ok(());
            }
            if timed_out {
                return Err(TrySendError(message));
            }
            let outcome = list::wait_in(&self.state, guard, |state| &mut state.senders, deadline, || ());
            timed_out = outcome == Outcome::TimedOut;
        }
    }

    /// Sends if there is room now. Works in interrupt handlers.
    ///
    /// # Errors
    /// The message, if there is no room.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut guard = self.state.lock();
        if guard.messages.len() == guard.capacity {
            return Err(TrySendError(message));
        }
        guard.messages.push_back(message);
        guard.receivers.take_one().wake(guard);
        Ok(())
    }

    /// Receives, waiting for a message. Blocks.
    pub fn receive(&self) -> T {
        loop {
            if let Ok(message) = self.receive_until(Deadline::NEVER) {
                return message;
            }
        }
    }

    /// Receives if there is a message until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none.
    pub fn receive_until(&self, deadline: Deadline) -> Result<T, TimedOut> {
        let mut timed_out = false;
        loop {
            let mut guard = self.state.lock();
            if let Some(message) = guard.messages.pop_front() {
                guard.senders.take_one().wake(guard);
                return Ok(message);
            }
            if timed_out {
                return Err(TimedOut);
            }
            let outcome = list::wait_in(&self.state, guard, |state| &mut state.receivers, deadline, || ());
            timed_out = outcome == Outcome::TimedOut;
        }
    }

    /// Receives a message if there is one now. Works in interrupt handlers.
    pub fn try_receive(&self) -> Option<T> {
        let mut guard = self.state.lock();
        let message = guard.messages.pop_front()?;
        guard.senders.take_one().wake(guard);
        Some(message)
    }

    /// Number of messages in it, as it was at some moment during the call.
    pub fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
