//! Memory set aside for functions that run on a stopped machine ([`crate::crash::sandbox`]). The
//! heap may be inconsistent or corrupt there, so these functions allocate from this memory, and all
//! of it is discarded afterwards.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::cache::{CACHED_LIMIT, ObjectCaches};
use super::{OutOfMemory, Placement};
use crate::cpu;
use crate::lock::passing;

/// Size of the memory set aside, in bytes.
const SIZE: usize = 1 << 20;

/// Start of the memory, 0 while there is none, and the number of bytes used.
static START: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

/// The CPU's own object caches, while substitutes replace them.
static OWN_CACHES: ObjectCaches = ObjectCaches::new();

/// Sets the memory aside. Called once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`].
pub(crate) fn init() -> Result<(), OutOfMemory> {
    let layout = core::alloc::Layout::from_size_align(SIZE, CACHED_LIMIT);
    let at = super::allocate(layout.map_err(|_| OutOfMemory)?, Placement::Near)?;
    START.store(at.as_ptr() as usize, Ordering::Release);
    Ok(())
}

/// Returns true if memory is set aside.
pub(crate) fn exists() -> bool {
    START.load(Ordering::Acquire) != 0
}

/// Makes this CPU allocate from the memory set aside until [`end`].
///
/// # Safety
/// This CPU passes locks ([`passing::begin`]) and keeps interrupts off until [`end`].
pub(crate) unsafe fn begin() {
    USED.store(0, Ordering::Relaxed);
    let substitutes = ObjectCaches::of_span(START.load(Ordering::Acquire), SIZE);
    // SAFETY: the caller guarantees that interrupts are off, and that this CPU passes locks, which
    // makes it the owner of `OWN_CACHES`.
    unsafe {
        OWN_CACHES.exchange(&substitutes);
        cpu::this().caches.exchange(&OWN_CACHES);
    }
}

/// Restores the CPU's own caches, which discards everything allocated since [`begin`].
///
/// # Safety
/// This CPU called [`begin`], still passes locks, and has kept interrupts off since. Nothing
/// allocated since is used any more.
pub(crate) unsafe fn end() {
    // SAFETY: the caller guarantees that this CPU still passes locks with interrupts off, so no
    // other code uses its caches or `OWN_CACHES`.
    unsafe {
        cpu::this().caches.exchange(&OWN_CACHES);
        // What is left in the substitutes lies in the memory set aside, which is empty again.
        OWN_CACHES.exchange(&ObjectCaches::new());
    }
}

/// Allocates for a function on a stopped machine. The outer `None` means that this CPU runs no such
/// function, the inner `None` that the memory is used up.
#[cold]
pub(super) fn allocate(size: usize) -> Option<Option<NonNull<u8>>> {
    if !passing::is_here() {
        return None;
    }
    let size = size.next_power_of_two();
    let start = USED.load(Ordering::Relaxed).next_multiple_of(size.min(CACHED_LIMIT));
    let end = start.checked_add(size).filter(|&end| end <= SIZE);
    if let Some(end) = end {
        USED.store(end, Ordering::Relaxed);
    }
    Some(end.and_then(|_| NonNull::new((START.load(Ordering::Relaxed) + start) as *mut u8)))
}

/// Returns the bytes in a CPU's own object caches while substitutes replace them, otherwise `None`.
pub(super) fn own_cached_bytes(cpu: usize) -> Option<u64> {
    if !passing::is_here() || cpu != cpu::this_index() {
        return None;
    }
    Some(OWN_CACHES.bytes())
}
