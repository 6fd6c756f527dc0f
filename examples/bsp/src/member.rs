//! The runtime: members, supersteps, messages.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

use platform::Collective;

/// A message, and the superstep it was put in.
#[derive(Default)]
struct Message {
    step: usize,
    values: Vec<f64>,
}

/// A place for a message from one member to another.
struct Slot(UnsafeCell<Message>);

// SAFETY: in a superstep the sender writes the slots of its parity, the receiver reads those of the other, and all
// members meet between two supersteps.
unsafe impl Sync for Slot {}

struct Shared {
    collective: Collective,
    /// By parity of the superstep, receiver, sender.
    slots: [Vec<Slot>; 2],
}

/// A member of a computation. All members call [`Member::sync`] and [`Member::reduce`] equally often, in the same order.
pub struct Member {
    shared: Arc<Shared>,
    rank: usize,
    /// From 1, so that no message is from the step before the first.
    step: usize,
}

/// Runs `body` on `count` members, on CPUs 0 to `count` - 1: the calling thread, which is member 0 and whose result is
/// returned, and new ones.
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
    /// Its rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of members.
    pub fn count(&self) -> usize {
        self.shared.collective.size()
    }

    fn slot(&self, step: usize, to: usize, from: usize) -> *mut Message {
        self.shared.slots[step % 2][to * self.count() + from].0.get()
    }

    /// Sends values to a member, who has them in the next superstep. One message to each member in a superstep.
    pub fn put(&mut self, to: usize, values: &[f64]) {
        // SAFETY: a slot of this superstep that only this member writes.
        let message = unsafe { &mut *self.slot(self.step, to, self.rank) };
        message.step = self.step;
        message.values.clear();
        message.values.extend_from_slice(values);
    }

    /// What a member sent in the last superstep; nothing if it did not.
    pub fn received(&self, from: usize) -> &[f64] {
        // SAFETY: a slot of the last superstep, which nobody writes until all have met again.
        let message = unsafe { &*self.slot(self.step - 1, self.rank, from) };
        if message.step == self.step - 1 { &message.values } else { &[] }
    }

    /// Ends the superstep.
    #[inline]
    pub fn sync(&mut self) {
        self.shared.collective.barrier();
        self.step += 1;
    }

    /// All members' values put together, by rank.
    pub fn reduce(&self, value: f64, combine: impl Fn(f64, f64) -> f64) -> f64 {
        self.shared.collective.reduce(self.rank, value, combine)
    }
}
