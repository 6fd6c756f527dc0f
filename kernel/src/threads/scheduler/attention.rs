//! The attention word: whether a CPU must be interrupted to notice a push to its mailbox.

use crate::atomic::{AtomicU8, Ordering, const_fn};
use crate::scheduler::mailbox::{Linked, Mailbox};

/// What a CPU is doing, as far as a pusher to its mailbox must know. Those that want an interrupt
/// have the smaller numbers, so that a pusher decides by one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// Runs one thread without a tick: does not look until that thread blocks.
    Solo = 0,
    /// Halted, or about to halt.
    Asleep = 1,
    /// Runs several threads with a tick: looks at the next tick at the latest.
    Ticking = 2,
    /// Idle and polling: looks all the time.
    Polling = 3,
}

/// The word in which a CPU publishes its [`Attention`]. The owner writes it and then looks into its
/// mailbox by [`Mailbox::is_surely_empty`] or [`Mailbox::drain`]; a pusher pushes into the mailbox
/// and then reads the word. Both change the mailbox in between, so at least one of them sees the
/// other.
pub struct AttentionWord(AtomicU8);

impl AttentionWord {
    const_fn! {
        /// Creates a word that says [`Attention::Solo`].
        pub fn new() -> Self {
            Self(AtomicU8::new(Attention::Solo as u8))
        }
    }

    /// Publishes `attention`. The owner looks into its mailbox afterwards. A plain store suffices:
    /// the write to the mailbox that follows orders it before every later push.
    #[inline(always)]
    pub fn publish(&self, attention: Attention) {
        self.0.store(attention as u8, Ordering::Release);
    }

    /// Publishes `attention` and drains the mailbox: an earlier pusher may have read a word that
    /// wanted no interrupt. This takes the exchange of `drain`, because a plain load could miss
    /// that push.
    #[inline(always)]
    pub fn publish_and_take<T: Linked>(&self, attention: Attention, mailbox: &Mailbox<T>, each: impl FnMut(*mut T)) {
        self.publish(attention);
        mailbox.drain(each);
    }

    /// Returns true if `attention` was published last. Only the owner calls this.
    #[inline(always)]
    pub fn is(&self, attention: Attention) -> bool {
        // Relaxed, because only the owner writes the word.
        self.0.load(Ordering::Relaxed) == attention as u8
    }

    /// Returns true if the CPU is idle.
    pub fn is_idle(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word == Attention::Asleep as u8 || word == Attention::Polling as u8
    }

    /// Returns true if the owner must be interrupted to see a push. The caller has just pushed.
    #[inline(always)]
    pub fn wants_interrupt(&self) -> bool {
        self.0.load(Ordering::Acquire) < Attention::Ticking as u8
    }
}
