//! The mailbox of a CPU: others push, its owner takes everything. Lock free, nothing is lost, order is kept.

use core::ptr;

use crate::atomic::{AtomicPtr, Ordering, const_fn};

/// Something that can be in one mailbox or list at a time.
pub trait Linked: Sized {
    /// The link to the next one, used by whoever holds the item.
    fn next(&self) -> &AtomicPtr<Self>;
}

/// Items pushed by any CPU, in a stack by their links.
pub struct Mailbox<T> {
    newest: AtomicPtr<T>,
}

impl<T: Linked> Mailbox<T> {
    const_fn! {
        /// An empty mailbox.
        pub fn new() -> Self {
            Self { newest: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    /// True if there was nothing in it at some moment during the call.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.newest.load(Ordering::Relaxed).is_null()
    }

    /// True if there was nothing in it when the owner's last `AttentionWord::publish` became
    /// visible to all later pushers. It writes what it reads: a push comes before it and is seen, or after it and
    /// synchronises with it, so that the pusher sees what the owner published. Only the owner calls this.
    #[inline(always)]
    pub fn is_surely_empty(&self) -> bool {
        self.newest.compare_exchange(ptr::null_mut(), ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Puts an item in; true if it was the first, so that somebody must tell the owner.
    ///
    /// # Safety
    /// `item` is in no mailbox or list, and stays valid until the owner has taken it.
    #[inline(always)]
    pub unsafe fn push(&self, item: *const T) -> bool {
        let item = item.cast_mut();
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller vouches for the item, which nobody else links meanwhile.
            unsafe { (*item).next().store(newest, Ordering::Relaxed) };
            match self.newest.compare_exchange_weak(newest, item, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return newest.is_null(),
                Err(now) => newest = now,
            }
        }
    }

    /// Takes everything, oldest first, handing each item to `each`. Only the owner calls this.
    #[inline(always)]
    pub fn drain(&self, mut each: impl FnMut(*mut T)) {
        let mut newest = self.newest.swap(ptr::null_mut(), Ordering::AcqRel);
        let mut oldest = ptr::null_mut::<T>();
        while !newest.is_null() {
            // SAFETY: pushed items are valid, and taking them all made them the owner's.
            let item = unsafe { &*newest };
            let following = item.next().load(Ordering::Relaxed);
            item.next().store(oldest, Ordering::Relaxed);
            oldest = newest;
            newest = following;
        }
        while !oldest.is_null() {
            // SAFETY: as above; the link is read before `each` may reuse it.
            let following = unsafe { (*oldest).next().load(Ordering::Relaxed) };
            each(oldest);
            oldest = following;
        }
    }
}
