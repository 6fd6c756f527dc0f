//! Per-CPU caches of free objects by size class, the fast path of the allocator: no locks, bounded
//! time.

use core::ptr::{self, NonNull};

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
    first: *mut FreeObject,
    count: usize,
    /// Largest number of objects the cache keeps.
    limit: usize,
}

/// The caches of all classes of one CPU. Only that CPU touches them, with interrupts off.
pub struct ObjectCaches {
    /// Start and span in bytes of the memory whose objects are cached here: that of the CPU's own
    /// node.
    home: (usize, usize),
    classes: [ClassCache; CLASSES],
}

// SAFETY: the free objects belong to the caches and move with them; they are tied to no thread.
unsafe impl Send for ObjectCaches {}

impl ObjectCaches {
    /// Returns empty caches.
    pub const fn new() -> Self {
        Self { home: (0, 0), classes: [const { ClassCache { first: ptr::null_mut(), count: 0, limit: 0 } }; CLASSES] }
    }

    /// Returns empty caches for the memory range given. They have no limit, so they never return
    /// objects to a zone.
    pub fn of_span(start: usize, length: usize) -> Self {
        let mut caches = Self::new();
        caches.home = (start, length);
        for cache in &mut caches.classes {
            cache.limit = usize::MAX - 1;
        }
        caches
    }

    /// Sets the node that the CPU belongs to, and the limits of the classes.
    pub fn set_home(&mut self, node: usize) {
        self.home = zone::span(node);
        for (class, cache) in self.classes.iter_mut().enumerate() {
            cache.limit = limit(class);
        }
    }

    /// Takes an object. If the cache is empty, it is first refilled from the node's zone or the
    /// nearest one with memory.
    #[inline(always)]
    pub fn allocate(&mut self, class: usize, node: usize) -> Option<NonNull<u8>> {
        let cache = &mut self.classes[class];
        match NonNull::new(cache.first) {
            Some(object) => {
                // SAFETY: the object is on the cache's list, so it is free, holds a link, and
                // belongs to this cache.
                cache.first = unsafe { object.as_ref() }.next;
                cache.count -= 1;
                Some(object.cast())
            }
            None => cache.refill(class, node),
        }
    }

    /// Takes an object back. One of another node's memory goes straight to its zone, so that this
    /// cache stays local.
    #[inline(always)]
    pub fn free(&mut self, at: NonNull<u8>, class: usize) {
        let cache = &mut self.classes[class];
        if (at.as_ptr() as usize).wrapping_sub(self.home.0) >= self.home.1 {
            return send_home(at, class);
        }
        cache.put(at);
        if cache.count > cache.limit {
            cache.drain(class, cache.limit - BATCH.min(cache.limit / 2));
        }
    }

    /// Returns all objects to their zones.
    pub fn flush(&mut self) {
        for (class, cache) in self.classes.iter_mut().enumerate() {
            cache.drain(class, 0);
        }
    }

    /// Returns the bytes of the free objects.
    pub fn bytes(&self) -> u64 {
        self.classes.iter().enumerate().map(|(class, cache)| (cache.count * size_of_class(class)) as u64).sum()
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
    fn put(&mut self, at: NonNull<u8>) {
        let object = at.cast::<FreeObject>();
        // SAFETY: the object is free and ours, and has at least 16 bytes, aligned to its size, so
        // it can hold the link.
        unsafe { object.write(FreeObject { next: self.first }) };
        self.first = object.as_ptr();
        self.count += 1;
    }

    fn take(&mut self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.first)?;
        // SAFETY: the object is on this cache's list, so it is free and holds a link.
        self.first = unsafe { object.as_ref() }.next;
        self.count -= 1;
        Some(object.cast())
    }

    #[cold]
    fn refill(&mut self, class: usize, node: usize) -> Option<NonNull<u8>> {
        if let Some(object) = super::aside::allocate(size_of_class(class)) {
            return object;
        }
        zone::find_nearest(node, |zone| {
            (0..BATCH).map_while(|_| zone.allocate_object(class)).for_each(|object| self.put(object));
            self.take()
        })
    }

    #[cold]
    fn drain(&mut self, class: usize, keep: usize) {
        while self.count > keep {
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
