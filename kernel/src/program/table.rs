//! A table that grows, whose entries never move and are reached by index without a lock.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::memory::{self, OutOfMemory, Placement};

/// Number of entries in the first chunk; each further chunk has twice as many as the one before.
const FIRST: usize = 32;
const CHUNKS: usize = 24;

/// Entries indexed from 0. They are shared, and are not dropped with the table.
pub(super) struct Table<T> {
    chunks: [AtomicPtr<T>; CHUNKS],
    length: AtomicUsize,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        const { assert!(!core::mem::needs_drop::<T>(), "entries are not dropped") };
        Self { chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS], length: AtomicUsize::new(0) }
    }

    /// Returns the chunk of an entry, and the entry's offset in it.
    fn place(index: usize) -> (usize, usize) {
        let number = index + FIRST;
        let chunk = (number.ilog2() - FIRST.ilog2()) as usize;
        (chunk, number - (FIRST << chunk))
    }

    fn layout(chunk: usize) -> Layout {
        // The chunk has been allocated with this layout, so its size is within bounds.
        Layout::array::<T>(FIRST << chunk).unwrap_or(Layout::new::<T>())
    }

    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len() {
            return None;
        }
        let (chunk, offset) = Self::place(index);
        // SAFETY: `push` wrote every entry below the length before it raised the length, and chunks
        // live as long as the table.
        unsafe { self.chunks[chunk].load(Ordering::Relaxed).add(offset).as_ref() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Adds an entry and returns its index. Only one caller at a time.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn push(&self, entry: T) -> Result<usize, OutOfMemory> {
        let index = self.len();
        let (chunk, offset) = Self::place(index);
        let place = self.chunks.get(chunk).ok_or(OutOfMemory)?;
        if place.load(Ordering::Relaxed).is_null() {
            let memory =
                memory::allocate(Layout::array::<T>(FIRST << chunk).map_err(|_| OutOfMemory)?, Placement::Near)?;
            place.store(memory.cast().as_ptr(), Ordering::Relaxed);
        }
        // SAFETY: the chunk has room for the entry, and no reader goes beyond the length, which is
        // raised afterwards.
        unsafe { place.load(Ordering::Relaxed).add(offset).write(entry) };
        self.length.store(index + 1, Ordering::Release);
        Ok(index)
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        for (chunk, memory) in self.chunks.iter().enumerate() {
            if let Some(memory) = NonNull::new(memory.load(Ordering::Relaxed)) {
                // SAFETY: `push` allocated the chunk with this layout, and the table is borrowed
                // exclusively.
                unsafe { memory::free(memory.cast(), Self::layout(chunk)) };
            }
        }
    }
}
