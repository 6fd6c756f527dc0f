//! The runtime: an actor is a thread on a CPU that takes messages from its mailbox.

use alloc::sync::Arc;

use platform::{MessageQueue, Thread};

/// Capacity of a mailbox, in messages; senders to a full mailbox wait.
const CAPACITY: usize = 64;

/// The address of a mailbox, to which messages are sent.
pub struct Address<M>(Arc<MessageQueue<M>>);

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiving end of an actor's messages.
pub struct Mailbox<M>(Arc<MessageQueue<M>>);

/// A spawned actor, to be joined.
pub struct Actor<M> {
    address: Address<M>,
    thread: Thread,
}

/// Creates a mailbox, for an actor or for the caller itself.
pub fn mailbox<M: Send>() -> (Address<M>, Mailbox<M>) {
    let queue = Arc::new(MessageQueue::new(CAPACITY));
    (Address(queue.clone()), Mailbox(queue))
}

/// Spawns an actor on a CPU.
pub fn spawn<M: Send + 'static>(cpu: usize, life: impl FnOnce(Mailbox<M>) + Send + 'static) -> Actor<M> {
    let (address, mailbox) = mailbox();
    Actor { address, thread: platform::spawn("actor", cpu, move || life(mailbox)) }
}

impl<M: Send> Address<M> {
    /// Sends a message; waits while the mailbox is full.
    pub fn send(&self, message: M) {
        self.0.send(message);
    }
}

impl<M: Send> Mailbox<M> {
    /// Takes the next message; waits while the mailbox is empty.
    pub fn receive(&self) -> M {
        self.0.receive()
    }
}

impl<M> Actor<M> {
    /// Returns the address of the actor's mailbox.
    pub fn address(&self) -> &Address<M> {
        &self.address
    }

    /// Waits for the actor's end.
    pub fn join(self) {
        self.thread.join();
    }
}
