//! The message queue: a bounded queue of values between threads, and from interrupt handlers to
//! threads.

use alloc::collections::VecDeque;

use super::{InterruptSafe, Outcome, TimedOut, WaitList, list};
use crate::lock::SpinLock;
use crate::memory::OutOfMemory;
use crate::time::Deadline;

/// A queue of at most `capacity` messages with any number of senders and receivers. Messages keep
/// their order and none is lost.
pub struct MessageQueue<T> {
    state: SpinLock<State<T>>,
}

struct State<T> {
    /// Never grows beyond the capacity reserved at creation.
    messages: VecDeque<T>,
    capacity: usize,
    senders: WaitList,
    receivers: WaitList,
}

// SAFETY: `try_send` and `try_receive` take a spin lock only, and the queue's memory is reserved at
// creation.
unsafe impl<T: Send> InterruptSafe for MessageQueue<T> {}

/// A message that was not sent, returned to the sender.
#[derive(Debug, PartialEq, Eq)]
pub struct TrySendError<T>(pub T);

impl<T> MessageQueue<T> {
    /// Creates an empty message queue for up to `capacity` messages; 0 counts as 1.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no memory for the messages.
    pub fn new(capacity: usize) -> Result<Self, OutOfMemory> {
        let capacity = capacity.max(1);
        let mut messages = VecDeque::new();
        messages.try_reserve_exact(capacity).map_err(|_| OutOfMemory)?;
        let state = State { messages, capacity, senders: WaitList::new(), receivers: WaitList::new() };
        Ok(Self { state: SpinLock::new(state) })
    }

    /// Sends a message, waiting for room. Blocks.
    pub fn send(&self, message: T) {
        let mut message = message;
        while let Err(TrySendError(back)) = self.send_until(message, Deadline::NEVER) {
            message = back;
        }
    }

    /// Sends a message, waiting for room until `deadline`. Blocks.
    ///
    /// # Errors
    /// The message, if there was no room by then.
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

    /// Sends a message if there is room now. Works in interrupt handlers.
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

    /// Receives a message, waiting for one. Blocks.
    pub fn receive(&self) -> T {
        loop {
            if let Ok(message) = self.receive_until(Deadline::NEVER) {
                return message;
            }
        }
    }

    /// Receives a message, waiting for one until `deadline`. Blocks.
    ///
    /// # Errors
    /// [`TimedOut`] if there was no message by then.
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

    /// Returns the number of messages in the message queue at some moment during the call.
    pub fn len(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Returns true if the message queue was empty at some moment during the call.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
