//! The spin lock and the interrupt guard, the only mutual exclusion that works everywhere, in
//! interrupt handlers too.

use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use crate::arch::*;
pub use raw::RawSpinLock;

pub mod passing;
mod raw;

/// Keeps interrupts off on this CPU while it exists, and restores their earlier state afterwards.
/// Guards nest.
pub struct InterruptGuard {
    were_enabled: bool,
    /// A guard belongs to one CPU's flow of control.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl InterruptGuard {
    /// Turns interrupts off.
    #[inline(always)]
    pub fn new() -> Self {
        let were_enabled = Core::interrupts_enabled();
        Core::disable_interrupts();
        Self { were_enabled, _not_send: core::marker::PhantomData }
    }

    /// Returns true if dropping this guard turns interrupts on again.
    pub fn were_enabled(&self) -> bool {
        self.were_enabled
    }
}

impl Default for InterruptGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for InterruptGuard {
    #[inline(always)]
    fn drop(&mut self) {
        if self.were_enabled {
            Core::enable_interrupts();
        }
    }
}

/// Data that any CPU may access in any context, one at a time and with interrupts off. Hold the
/// lock briefly; never block while holding it.
pub struct SpinLock<T> {
    raw: RawSpinLock,
    data: UnsafeCell<T>,
}

// SAFETY: the raw lock admits one holder at a time, so sharing the lock only moves the data between
// CPUs.
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: sending the lock sends the data it owns and nothing else, and `T` can be sent.
unsafe impl<T: Send> Send for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Creates a free lock around `data`.
    pub const fn new(data: T) -> Self {
        Self { raw: RawSpinLock::new(), data: UnsafeCell::new(data) }
    }

    /// Turns interrupts off and takes the lock.
    #[inline(always)]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let interrupts = InterruptGuard::new();
        self.raw.lock();
        SpinGuard { lock: self, interrupts: ManuallyDrop::new(interrupts) }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let interrupts = InterruptGuard::new();
        self.raw.try_lock().then(|| SpinGuard { lock: self, interrupts: ManuallyDrop::new(interrupts) })
    }

    /// Returns the data. The exclusive borrow proves that nothing else accesses it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

/// A held [`SpinLock`]. Dropping the guard releases the lock and then restores the interrupt state.
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
    interrupts: ManuallyDrop<InterruptGuard>,
}

impl<T> SpinGuard<'_, T> {
    /// Releases the lock but leaves interrupts off.
    #[inline(always)]
    pub fn release(guard: Self) -> InterruptGuard {
        let mut guard = ManuallyDrop::new(guard);
        guard.lock.raw.unlock();
        // SAFETY: the guard is not dropped, so its interrupt guard moves out exactly once.
        unsafe { ManuallyDrop::take(&mut guard.interrupts) }
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock, so nothing else writes the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock and is borrowed exclusively, so nothing else accesses
        // the data.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.raw.unlock();
        // SAFETY: the interrupt guard is dropped only here, after the lock is released, and not
        // used again.
        unsafe { ManuallyDrop::drop(&mut self.interrupts) };
    }
}
