//! Values in a word: as they are where they fit, else in a box.

use alloc::boxed::Box;
use core::arch::asm;
use core::mem::{MaybeUninit, align_of, size_of};

const fn fits<T>() -> bool {
    size_of::<T>() <= size_of::<u64>() && align_of::<T>() <= align_of::<u64>()
}

/// Packs a value.
pub fn pack<T>(value: T) -> u64 {
    if !fits::<T>() {
        return Box::into_raw(Box::new(value)) as u64;
    }
    let mut word = MaybeUninit::new(0u64);
    // SAFETY: it fits.
    unsafe { word.as_mut_ptr().cast::<T>().write(value) };
    let packed: u64;
    // SAFETY: no instruction at all. What comes out is a number, whatever went in: the value may have bytes that are not
    // initialised, which are not to be read otherwise.
    unsafe { asm!("/* {0} */", inlateout(reg) word => packed, options(pure, nomem, nostack, preserves_flags)) };
    packed
}

/// Unpacks what [`pack`] packed.
///
/// # Safety
/// It was a `T`, and is unpacked once.
pub unsafe fn unpack<T>(word: u64) -> T {
    if fits::<T>() {
        // SAFETY: written by `pack`.
        unsafe { (&raw const word).cast::<T>().read() }
    } else {
        // SAFETY: from a box, by the caller's word taken once.
        *unsafe { Box::from_raw(word as *mut T) }
    }
}
