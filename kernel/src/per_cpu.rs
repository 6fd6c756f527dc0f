//! Per-CPU variables: a value for each CPU, on cache lines of its own.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;

use crate::cpu::{self, CacheLine};
use crate::lock::InterruptGuard;
use crate::memory::OutOfMemory;

/// A value for each CPU.
pub struct PerCpu<T> {
    values: Box<[CacheLine<UnsafeCell<T>>]>,
}

// SAFETY: a CPU's value is only borrowed on that CPU with interrupts off, or by an exclusive borrow of all.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// Makes a value for each CPU, by its index.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(mut make: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory> {
        let mut values = Vec::new();
        values.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        values.extend((0..cpu::limit()).map(|index| CacheLine(UnsafeCell::new(make(index)))));
        Ok(Self { values: values.into_boxed_slice() })
    }

    /// Calls `access` with this CPU's value, interrupts off. It must not block, and not come back here.
    #[inline(always)]
    pub fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
        let _guard = InterruptGuard::new();
        // SAFETY: this CPU's value, interrupts off; `access` does not come back, so there is one borrow.
        access(unsafe { &mut *self.values[cpu::this().index].0.get() })
    }

    /// All values, by CPU, for whoever has it alone.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().map(|value| value.0.get_mut())
    }
}

impl<T: Copy> PerCpu<T> {
    /// This CPU's value.
    #[inline(always)]
    pub fn get(&self) -> T {
        self.with(|value| *value)
    }

    /// Sets this CPU's value.
    #[inline(always)]
    pub fn set(&self, value: T) {
        self.with(|place| *place = value);
    }
}
