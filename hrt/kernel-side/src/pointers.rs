//! What a program's pointers lead to. Each is touched before anything is done with it, while a fault is still the program's
//! own: then the program ends, and nothing is half done.

use abi::{INVALID, Status};

/// Bytes of a page, the unit in which memory can be accessible or not.
const PAGE_SIZE: usize = 4096;

/// Reads a byte.
///
/// # Safety
/// None for the kernel: an address that is not readable ends the calling thread's program.
#[inline(always)]
unsafe fn touch(address: usize) {
    // SAFETY: by the caller's word.
    unsafe { (address as *const u8).read_volatile() };
}

/// Writes a byte back that stands there, by one instruction, so that nobody else's change is lost: a compare and exchange, which
/// writes in any case (SDM Vol. 2, CMPXCHG), and is not left out as one of the others that change nothing would be.
///
/// # Safety
/// As for [`touch`], for addresses that are not writable.
#[inline(always)]
unsafe fn touch_to_write(address: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    // SAFETY: by the caller's word.
    let byte = unsafe { &*(address as *const AtomicU8) };
    let _ = core::hint::black_box(byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed));
}

/// The kernel's object in a program's memory, for both to read and write; `INVALID` for null and misaligned pointers. Objects
/// are smaller than a page.
///
/// # Safety
/// If there is memory to write at, it is a `T` for as long as the caller says.
#[inline(always)]
pub(crate) unsafe fn borrow<'a, T, O>(pointer: *const O) -> Result<&'a T, Status> {
    let pointer = pointer.cast::<T>();
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let (first, last) = (pointer as usize, pointer as usize + (size_of::<T>() - 1));
    // SAFETY: a fault is the program's.
    unsafe {
        touch_to_write(first);
        if first / PAGE_SIZE != last / PAGE_SIZE {
            touch_to_write(last);
        }
    }
    // SAFETY: by the caller's word.
    Ok(unsafe { &*pointer })
}

/// A place for a result, which can be written to from here on: `INVALID` for null and misaligned pointers.
///
/// # Safety
/// If there is memory to write at, it is the program's for a `T`.
#[inline(always)]
pub(crate) unsafe fn place<'a, T>(pointer: *mut T) -> Result<&'a mut core::mem::MaybeUninit<T>, Status> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let (first, last) = (pointer as usize, pointer as usize + (size_of::<T>().max(1) - 1));
    // SAFETY: a fault is the program's.
    unsafe {
        touch_to_write(first);
        if first / PAGE_SIZE != last / PAGE_SIZE {
            touch_to_write(last);
        }
    }
    // SAFETY: by the caller's word; anything may be in it.
    Ok(unsafe { &mut *pointer.cast() })
}

/// A program's array, which can be read from here on; `INVALID` for misaligned pointers, and for null unless it is empty.
///
/// # Safety
/// If there is memory to read at, nobody writes to it for as long as the caller says, and any bits are a `T`.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, length: usize) -> Result<&'a [T], Status> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    let bytes = length.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).ok_or(INVALID)?;
    let last = (pointer as usize).checked_add(bytes - 1).ok_or(INVALID)?;
    // SAFETY: a fault is the program's.
    unsafe {
        for page in (pointer as usize..=last).step_by(PAGE_SIZE) {
            touch(page);
        }
        touch(last);
    }
    // SAFETY: by the caller's word.
    Ok(unsafe { core::slice::from_raw_parts(pointer, length) })
}

/// Text of a program, valid UTF-8 or not: calls `each` with its good parts.
pub(crate) fn for_text(bytes: &[u8], mut each: impl FnMut(&str)) {
    for chunk in bytes.utf8_chunks() {
        each(chunk.valid());
        if !chunk.invalid().is_empty() {
            each("\u{fffd}");
        }
    }
}
