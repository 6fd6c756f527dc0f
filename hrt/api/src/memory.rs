//! Memory: the allocator behind `alloc`'s containers, and placement on NUMA nodes. All of it is the program's own, and
//! given back at its end.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use crate::{Error, raw};

/// Allocates from the kernel, near the caller.
pub struct ProgramAllocator;

// SAFETY: the kernel gives memory of the layout, to the caller alone.
unsafe impl GlobalAlloc for ProgramAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no condition.
        unsafe { raw::aero_allocate(layout.size(), layout.align(), abi::ANY) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: from `alloc`, by the trait's condition.
        unsafe { raw::aero_free(memory) };
    }
}

/// Allocates on a NUMA node and no other.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn allocate_on(node: usize, layout: Layout) -> Result<NonNull<u8>, Error> {
    let node = u32::try_from(node).map_err(|_| Error::Invalid)?;
    // SAFETY: no condition.
    NonNull::new(unsafe { raw::aero_allocate(layout.size(), layout.align(), node) }).ok_or(Error::OutOfMemory)
}

/// Frees what [`allocate_on`] gave.
///
/// # Safety
/// It did, and nobody uses it any more.
pub unsafe fn free(memory: NonNull<u8>) {
    // SAFETY: by the caller's word.
    unsafe { raw::aero_free(memory.as_ptr()) };
}
