//! Per-CPU variables: a value for each CPU, on cache lines of its own.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::{self, CacheLine};
use crate::lock::InterruptGuard;
use crate::memory::OutOfMemory;

/// A value for each CPU.
pub struct PerCpu<T> {
    values: Box<[CacheLine<Value<T>>]>,
}

struct Value<T> {
    /// Set while the value is borrowed, on its CPU.
    is_borrowed: AtomicBool,
    value: UnsafeCell<T>,
}

/// A borrow of this CPU's value. Dropping it ends the borrow, also when a panic unwinds.
struct Borrow<'a>(&'a AtomicBool);

impl Drop for Borrow<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // The reference is to the mark of the CPU that was borrowed from, even if the borrower has
        // moved since.
        self.0.store(false, Ordering::Release);
    }
}

// SAFETY: a CPU's value is borrowed only on that CPU with interrupts off, or through an exclusive
// borrow of the whole variable.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// Creates a value for each CPU from the CPU's index.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(mut make: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory> {
        let mut values = Vec::new();
        values.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        values.extend((0..cpu::limit()).map(|index| {
            CacheLine(Value { is_borrowed: AtomicBool::new(false), value: UnsafeCell::new(make(index)) })
        }));
        Ok(Self { values: values.into_boxed_slice() })
    }

    /// Calls `access` with this CPU's value and interrupts off. `access` must not block.
    ///
    /// # Panics
    /// If `access` uses the same variable again.
    #[inline(always)]
    pub fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> R {
        let _guard = InterruptGuard::new();
        let Value { is_borrowed, value } = &self.values[cpu::this().index].0;
        assert!(!is_borrowed.load(Ordering::Acquire), "a per-CPU variable was used by the code that is using it");
        is_borrowed.store(true, Ordering::Relaxed);
        let _borrow = Borrow(is_borrowed);
        // SAFETY: this is the current CPU's value with interrupts off, and the mark shows that no
        // other borrow of it exists.
        access(unsafe { &mut *value.get() })
    }

    /// Returns all values, ordered by CPU. Needs exclusive access to the variable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().map(|value| value.0.value.get_mut())
    }
}

impl<T: Copy> PerCpu<T> {
    /// Returns this CPU's value.
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
