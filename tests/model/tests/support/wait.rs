//! The kernel's `wait` module, as far as it is explored.

#[path = "../../../../kernel/src/wait/channel.rs"]
mod channel;
#[path = "../../../../kernel/src/wait/claim.rs"]
pub(crate) mod claim;
#[path = "../../../../kernel/src/wait/event.rs"]
mod event;
#[path = "../../../../kernel/src/wait/list.rs"]
pub(crate) mod list;

pub use channel::Channel;
pub use event::Event;
pub use list::{Outcome, WaitList};

pub unsafe trait InterruptSafe: Sync {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;
