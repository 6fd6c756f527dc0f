//! A work-stealing deque: its owner pushes and pops at one end, thieves take at the other.
//!
//! Chase and Lev, "Dynamic circular work-stealing deque" (SPAA 2005), with the memory orders of Lê, Pop, Cohen and Zappa
//! Nardelli, "Correct and efficient work-stealing for weak memory models" (PPoPP 2013). Of fixed capacity: whoever finds
//! it full does the work at once. In a file of its own because the model checker includes it.

use core::ptr;

use super::atomic::{AtomicIsize, AtomicPtr, Ordering, fence};

/// A deque of pointers.
pub struct Deque<T, const CAPACITY: usize> {
    /// Where the next one goes. Written by the owner.
    bottom: AtomicIsize,
    /// Where the oldest one is.
    top: AtomicIsize,
    slots: [AtomicPtr<T>; CAPACITY],
}

/// What a thief got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stolen<T> {
    /// The oldest one.
    One(*mut T),
    /// Somebody else was faster.
    Lost,
    /// There is none.
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

    /// An empty one.
    pub fn new() -> Self {
        let slots = core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        Self { bottom: AtomicIsize::new(0), top: AtomicIsize::new(0), slots }
    }

    #[inline(always)]
    fn slot(&self, index: isize) -> &AtomicPtr<T> {
        &self.slots[(index & Self::MASK) as usize]
    }

    /// Puts one in; false if the deque is full. By the owner.
    #[inline(always)]
    pub fn push(&self, item: *mut T) -> bool {
        let bottom = self.bottom.load(Ordering::Relaxed);
        let top = self.top.load(Ordering::Acquire);
        if bottom.wrapping_sub(top) >= CAPACITY as isize {
            return false;
        }
        self.slot(bottom).store(item, Ordering::Relaxed);
        // A fence, so that whoever reads this bottom, or one that `pop` stores later, finds the item.
        fence(Ordering::Release);
        self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
        true
    }

    /// Takes the youngest out. By the owner.
    #[inline(always)]
    pub fn pop(&self) -> Option<*mut T> {
        let bottom = self.bottom.load(Ordering::Relaxed).wrapping_sub(1);
        self.bottom.store(bottom, Ordering::Relaxed);
        // Thieves see the bottom lowered, or this sees their top raised.
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
        // The last one: thieves may want it too.
        let won = self.top.compare_exchange(top, top.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed).is_ok();
        self.bottom.store(bottom.wrapping_add(1), Ordering::Relaxed);
        won.then_some(item)
    }

    /// Takes the oldest one out. By anybody.
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

    /// True if there seems to be nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bottom.load(Ordering::Relaxed).wrapping_sub(self.top.load(Ordering::Relaxed)) <= 0
    }
}
