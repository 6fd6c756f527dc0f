//! Per-CPU caches of free objects, by size class: the fast path of the allocator. No locks, bounded time.

use core::ptr::{self, NonNull};

use super::zone;
use crate::lock::passing;

/// Largest size that is cached, in bytes.
pub const CACHED_LIMIT: usize = 4096;
/// Sizes are powers of two from 16 to [`CACHED_LIMIT`].
pub const CLASSES: usize = 9;
const SMALLEST_SHIFT: u32 = 4;
/// Bytes of free objects a class may keep on a CPU, and the fewest objects it may keep whatever their size.
const CLASS_BYTES: usize = 32 * 1024;
const CLASS_OBJECTS: usize = 128;

/// Objects taken from a zone at once, or given back to it: few, so that no single allocation takes long.
const BATCH: usize = 8;

/// Class of a size from 1 to [`CACHED_LIMIT`].
#[inline(always)]
pub fn class_of(size: usize) -> usize {
    let largest_in_smallest = (1 << SMALLEST_SHIFT) - 1;
    ((size.wrapping_sub(1) | largest_in_smallest).ilog2() + 1 - SMALLEST_SHIFT) as usize
}

/// Object size of a class, in bytes.
#[inline(always)]
pub const fn size_of_class(class: usize) -> usize {
    1 << (class as u32 + SMALLEST_SHIFT)
}

/// Most objects a class keeps.
const fn limit(class: usize) -> usize {
    let fitting = CLASS_BYTES / size_of_class(class);
    if fitting < CLASS_OBJECTS { fitting } else { CLASS_OBJECTS }
}

/// A free object holds the link to the next.
struct FreeObject {
    next: *mut FreeObject,
}

struct ClassCache {
    first: *mut FreeObject,
    count: usize,
    /// Most objects it keeps.
    limit: usize,
}

/// All classes of one CPU. Touched by that CPU only, interrupts off.
pub struct ObjectCaches {
    /// Where the memory of the CPU's own node begins, and its span in bytes.
    home: (usize, usize),
    classes: [ClassCache; CLASSES],
}

// SAFETY: the free objects belong to whoever has the cache.
unsafe impl Send for ObjectCaches {}

impl ObjectCaches {
    /// Empty caches.
    pub const fn new() -> Self {
        Self { home: (0, 0), classes: [const { ClassCache { first: ptr::null_mut(), count: 0, limit: 0 } }; CLASSES] }
    }

    /// Empty caches of memory in a place.
    pub fn of_span(start: usize, length: usize) -> Self {
        let mut caches = Self::new();
        caches.home = (start, length);
        for cache in &mut caches.classes {
            cache.limit = usize::MAX - 1;
        }
        caches
    }

    /// Tells the cache which node is its CPU's.
    pub fn set_home(&mut self, node: usize) {
        self.home = zone::span(node);
        for (class, cache) in self.classes.iter_mut().enumerate() {
            cache.limit = limit(class);
        }
    }

    /// Takes an object, from the node's zone or the nearest with memory if the cache is empty.
    #[inline(always)]
    pub fn allocate(&mut self, class: usize, node: usize) -> Option<NonNull<u8>> {
        let cache = &mut self.classes[class];
        match NonNull::new(cache.first) {
            Some(object) => {
                // SAFETY: a free object of this cache, which is ours.
                cache.first = unsafe { object.as_ref() }.next;
                cache.count -= 1;
                Some(object.cast())
            }
            None => cache.refill(class, node),
        }
    }

    /// Takes an object back. One of another node goes straight home, so that this cache stays local.
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

    /// Bytes in free objects.
    pub fn bytes(&self) -> u64 {
        self.classes.iter().enumerate().map(|(class, cache)| (cache.count * size_of_class(class)) as u64).sum()
    }
}

/// Frees an object of another node.
fn send_home(at: NonNull<u8>, class: usize) {
    // On a stopped machine, what was there before stays.
    if !passing::is_here() {
        zone::of(at).lock().free_object(at, class);
    }
}

impl ClassCache {
    #[inline(always)]
    fn put(&mut self, at: NonNull<u8>) {
        let object = at.cast::<FreeObject>();
        // SAFETY: a free object of at least 16 bytes, aligned to its size.
        unsafe { object.write(FreeObject { next: self.first }) };
        self.first = object.as_ptr();
        self.count += 1;
    }

    fn take(&mut self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.first)?;
        // SAFETY: a free object of this cache.
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
