//! The mailbox of a CPU: any CPU pushes, the owner takes everything. Lock-free; keeps every item,
//! in order.

use core::ptr;

use crate::atomic::{AtomicPtr, Ordering, const_fn};

/// An item that can be in one mailbox or list at a time.
pub trait Linked: Sized {
    /// Returns the link to the next item, used by the current holder of this one.
    fn next(&self) -> &AtomicPtr<Self>;
}

/// A stack of items, chained by their own links, that any CPU can push to.
pub struct Mailbox<T> {
    newest: AtomicPtr<T>,
}

impl<T: Linked> Mailbox<T> {
    const_fn! {
        /// Creates an empty mailbox.
        pub fn new() -> Self {
            Self { newest: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    /// Returns true if the mailbox was empty at some moment during the call. The plain load is
    /// cheaper than an exchange, but can miss the most recent push.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.newest.load(Ordering::Relaxed).is_null()
    }

    /// Returns true if the mailbox was empty when the owner's last `AttentionWord::publish` became
    /// visible to all later pushers. The compare-exchange writes what it reads: a push either comes
    /// before it and is seen, or comes after it and synchronizes with it, so that the pusher sees
    /// what the owner published. Only the owner calls this.
    #[inline(always)]
    pub fn is_surely_empty(&self) -> bool {
        self.newest.compare_exchange(ptr::null_mut(), ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Pushes an item. Returns true if it is the first one, so that the caller has to notify the
    /// owner.
    ///
    /// # Safety
    /// `item` is in no mailbox or list, and stays valid until the owner has taken it.
    #[inline(always)]
    pub unsafe fn push(&self, item: *const T) -> bool {
        let item = item.cast_mut();
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller guarantees that `item` is valid and in no list, so no other CPU
            // writes its link.
            unsafe { (*item).next().store(newest, Ordering::Relaxed) };
            // Release, so that the owner sees the item. Acquire, so that a pusher that comes after
            // the owner's look sees what the owner published before. That `newest` was taken and
            // pushed again in between does no harm, because the link is to it and to nothing behind
            // it.
            match self.newest.compare_exchange_weak(newest, item, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return newest.is_null(),
                Err(now) => newest = now,
            }
        }
    }

    /// Takes everything, oldest first, and passes each item to `each`. Only the owner calls this.
    #[inline(always)]
    pub fn drain(&self, mut each: impl FnMut(*mut T)) {
        // Everything at once, because taking single items from a stack would meet items that come
        // back (ABA). Release as in `is_surely_empty`, for later pushers.
        let mut newest = self.newest.swap(ptr::null_mut(), Ordering::AcqRel);
        let mut oldest = ptr::null_mut::<T>();
        // Pushing makes a stack; reversing it restores the order of arrival.
        while !newest.is_null() {
            // SAFETY: pushed items stay valid until taken, and the exchange made all of them the
            // owner's.
            let item = unsafe { &*newest };
            // Relaxed, because the exchange has made all links visible, and no other CPU touches
            // them now.
            let following = item.next().load(Ordering::Relaxed);
            item.next().store(oldest, Ordering::Relaxed);
            oldest = newest;
            newest = following;
        }
        while !oldest.is_null() {
            // SAFETY: the item is valid and the owner's; its link is read before `each` may reuse
            // it.
            let following = unsafe { (*oldest).next().load(Ordering::Relaxed) };
            each(oldest);
            oldest = following;
        }
    }
}
