//! Per-CPU caches of free objects by size class, the fast path of the allocator: no locks, bounded
//! time.

use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::zone;
use crate::lock::passing;

/// Largest cached size, in bytes.
pub const CACHED_LIMIT: usize = 4096;
/// Number of size classes: the powers of two from 16 to [`CACHED_LIMIT`].
pub const CLASSES: usize = 9;
const SMALLEST_SHIFT: u32 = 4;
/// A class keeps at most this many bytes of free objects on a CPU, and at most [`CLASS_OBJECTS`]
/// objects.
const CLASS_BYTES: usize = 32 * 1024;
const CLASS_OBJECTS: usize = 128;

/// Number of objects taken from a zone or returned to it at once: few, so that no single allocation
/// takes long.
const BATCH: usize = 8;

/// Returns the class of a size from 1 to [`CACHED_LIMIT`].
#[inline(always)]
pub fn class_of(size: usize) -> usize {
    let largest_in_smallest = (1 << SMALLEST_SHIFT) - 1;
    ((size.wrapping_sub(1) | largest_in_smallest).ilog2() + 1 - SMALLEST_SHIFT) as usize
}

/// Returns the object size of a class, in bytes.
#[inline(always)]
pub const fn size_of_class(class: usize) -> usize {
    1 << (class as u32 + SMALLEST_SHIFT)
}

/// Returns the largest number of objects that a class keeps.
const fn limit(class: usize) -> usize {
    let fitting = CLASS_BYTES / size_of_class(class);
    if fitting < CLASS_OBJECTS { fitting } else { CLASS_OBJECTS }
}

/// A free object, which holds the link to the next one.
struct FreeObject {
    next: *mut FreeObject,
}

struct ClassCache {
    first: Cell<*mut FreeObject>,
    /// Number of objects. The owning CPU alone changes it; any CPU may read it.
    count: AtomicUsize,
    /// Largest number of objects the cache keeps.
    limit: Cell<usize>,
}

/// The caches of all classes of one CPU. Only that CPU uses them, with interrupts off, except for
/// [`ObjectCaches::bytes`]. All access is by shared references, so that another CPU may hold one.
pub struct ObjectCaches {
    /// Start and span in bytes of the memory whose objects are cached here: that of the CPU's own
    /// node.
    home: Cell<(usize, usize)>,
    classes: [ClassCache; CLASSES],
}

// SAFETY: the free objects belong to the caches and move with them; they are tied to no thread.
unsafe impl Send for ObjectCaches {}
// SAFETY: every method but `bytes`, which reads atomics only, obliges its caller to be the owning
// CPU with interrupts off, so the cells are never accessed by two CPUs.
unsafe impl Sync for ObjectCaches {}

impl ObjectCaches {
    /// Returns empty caches.
    pub const fn new() -> Self {
        Self {
            home: Cell::new((0, 0)),
            classes: [const {
                ClassCache { first: Cell::new(ptr::null_mut()), count: AtomicUsize::new(0), limit: Cell::new(0) }
            }; CLASSES],
        }
    }

    /// Returns empty caches for the memory range given. They have no limit, so they never return
    /// objects to a zone.
    pub fn of_span(start: usize, length: usize) -> Self {
        let caches = Self::new();
        caches.home.set((start, length));
        for cache in &caches.classes {
            cache.limit.set(usize::MAX - 1);
        }
        caches
    }

    /// Sets the node that the CPU belongs to, and the limits of the classes.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off, or before that CPU runs.
    pub unsafe fn set_home(&self, node: usize) {
        self.home.set(zone::span(node));
        for (class, cache) in self.classes.iter().enumerate() {
            cache.limit.set(limit(class));
        }
    }

    /// Takes an object. If the cache is empty, it is first refilled from the node's zone or the
    /// nearest one with memory.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off.
    #[inline(always)]
    pub unsafe fn allocate(&self, class: usize, node: usize) -> Option<NonNull<u8>> {
        let cache = &self.classes[class];
        cache.take().or_else(|| cache.refill(class, node))
    }

    /// Takes an object back. One of another node's memory goes straight to its zone, so that this
    /// cache stays local.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off. The object is of this class and not used any
    /// more.
    #[inline(always)]
    pub unsafe fn free(&self, at: NonNull<u8>, class: usize) {
        let cache = &self.classes[class];
        let (start, length) = self.home.get();
        if (at.as_ptr() as usize).wrapping_sub(start) >= length {
            return send_home(at, class);
        }
        cache.put(at);
        let limit = cache.limit.get();
        if cache.count() > limit {
            cache.drain(class, limit - BATCH.min(limit / 2));
        }
    }

    /// Returns all objects to their zones.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off.
    pub unsafe fn flush(&self) {
        for (class, cache) in self.classes.iter().enumerate() {
            cache.drain(class, 0);
        }
    }

    /// Exchanges the contents with those of other caches.
    ///
    /// # Safety
    /// Called on the CPU that owns both, with interrupts off.
    pub unsafe fn exchange(&self, other: &Self) {
        self.home.swap(&other.home);
        for (ours, theirs) in self.classes.iter().zip(&other.classes) {
            ours.first.swap(&theirs.first);
            ours.limit.swap(&theirs.limit);
            let count = ours.count();
            ours.set_count(theirs.count());
            theirs.set_count(count);
        }
    }

    /// Returns the bytes of the free objects. From another CPU, as they were at some moment during
    /// the call, and at most a batch off for each class.
    pub fn bytes(&self) -> u64 {
        self.classes.iter().enumerate().map(|(class, cache)| (cache.count() * size_of_class(class)) as u64).sum()
    }
}

/// Returns an object of another node's memory to its zone.
fn send_home(at: NonNull<u8>, class: usize) {
    // A function on a stopped machine must not touch the zones: memory from before the stop is not
    // freed.
    if !passing::is_here() {
        zone::of(at).lock().free_object(at, class);
    }
}

impl ClassCache {
    #[inline(always)]
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// A plain store suffices, because only the owning CPU writes.
    #[inline(always)]
    fn set_count(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }

    #[inline(always)]
    fn put(&self, at: NonNull<u8>) {
        let object = at.cast::<FreeObject>();
        // SAFETY: the object is free and ours, and has at least 16 bytes, aligned to its size, so
        // it can hold the link.
        unsafe { object.write(FreeObject { next: self.first.get() }) };
        self.first.set(object.as_ptr());
        self.set_count(self.count() + 1);
    }

    #[inline(always)]
    fn take(&self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.first.get())?;
        // SAFETY: the object is on this cache's list, so it is free and holds a link.
        self.first.set(unsafe { object.as_ref() }.next);
        self.set_count(self.count() - 1);
        Some(object.cast())
    }

    #[cold]
    fn refill(&self, class: usize, node: usize) -> Option<NonNull<u8>> {
        if let Some(object) = super::aside::allocate(size_of_class(class)) {
            return object;
        }
        zone::find_nearest(node, |zone| {
            (0..BATCH).map_while(|_| zone.allocate_object(class)).for_each(|object| self.put(object));
            self.take()
        })
    }

    #[cold]
    fn drain(&self, class: usize, keep: usize) {
        while self.count() > keep {
            let Some(object) = self.take() else { return };
            zone::of(object).lock().free_object(object, class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_not_the_one_below() {
        for size in 1..=CACHED_LIMIT {
            let class = class_of(size);
            assert!(size_of_class(class) >= size);
            assert!(class == 0 || size_of_class(class - 1) < size, "{size} is in class {class}");
        }
        assert_eq!(class_of(CACHED_LIMIT), CLASSES - 1);
    }
}
