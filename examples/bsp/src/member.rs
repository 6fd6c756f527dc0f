//! The runtime: members, supersteps, messages.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

use platform::Collective;

/// A message, and the superstep in which it was sent.
#[derive(Default)]
struct Message {
    step: usize,
    values: Vec<f64>,
}

/// The slot for messages from one member to another.
struct Slot(UnsafeCell<Message>);

// SAFETY: in a superstep the sender writes the slots of the step's parity and the receiver reads
// those of the other, and all members meet between two supersteps, so no slot is accessed
// concurrently.
unsafe impl Sync for Slot {}

struct Shared {
    collective: Collective,
    /// Indexed by the superstep's parity, then by receiver and sender.
    slots: [Vec<Slot>; 2],
}

/// A member of a computation. All members must call [`Member::sync`] and [`Member::reduce`] equally
/// often, in the same order.
pub struct Member {
    shared: Arc<Shared>,
    rank: usize,
    /// The current superstep, counted from 1, so that no empty slot looks like a message of step 0.
    step: usize,
}

/// Runs `body` on `count` members, on CPUs 0 to `count` - 1: the calling thread, which is member 0
/// and whose result is returned, and new threads.
pub fn run<T>(count: usize, body: impl Fn(&mut Member) -> T + Send + Clone + 'static) -> T {
    let slots = || (0..count * count).map(|_| Slot(UnsafeCell::default())).collect();
    let shared = Arc::new(Shared { collective: Collective::new(count), slots: [slots(), slots()] });
    platform::move_to(0);
    let others: Vec<_> = (1..count)
        .map(|rank| {
            let (shared, body) = (shared.clone(), body.clone());
            platform::spawn("member", rank, move || {
                body(&mut Member { shared, rank, step: 1 });
            })
        })
        .collect();
    let result = body(&mut Member { shared, rank: 0, step: 1 });
    others.into_iter().for_each(platform::Thread::join);
    result
}

impl Member {
    /// Returns the member's rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of members.
    pub fn count(&self) -> usize {
        self.shared.collective.size()
    }

    fn slot(&self, step: usize, to: usize, from: usize) -> *mut Message {
        self.shared.slots[step % 2][to * self.count() + from].0.get()
    }

    /// Sends values to a member, which receives them in the next superstep. At most one message per
    /// receiver and superstep.
    pub fn put(&mut self, to: usize, values: &[f64]) {
        // SAFETY: only this member writes this slot, and it is read only after all members have
        // met.
        let message = unsafe { &mut *self.slot(self.step, to, self.rank) };
        message.step = self.step;
        message.values.clear();
        message.values.extend_from_slice(values);
    }

    /// Returns what a member sent in the last superstep; empty if it sent nothing.
    pub fn received(&self, from: usize) -> &[f64] {
        // SAFETY: the slot belongs to the last superstep, and its sender writes it again only after
        // all members have met.
        let message = unsafe { &*self.slot(self.step - 1, self.rank, from) };
        if message.step == self.step - 1 { &message.values } else { &[] }
    }

    /// Ends the superstep: waits for all members.
    #[inline]
    pub fn sync(&mut self) {
        self.shared.collective.barrier();
        self.step += 1;
    }

    /// Combines all members' values, in the order of their ranks.
    pub fn reduce(&self, value: f64, combine: impl Fn(f64, f64) -> f64) -> f64 {
        self.shared.collective.reduce(self.rank, value, combine)
    }
}
