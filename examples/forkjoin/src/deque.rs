//! A work-stealing deque: its owner pushes and pops at one end, thieves take at the other.
//!
//! Chase and Lev, "Dynamic circular work-stealing deque" (SPAA 2005), with the memory orders of Lê,
//! Pop, Cohen and Zappa Nardelli, "Correct and efficient work-stealing for weak memory models"
//! (PPoPP 2013). The capacity is fixed: an owner that finds the deque full does the work at once.
//! The deque is a file of its own because the model checker includes it.

use core::ptr;

use super::atomic::{AtomicIsize, AtomicPtr, Ordering, fence};

/// A work-stealing deque of pointers.
pub struct Deque<T, const CAPACITY: usize> {
    /// Index of the next item to be pushed. Written only by the owner.
    bottom: AtomicIsize,
    /// Index of the oldest item.
    top: AtomicIsize,
    slots: [AtomicPtr<T>; CAPACITY],
}

/// The result of an attempt to steal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stolen<T> {
    /// The oldest item.
    One(*mut T),
    /// Another thread took the item first.
    Lost,
    /// The deque is empty.
    Empty,
}

impl<T, const CAPACITY: usize> Default for Deque<T, CAPACITY> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const CAPACITY: usize> Deque<T, CAPACITY> {
    const MASK: isize = {
        assert!(CAPACITY.is_power_of_two());
        CAPACITY as isize - 1
    };

    /// Creates an empty deque.
    pub fn new() -> Self {
        let slots = core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        Self { bottom: AtomicIsize::new(0), top: AtomicIsize::new(0), slots }
    }

    #[inline(always)]
    fn slot(&self, index: isize) -> &AtomicPtr<T> {
        &self.slots[(index & Self::MASK) as usize]
    }

    /// Pushes an item; returns false if the deque is full. Only the owner may call this.
    #[inline(always)]
    pub fn push(&self, item: *mut T) -> bool {
        let bottom = self.bottom.load(Ordering::Relaxed);
        let top = self.top.load(Ordering::Acquire);
        if bottom.wrapping_sub(top) >= CAPACITY as isize {
            return false;
        }
        self.slot(bottom).store(item, Ordering::Relaxed);
        // A release fence rather than a release store: a thread that reads this bottom, or one that
        // a later `pop` stores, must see the item.
        fence(Ordering::Release);
        self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
        true
    }

    /// Takes the youngest item. Only the owner may call this.
    #[inline(always)]
    pub fn pop(&self) -> Option<*mut T> {
        let bottom = self.bottom.load(Ordering::Relaxed).wrapping_sub(1);
        self.bottom.store(bottom, Ordering::Relaxed);
        // Either thieves see the lowered bottom, or this thread sees the top that they raised.
        fence(Ordering::SeqCst);
        let top = self.top.load(Ordering::Relaxed);
        let left = bottom.wrapping_sub(top);
        if left < 0 {
            self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
            return None;
        }
        let item = self.slot(bottom).load(Ordering::Relaxed);
        if left > 0 {
            return Some(item);
        }
        // The last item: thieves may compete for it, and the exchange decides.
        let won = self.top.compare_exchange(top, top.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed).is_ok();
        self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
        won.then_some(item)
    }

    /// Takes the oldest item. Any thread may call this.
    pub fn steal(&self) -> Stolen<T> {
        let top = self.top.load(Ordering::Acquire);
        fence(Ordering::SeqCst);
        let bottom = self.bottom.load(Ordering::Acquire);
        if bottom.wrapping_sub(top) <= 0 {
            return Stolen::Empty;
        }
        let item = self.slot(top).load(Ordering::Relaxed);
        match self.top.compare_exchange(top, top.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => Stolen::One(item),
            Err(_) => Stolen::Lost,
        }
    }

    /// Returns true if the deque seems empty.
    pub fn is_empty(&self) -> bool {
        self.bottom.load(Ordering::Relaxed).wrapping_sub(self.top.load(Ordering::Relaxed)) <= 0
    }
}
