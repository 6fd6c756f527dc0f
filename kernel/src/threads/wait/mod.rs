//! Waiting: everything a thread can sleep on, each with a timeout.
//!
//! All of it is one mechanism: a [`WaitList`] of threads inside a spin lock together with the state they wait for
//! (`list`). A waker and a timeout race for a waiting thread by its `claim`; exactly one wins.
//!
//! What a type can do in an interrupt handler it says by [`InterruptSafe`]: handlers are registered with a context
//! of such a type ([`crate::interrupts::register_vector`]), and only the non-blocking methods work there; the blocking ones
//! panic with the reason.

mod barrier;
mod channel;
pub(crate) mod claim;
mod condition;
mod event;
pub(crate) mod list;
pub(crate) mod mutex;
mod queue;
mod reader_writer;
mod semaphore;

use core::fmt;

pub use barrier::{Arrival, Barrier};
pub use channel::{Channel, TrySendError};
pub use condition::Condition;
pub use event::Event;
pub use list::{Outcome, WaitList};
pub use mutex::{Mutex, MutexGuard};
pub use queue::WaitQueue;
pub use reader_writer::{ReadGuard, ReaderWriterLock, WriteGuard};
pub use semaphore::Semaphore;

/// Marks types whose waking side may be used in interrupt handlers.
///
/// # Safety
/// Every method that does not document blocking takes only spin locks and never allocates.
pub unsafe trait InterruptSafe: Sync {}

// SAFETY: no methods at all.
unsafe impl InterruptSafe for () {}
// SAFETY: atomics never block.
unsafe impl InterruptSafe for core::sync::atomic::AtomicU64 {}
// SAFETY: atomics never block.
unsafe impl InterruptSafe for core::sync::atomic::AtomicBool {}
// SAFETY: a spin lock turns interrupts off, so a handler never finds it held by its own CPU.
unsafe impl<T: Send> InterruptSafe for crate::lock::SpinLock<T> {}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed first")
    }
}
