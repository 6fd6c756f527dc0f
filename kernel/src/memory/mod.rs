//! Memory management: per-node zones with a buddy allocator and slabs, per-CPU object caches on top
//! of them, and thread stacks.
//!
//! Sizes up to [`PAGE_SIZE`] come from the CPU's own `cache`, which exchanges objects with the
//! node's `zone` in batches; larger sizes come from the zone directly. Every allocation here can
//! fail; [`KernelAllocator`] is the infallible face for the containers of `alloc`.

pub(crate) mod aside;
pub(crate) mod cache;
#[cfg(feature = "faults")]
pub mod faults;
pub(crate) mod reclaimer;
pub mod stack;
pub(crate) mod zone;

use alloc::boxed::Box;
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;

use arch_contract::PAGE_SIZE;
use arch_contract::boot::{BootInformation, MAX_NODES};

use crate::arch::*;
use crate::boot;
use crate::cpu;
use crate::lock::{InterruptGuard, passing};
use crate::trace;
use cache::{CACHED_LIMIT, class_of};
use wire::trace::EventKind;
use zone::{NodeSet, ZONES, Zone};

/// Not enough memory of the requested kind is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

/// Where an allocation may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This CPU's node, or the nearest node with free memory.
    Near,
    /// This node only.
    Node(usize),
}

/// Sets up the zones. Called once, by the boot CPU, before the first allocation.
pub(crate) fn init(boot: &BootInformation) {
    zone::init(boot);
}

/// Allocates memory of a layout. Callable in any context. When memory has run out, a thread with
/// interrupts enabled waits until the memory kept for reuse has been reclaimed, and tries once
/// more.
///
/// # Errors
/// [`OutOfMemory`].
#[inline(always)]
pub fn allocate(layout: Layout, placement: Placement) -> Result<NonNull<u8>, OutOfMemory> {
    may_fail()?;
    let size = layout.size().max(layout.align());
    if size <= CACHED_LIMIT && placement == Placement::Near {
        let _guard = InterruptGuard::new();
        let here = cpu::this();
        // SAFETY: the guard keeps interrupts disabled, and the caches are this CPU's.
        let found = unsafe { here.caches.allocate(class_of(size), here.node) };
        if found.is_some() {
            trace_allocation(size, found);
            return found.ok_or(OutOfMemory);
        }
    }
    let mut found = allocate_from_zones(size, placement);
    if found.is_none() && reclaim() {
        found = allocate_from_zones(size, placement);
    }
    trace_allocation(size, found);
    found.ok_or(OutOfMemory)
}

#[inline(always)]
fn trace_allocation(size: usize, found: Option<NonNull<u8>>) {
    trace::event(EventKind::Allocate, size as u64, found.map_or(0, |at| at.as_ptr() as u64));
}

#[cold]
fn allocate_from_zones(size: usize, placement: Placement) -> Option<NonNull<u8>> {
    let _guard = InterruptGuard::new();
    if let Some(found) = aside::allocate(size) {
        return found;
    }
    let take = |zone: &mut Zone| {
        if size <= CACHED_LIMIT { zone.allocate_object(class_of(size)) } else { zone.allocate_bytes(size) }
    };
    match placement {
        Placement::Node(node) => ZONES.get(node).and_then(|zone| take(&mut zone.lock())),
        Placement::Near => zone::find_nearest(cpu::this().node, take),
    }
}

/// Injection point for allocation failures, also of allocations that bypass [`allocate`]; see
/// [`faults`].
///
/// # Errors
/// [`OutOfMemory`], if a test asked for this allocation to fail.
#[inline(always)]
pub(crate) fn may_fail() -> Result<(), OutOfMemory> {
    #[cfg(feature = "faults")]
    faults::allocation()?;
    Ok(())
}

/// Allocates the boot CPU's own data, before this CPU has object caches.
pub(crate) fn allocate_first(layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
    zone::by_distance(0)
        .find_map(|node| ZONES.get(node)?.lock().allocate_bytes(layout.size().max(layout.align())))
        .ok_or(OutOfMemory)
}

/// Frees memory. Callable in any context.
///
/// # Safety
/// `at` was returned by [`allocate`] for this layout and is not used any more.
#[inline(always)]
pub unsafe fn free(at: NonNull<u8>, layout: Layout) {
    let size = layout.size().max(layout.align());
    let _guard = InterruptGuard::new();
    trace::event(EventKind::Free, size as u64, at.as_ptr() as u64);
    if size <= CACHED_LIMIT {
        let here = cpu::this();
        // SAFETY: the guard keeps interrupts disabled, and the caches are this CPU's; the caller
        // guarantees that the object has this size and is not used any more.
        unsafe { here.caches.free(at, class_of(size)) };
    } else if !passing::is_here() {
        zone::of(at).lock().free_block(at);
    }
}

/// Returns the number of NUMA nodes, including those without memory.
pub fn node_count() -> usize {
    boot::information().nodes
}

/// Returns the distance between two nodes, where 10 is local (ACPI 6.5, 5.2.17); `None` if a node
/// does not exist.
pub fn node_distance(from: usize, to: usize) -> Option<u8> {
    let boot = boot::information();
    (from < boot.nodes && to < boot.nodes).then(|| boot.distances[from][to])
}

