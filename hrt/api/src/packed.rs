//! Values packed into a word: inline where they fit, otherwise in a box.

use alloc::boxed::Box;
use core::arch::asm;
use core::mem::{MaybeUninit, align_of, size_of};

const fn fits<T>() -> bool {
    size_of::<T>() <= size_of::<u64>() && align_of::<T>() <= align_of::<u64>()
}

/// Packs a value into a word.
pub fn pack<T>(value: T) -> u64 {
    if !fits::<T>() {
        return Box::into_raw(Box::new(value)) as u64;
    }
    let mut word = MaybeUninit::new(0u64);
    // SAFETY: `fits` ensures that the word is large and aligned enough for a `T`.
    unsafe { word.as_mut_ptr().cast::<T>().write(value) };
    let packed: u64;
    // SAFETY: the template is empty, so no instruction is executed. The value may contain
    // uninitialised bytes, which must not be read as an integer; passing them through `asm!` yields
    // a plain number whatever they hold.
    unsafe { asm!("/* {0} */", inlateout(reg) word => packed, options(pure, nomem, nostack, preserves_flags)) };
    packed
}

/// Unpacks a value that [`pack`] packed.
///
/// # Safety
/// The word must come from [`pack`] for the same `T`, and be unpacked only once.
pub unsafe fn unpack<T>(word: u64) -> T {
    if fits::<T>() {
        // SAFETY: the caller guarantees that `pack` stored a `T` in the word, and `fits` ensures
        // size and alignment.
        unsafe { (&raw const word).cast::<T>().read() }
    } else {
        // SAFETY: the caller guarantees that the word is a box from `pack`, and that it is unpacked
        // only once.
        *unsafe { Box::from_raw(word as *mut T) }
    }
}
