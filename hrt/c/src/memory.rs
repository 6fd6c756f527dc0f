//! The `malloc` family, on the program's heap.

use core::ffi::{c_int, c_void};
use core::ptr;

use hrt::raw::{aero_allocate, aero_allocated_size, aero_free};

use crate::process::{EINVAL, ENOMEM, set_errno};

/// Alignment that `malloc` guarantees, in bytes (System V ABI, AMD64 supplement, 3.1.2).
const ALIGN: usize = 16;

fn allocate(size: usize, align: usize) -> *mut c_void {
    // SAFETY: the interface allows this call in any state; it returns null for a request it cannot
    // meet.
    let block = unsafe { aero_allocate(size.max(1), align, hrt::abi::ANY) };
    if block.is_null() {
        set_errno(ENOMEM);
    }
    block.cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(size, ALIGN)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else {
        set_errno(ENOMEM);
        return ptr::null_mut();
    };
    let block = allocate(bytes, ALIGN);
    if !block.is_null() {
        // SAFETY: the block was just allocated with at least this many bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller passes a block from this allocator, as the C standard requires.
    let before = unsafe { aero_allocated_size(block.cast()) };
    let new = allocate(size, ALIGN);
    if !new.is_null() {
        // SAFETY: both blocks have at least this many bytes and are distinct, and the caller does
        // not use the old one again.
        unsafe {
            ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast(), before.min(size));
            free(block);
        }
    }
    new
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller passes null or a block from this allocator, which it does not use
        // again.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => {
            set_errno(ENOMEM);
            ptr::null_mut()
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller passes null or a block from this allocator, which it does not use again.
    unsafe { aero_free(block.cast()) };
}

#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        set_errno(EINVAL);
        return ptr::null_mut();
    }
    allocate(size, align.max(ALIGN))
}

#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    aligned_alloc(align, size)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(block: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<usize>() {
        return EINVAL;
    }
    // SAFETY: the interface allows this call in any state; it returns null for a request it cannot
    // meet.
    let new = unsafe { aero_allocate(size.max(1), align.max(ALIGN), hrt::abi::ANY) };
    if new.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller passes a place for the pointer that is valid for writes.
    unsafe { block.write(new.cast()) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the caller passes null or a live block from this allocator.
    unsafe { aero_allocated_size(block.cast()) }
}
