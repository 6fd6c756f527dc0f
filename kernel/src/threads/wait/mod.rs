//! Waiting: everything that a thread can block on, each with a timeout.
//!
//! There is one mechanism: a [`WaitList`] of threads inside a spin lock, together with the state
//! they wait for (`list`). A waker and a timeout race for a waiting thread by its `claim`; exactly
//! one wins.
//!
//! A type declares by [`InterruptSafe`] that it can be used in an interrupt handler. Handlers are
//! registered with a context of such a type ([`crate::interrupts::register_vector`]), and only its
//! non-blocking methods work there; the blocking ones panic with the reason.

mod barrier;
pub(crate) mod claim;
mod condition;
mod event;
pub(crate) mod list;
mod message_queue;
pub(crate) mod mutex;
mod queue;
mod reader_writer;
mod semaphore;

use core::fmt;

pub use barrier::{Arrival, Barrier};
pub use condition::Condition;
pub use event::Event;
pub use list::{Outcome, WaitList};
pub use message_queue::{MessageQueue, TrySendError};
pub use mutex::{Mutex, MutexGuard};
pub use queue::WaitQueue;
pub use reader_writer::{ReadGuard, ReaderWriterLock, WriteGuard};
pub use semaphore::Semaphore;

/// Marks types whose waking side may be used in interrupt handlers.
///
/// # Safety
/// Every method that does not document blocking takes only spin locks and never allocates.
pub unsafe trait InterruptSafe: Sync {}

// SAFETY: the unit type has no methods, so none can block or allocate.
unsafe impl InterruptSafe for () {}
// SAFETY: the methods of an atomic take no lock, and neither block nor allocate.
unsafe impl InterruptSafe for core::sync::atomic::AtomicU64 {}
// SAFETY: the methods of an atomic take no lock, and neither block nor allocate.
unsafe impl InterruptSafe for core::sync::atomic::AtomicBool {}
// SAFETY: a spin lock turns interrupts off, so a handler never finds it held by its own CPU.
unsafe impl<T: Send> InterruptSafe for crate::lock::SpinLock<T> {}

/// The deadline passed before the awaited event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed first")
    }
}
