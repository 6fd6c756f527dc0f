//! The explored part of the kernel's `wait` module.

#[path = "../../../../kernel/src/threads/wait/barrier.rs"]
mod barrier;
#[path = "../../../../kernel/src/threads/wait/claim.rs"]
pub(crate) mod claim;
#[path = "../../../../kernel/src/threads/wait/event.rs"]
mod event;
#[path = "../../../../kernel/src/threads/wait/list.rs"]
pub(crate) mod list;
#[path = "../../../../kernel/src/threads/wait/message_queue.rs"]
mod message_queue;
#[path = "../../../../kernel/src/threads/wait/mutex.rs"]
mod mutex;
#[path = "../../../../kernel/src/threads/wait/semaphore.rs"]
mod semaphore;

pub use barrier::{Arrival, Barrier};
pub use event::Event;
pub use list::{Outcome, WaitList};
pub use message_queue::MessageQueue;
pub use mutex::Mutex;
pub use semaphore::Semaphore;

pub unsafe trait InterruptSafe: Sync {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;
