//! Memory set aside for functions that run on a stopped machine ([`crate::crash::sandbox`]): the heap may be half changed or
//! broken, so they allocate here, and nothing of it stays.

use core::cell::UnsafeCell;
use core::mem;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::cache::{CACHED_LIMIT, ObjectCaches};
use super::{OutOfMemory, Placement};
use crate::cpu;
use crate::lock::passing;

/// Memory set aside, in bytes.
const SIZE: usize = 1 << 20;

/// Where it begins, 0 while there is none; how much of it is used.
static START: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

struct OwnCaches(UnsafeCell<Option<ObjectCaches>>);

// SAFETY: used between `begin` and `end`, by the one CPU that passes locks.
unsafe impl Sync for OwnCaches {}

/// The CPU's own object caches, while others stand in for them.
static OWN_CACHES: OwnCaches = OwnCaches(UnsafeCell::new(None));

/// Sets memory aside. Once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`].
pub(crate) fn init() -> Result<(), OutOfMemory> {
    let layout = core::alloc::Layout::from_size_align(SIZE, CACHED_LIMIT);
    let at = super::allocate(layout.map_err(|_| OutOfMemory)?, Placement::Near)?;
    START.store(at.as_ptr() as usize, Ordering::Release);
    Ok(())
}

/// True if there is memory set aside.
pub(crate) fn exists() -> bool {
    START.load(Ordering::Acquire) != 0
}

/// From here to [`end`] this CPU allocates from the memory set aside.
///
/// # Safety
/// This CPU passes locks ([`passing::begin`]), with interrupts off until [`end`].
pub(crate) unsafe fn begin() {
    USED.store(0, Ordering::Relaxed);
    let caches = ObjectCaches::of_span(START.load(Ordering::Acquire), SIZE);
    // SAFETY: the caller's word: this CPU's caches, interrupts off; `OWN_CACHES` is this CPU's while it passes locks.
    unsafe { *OWN_CACHES.0.get() = Some(mem::replace(cpu::this().caches.get(), caches)) };
}

/// Frees everything that was allocated since [`begin`].
///
/// # Safety
/// As for [`begin`], which this CPU called; nothing that was allocated since is used any more.
pub(crate) unsafe fn end() {
    // SAFETY: as in `begin`.
    unsafe {
        if let Some(caches) = (*OWN_CACHES.0.get()).take() {
            *cpu::this().caches.get() = caches;
        }
    }
}

/// Memory for a function on a stopped machine; `None` if this CPU runs none, the inner `None` if there is no more.
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

/// Bytes in a CPU's own object caches, while others stand in for them.
pub(super) fn own_cached_bytes(cpu: usize) -> Option<u64> {
    if !passing::is_here() || cpu != cpu::this_index() {
        return None;
    }
    // SAFETY: this CPU passes locks, so the caches are its own to look at.
    unsafe { &*OWN_CACHES.0.get() }.as_ref().map(ObjectCaches::bytes)
}