/// Allocates a zeroed frame for a page table and returns its physical address.
pub(crate) fn page_table_frame() -> Option<u64> {
    may_fail().ok()?;
    let node = cpu::this_node();
    let frame = zone::by_distance(node).find_map(|node| ZONES.get(node)?.lock().allocate_bytes(PAGE_SIZE))?;
    // SAFETY: the frame was just allocated, is mapped in the direct map, and belongs to this
    // function alone.
    unsafe { frame.as_ptr().write_bytes(0, PAGE_SIZE) };
    Some(AddressSpace::virtual_to_physical(frame.as_ptr()))
}

/// Allocates a box, or fails.
///
/// # Errors
/// [`OutOfMemory`].
pub fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    // Host tests use another allocator for boxes, so the injected failure has to be checked here.
    may_fail()?;
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the layout's size is not zero, which is all that `alloc` requires of it.
    let at = NonNull::new(unsafe { alloc::alloc::alloc(layout) }).ok_or(OutOfMemory)?.cast::<T>();
    // SAFETY: the memory was allocated with the layout of `T` by the global allocator, with which
    // `Box` frees it.
    unsafe {
        at.write(value);
        Ok(Box::from_raw(at.as_ptr()))
    }
}

/// Physically contiguous memory that a device can reach. Freed when dropped.
pub struct DmaBuffer {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the buffer owns its memory, which is tied to no thread or CPU.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// Allocates `length` zeroed bytes, rounded up to whole pages, page aligned, all below the
    /// physical address `limit`.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no such block.
    pub fn new(length: usize, limit: u64) -> Result<Self, OutOfMemory> {
        let length = length.max(1).next_multiple_of(PAGE_SIZE);
        let nearest = zone::by_distance(cpu::this_node());
        let at = nearest
            .filter_map(|node| ZONES.get(node))
            .find_map(|zone| zone.lock().allocate_bytes_below(length, limit))
            .ok_or(OutOfMemory)?;
        // SAFETY: the block was just allocated with at least `length` bytes and belongs to this
        // buffer alone.
        unsafe { at.as_ptr().write_bytes(0, length) };
        Ok(Self { at, length })
    }

    /// Returns the physical address at which a device reaches the buffer.
    pub fn physical_address(&self) -> u64 {
        AddressSpace::virtual_to_physical(self.at.as_ptr())
    }

    /// Returns the buffer's memory. The driver must keep the device from writing to it while the
    /// slice is in use.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the buffer owns these `length` bytes, and the exclusive borrow keeps other slices
        // away.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr(), self.length) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        zone::of(self.at).lock().free_block(self.at);
    }
}

/// Usage of a node's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeUsage {
    /// All memory that the kernel manages.
    pub total: u64,
    /// Memory free in whole pages, without what slabs and caches hold.
    pub free: u64,
    /// Free objects in slab pages of which other objects are in use.
    pub free_in_slabs: u64,
    /// Memory used for the zone's own records.
    pub records: u64,
    /// The largest free block.
    pub largest_free: u64,
}

/// Returns the usage of a node; `None` if it has no memory.
pub fn node_usage(node: usize) -> Option<NodeUsage> {
    ZONES.get(node).map(|zone| zone.lock().usage())
}

/// Returns the bytes of free small objects in the CPUs' object caches and in the zones' slabs.
pub fn cached_bytes() -> u64 {
    let bytes = |cpu: &cpu::Cpu| aside::own_cached_bytes(cpu.index).unwrap_or_else(|| cpu.caches.bytes());
    let in_slabs = (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.free_in_slabs).sum::<u64>();
    cpu::all_known().map(bytes).sum::<u64>() + in_slabs
}

/// Returns the bytes that are not allocated: free pages and free small objects.
pub fn free_bytes() -> u64 {
    (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.free).sum::<u64>() + cached_bytes()
}

/// Returns the bytes of all zones.
pub fn total_bytes() -> u64 {
    (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.total).sum()
}

/// Returns the contents of this CPU's object caches to the zones.
pub fn flush_this_cpus_caches() {
    let _guard = InterruptGuard::new();
    // SAFETY: the guard keeps interrupts disabled, and the caches are this CPU's.
    unsafe { cpu::this().caches.flush() };
}

/// The kernel heap as Rust's global allocator; the image declares it.
pub struct KernelAllocator;

// SAFETY: `allocate` returns unused memory of the requested layout or fails, and `free` receives
// the layout unchanged.
unsafe impl GlobalAlloc for KernelAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(layout, Placement::Near).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if let Some(at) = NonNull::new(at) {
            // SAFETY: the caller guarantees that `at` came from this allocator with this layout and
            // is not used any more.
            unsafe { free(at, layout) };
        }
    }
}

/// Reclaims the memory kept for reuse: dead threads, freed stacks, and the objects in all CPUs'
/// caches. Blocks; does nothing in a context that must not block. Returns true if there is more
/// free memory afterwards.
pub fn reclaim() -> bool {
    reclaimer::reclaim()
}

/// Returns the nodes that have memory.
pub fn nodes() -> NodeSet {
    zone::nodes()
}
