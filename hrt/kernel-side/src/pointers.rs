//! Checked access through a program's pointers. Memory is touched before an operation begins, while
//! a fault still counts as the program's own: the program then ends, and no operation is left half
//! done.

use abi::{INVALID, Status};

/// Size of a page in bytes, the unit in which memory is accessible or not.
const PAGE_SIZE: usize = 4096;

/// Reads one byte.
///
/// # Safety
/// Any address is safe for the kernel: an unreadable one ends the calling thread's program.
#[inline(always)]
unsafe fn touch(address: usize) {
    // SAFETY: the caller accepts that an unreadable address faults, which ends the program and
    // leaves the kernel unharmed.
    unsafe { (address as *const u8).read_volatile() };
}

/// Writes to a byte without changing it, in a single instruction so that no concurrent change is
/// lost. Compare-and-exchange performs its write cycle whether or not the comparison succeeds (SDM
/// Vol. 2, CMPXCHG), and the compiler does not elide it as it would other operations that change
/// nothing.
///
/// # Safety
/// Any address is safe for the kernel: an unwritable one ends the calling thread's program, as in
/// [`touch`].
#[inline(always)]
unsafe fn touch_to_write(address: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    // SAFETY: the caller accepts that an unwritable address faults; a byte has no alignment or
    // invalid values.
    let byte = unsafe { &*(address as *const AtomicU8) };
    let _ = core::hint::black_box(byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed));
}

/// Borrows the kernel's object in a program's memory, which both may read and write. `INVALID` for
/// null and misaligned pointers. Objects are smaller than a page.
///
/// # Safety
/// If the memory is writable, it must hold a `T` for the lifetime that the caller chooses.
#[inline(always)]
pub(crate) unsafe fn borrow<'a, T, O>(pointer: *const O) -> Result<&'a T, Status> {
    let pointer = pointer.cast::<T>();
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let (first, last) = (pointer as usize, pointer as usize + (size_of::<T>() - 1));
    // SAFETY: a fault here ends the program, and touching leaves the bytes unchanged.
    unsafe {
        touch_to_write(first);
        if first / PAGE_SIZE != last / PAGE_SIZE {
            touch_to_write(last);
        }
    }
    // SAFETY: the memory is aligned and accessible, and the caller guarantees that it holds a `T`
    // for this lifetime.
    Ok(unsafe { &*pointer })
}

/// Returns the place for a result, which is writable from here on. `INVALID` for null and
/// misaligned pointers.
///
/// # Safety
/// If the memory is writable, it must belong to the program and be free for a `T`.
#[inline(always)]
pub(crate) unsafe fn place<'a, T>(pointer: *mut T) -> Result<&'a mut core::mem::MaybeUninit<T>, Status> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let (first, last) = (pointer as usize, pointer as usize + (size_of::<T>().max(1) - 1));
    // SAFETY: a fault here ends the program, and touching leaves the bytes unchanged.
    unsafe {
        touch_to_write(first);
        if first / PAGE_SIZE != last / PAGE_SIZE {
            touch_to_write(last);
        }
    }
    // SAFETY: the memory is aligned and writable, the caller guarantees that it is free for a `T`,
    // and `MaybeUninit` accepts any content.
    Ok(unsafe { &mut *pointer.cast() })
}

/// Borrows a program's array, which is readable from here on. `INVALID` for misaligned pointers,
/// and for null unless the array is empty.
///
/// # Safety
/// If the memory is readable, it must not be written to for the lifetime that the caller chooses,
/// and every bit pattern must be a valid `T`.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, length: usize) -> Result<&'a [T], Status> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let bytes = length.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).ok_or(INVALID)?;
    let last = (pointer as usize).checked_add(bytes - 1).ok_or(INVALID)?;
    // SAFETY: a fault here ends the program, and reading leaves the bytes unchanged.
    unsafe {
        for page in (pointer as usize..=last).step_by(PAGE_SIZE) {
            touch(page);
        }
        touch(last);
    }
    // SAFETY: the array is aligned, readable and at most `isize::MAX` bytes long; the caller
    // guarantees that it stays unchanged and that any bits are a `T`.
    Ok(unsafe { core::slice::from_raw_parts(pointer, length) })
}

/// Calls `each` with the valid parts of a program's text, and with U+FFFD in place of each part
/// that is not UTF-8.
pub(crate) fn for_text(bytes: &[u8], mut each: impl FnMut(&str)) {
    for chunk in bytes.utf8_chunks() {
        each(chunk.valid());
        if !chunk.invalid().is_empty() {
            each("\u{fffd}");
        }
    }
}
