//! Memory: the allocator behind `alloc`'s containers, and placement on NUMA nodes. All memory
//! belongs to the program and is released at its end.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use crate::{Error, raw};

/// Allocates from the kernel, near the caller.
pub struct ProgramAllocator;

// SAFETY: the kernel returns null or a block of the requested size and alignment that it gives to
// no other caller.
unsafe impl GlobalAlloc for ProgramAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the interface allows this call in any state; it returns null for a request it
        // cannot meet.
        unsafe { raw::aero_allocate(layout.size(), layout.align(), abi::ANY) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: the trait requires that `memory` comes from `alloc` and is not used again.
        unsafe { raw::aero_free(memory) };
    }
}

/// Allocates on this NUMA node and no other.
///
/// # Errors
/// [`Error::OutOfMemory`]; [`Error::Invalid`] for a node number above 2^32 - 1.
pub fn allocate_on(node: usize, layout: Layout) -> Result<NonNull<u8>, Error> {
    let node = u32::try_from(node).map_err(|_| Error::Invalid)?;
    // SAFETY: the interface allows this call in any state; it returns null for a request it cannot
    // meet.
    NonNull::new(unsafe { raw::aero_allocate(layout.size(), layout.align(), node) }).ok_or(Error::OutOfMemory)
}

/// Frees memory from [`allocate_on`].
///
/// # Safety
/// The memory must come from [`allocate_on`], must not have been freed, and must not be used any
/// more.
pub unsafe fn free(memory: NonNull<u8>) {
    // SAFETY: the caller guarantees that the block comes from `allocate_on` and is not used any
    // more.
    unsafe { raw::aero_free(memory.as_ptr()) };
}
