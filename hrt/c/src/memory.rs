//! `malloc` and its kind, on the program's heap.

use core::ffi::{c_int, c_void};
use core::ptr;

use hrt::raw::{aero_allocate, aero_allocated_size, aero_free};

use crate::process::{EINVAL, ENOMEM, set_errno};

/// What `malloc` aligns to (System V ABI, AMD64 supplement, 3.1.2).
const ALIGN: usize = 16;

fn allocate(size: usize, align: usize) -> *mut c_void {
    // SAFETY: no condition.
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
        // SAFETY: as many bytes of ours.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's block.
    let before = unsafe { aero_allocated_size(block.cast()) };
    let new = allocate(size, ALIGN);
    if !new.is_null() {
        // SAFETY: both have as many bytes, and the caller has no more use for the old one.
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
        // SAFETY: the caller's block.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => {
            set_errno(ENOMEM);
            ptr::null_mut()
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: null, or the caller's block.
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
    // SAFETY: no condition.
    let new = unsafe { aero_allocate(size.max(1), align.max(ALIGN), hrt::abi::ANY) };
    if new.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's place for it.
    unsafe { block.write(new.cast()) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: null, or the caller's block.
    unsafe { aero_allocated_size(block.cast()) }
}
