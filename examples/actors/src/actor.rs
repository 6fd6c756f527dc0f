//! The runtime: an actor is a thread on a CPU that takes messages out of its mailbox.

use alloc::sync::Arc;

use platform::{Channel, Thread};

/// Messages that wait in a mailbox before senders wait too.
const CAPACITY: usize = 64;

/// Where to send messages to.
pub struct Address<M>(Arc<Channel<M>>);

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Where an actor's messages come.
pub struct Mailbox<M>(Arc<Channel<M>>);

/// An actor that was spawned, to be waited for.
pub struct Actor<M> {
    address: Address<M>,
    thread: Thread,
}

/// A mailbox, for an actor or for the caller itself.
pub fn mailbox<M: Send>() -> (Address<M>, Mailbox<M>) {
    let channel = Arc::new(Channel::new(CAPACITY));
    (Address(channel.clone()), Mailbox(channel))
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
    /// Takes the next message, waiting for one.
    pub fn receive(&self) -> M {
        self.0.receive()
    }
}

impl<M> Actor<M> {
    /// Where to send it messages.
    pub fn address(&self) -> &Address<M> {
        &self.address
    }

    /// Waits for its end.
    pub fn join(self) {
        self.thread.join();
    }
}
