//! When a CPU must be told that something is in its mailbox.

use crate::atomic::{AtomicU8, Ordering, const_fn};
use crate::scheduler::mailbox::{Linked, Mailbox};

/// What a CPU is doing, as far as somebody who leaves it a note must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// Runs one thread without a tick: it would not look until that thread blocks.
    Solo = 0,
    /// Halted, or about to.
    Asleep = 1,
    /// Runs several threads by the tick: it looks at the latest then.
    Ticking = 2,
    /// Has nothing to run, and looks all the time.
    Polling = 3,
}

/// The word a CPU publishes its [`Attention`] in. Its owner writes it and then looks into its mailbox by
/// [`Mailbox::is_surely_empty`] or [`Mailbox::drain`]; others push into the mailbox and then read it. One of the two always
/// notices, because both change the mailbox in between.
pub struct AttentionWord(AtomicU8);

impl AttentionWord {
    const_fn! {
        /// Starts as [`Attention::Solo`].
        pub fn new() -> Self {
            Self(AtomicU8::new(Attention::Solo as u8))
        }
    }

    /// Publishes. The owner looks into its mailbox afterwards.
    #[inline(always)]
    pub fn publish(&self, attention: Attention) {
        self.0.store(attention as u8, Ordering::Release);
    }

    /// Publishes, and takes what came before: who sent that may have seen a word by which no interrupt was wanted.
    #[inline(always)]
    pub fn publish_and_take<T: Linked>(&self, attention: Attention, mailbox: &Mailbox<T>, each: impl FnMut(*mut T)) {
        self.publish(attention);
        mailbox.drain(each);
    }

    /// True if this was published last. For its owner.
    #[inline(always)]
    pub fn is(&self, attention: Attention) -> bool {
        self.0.load(Ordering::Relaxed) == attention as u8
    }

    /// True if its owner has nothing to run.
    pub fn is_idle(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word == Attention::Asleep as u8 || word == Attention::Polling as u8
    }

    /// True if the owner of a mailbox that was just pushed to must be interrupted to see it.
    #[inline(always)]
    pub fn wants_interrupt(&self) -> bool {
        self.0.load(Ordering::Acquire) < Attention::Ticking as u8
    }
}
