//! Memory: NUMA zones of a buddy allocator, slabs in them, object caches per CPU on top; and thread stacks.
//!
//! Small sizes (up to [`PAGE_SIZE`]) come from the CPU's own `cache`, which takes from and gives back to the node's
//! `zone` in batches; larger ones come from the zone. Everything is fallible here; [`KernelAllocator`] is the
//! infallible face for `alloc`'s containers.

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

use crate::arch::{Architecture, Machine};
use crate::boot;
use crate::cpu;
use crate::lock::{InterruptGuard, passing};
use crate::trace;
use cache::{CACHED_LIMIT, class_of};
use wire::trace::Kind;
use zone::{NodeSet, ZONES, Zone};

/// There is not enough memory (of the kind asked for) for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

/// Where memory shall come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This CPU's node, or else the nearest that has some.
    Near,
    /// This node and no other.
    Node(usize),
}

/// Sets up the zones. Once, by the boot CPU, before anything allocates.
pub(crate) fn init(boot: &BootInformation) {
    zone::init(boot);
}

/// Allocates memory of a layout. Any context; a thread with interrupts on waits where memory has run out, until what is kept
/// for reuse has been given back.
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
        // SAFETY: this CPU's caches, interrupts off, not re-entered below.
        let found = unsafe { here.caches.get() }.allocate(class_of(size), here.node);
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
    trace::event(Kind::Allocate, size as u64, found.map_or(0, |at| at.as_ptr() as u64));
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

/// Where an allocation may be made to fail that [`allocate`] has no part in; see [`faults`].
///
/// # Errors
/// [`OutOfMemory`], if a test wants it.
#[inline(always)]
pub(crate) fn may_fail() -> Result<(), OutOfMemory> {
    #[cfg(feature = "faults")]
    faults::allocation()?;
    Ok(())
}

/// Allocates before this CPU has caches: the boot CPU's own data.
pub(crate) fn allocate_first(layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
    zone::by_distance(0)
        .find_map(|node| ZONES.get(node)?.lock().allocate_bytes(layout.size().max(layout.align())))
        .ok_or(OutOfMemory)
}

/// Frees memory. Any context.
///
/// # Safety
/// `at` came from [`allocate`] with this layout and is not used any more.
#[inline(always)]
pub unsafe fn free(at: NonNull<u8>, layout: Layout) {
    let size = layout.size().max(layout.align());
    let _guard = InterruptGuard::new();
    trace::event(Kind::Free, size as u64, at.as_ptr() as u64);
    if size <= CACHED_LIMIT {
        let here = cpu::this();
        // SAFETY: this CPU's caches, interrupts off, not re-entered below.
        unsafe { here.caches.get() }.free(at, class_of(size));
    } else if !passing::is_here() {
        zone::of(at).lock().free_block(at);
    }
}

/// Number of NUMA nodes, those without memory included.
pub fn node_count() -> usize {
    boot::information().nodes
}

/// Distance between two nodes, 10 is local (ACPI 6.5, 5.2.17).
pub fn node_distance(from: usize, to: usize) -> Option<u8> {
    let boot = boot::information();
    (from < boot.nodes && to < boot.nodes).then(|| boot.distances[from][to])
}

/// A zeroed frame for a page table, by physical address.
pub(crate) fn page_table_frame() -> Option<u64> {
    may_fail().ok()?;
    let node = cpu::this_node();
    let frame = zone::by_distance(node).find_map(|node| ZONES.get(node)?.lock().allocate_bytes(PAGE_SIZE))?;
    // SAFETY: a frame of ours.
    unsafe { frame.as_ptr().write_bytes(0, PAGE_SIZE) };
    Some(Machine::virtual_to_physical(frame.as_ptr()))
}

/// A box, or an error.
///
/// # Errors
/// [`OutOfMemory`].
pub fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    // On the host a box is not from this allocator.
    may_fail()?;
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the layout is not empty.
    let at = NonNull::new(unsafe { alloc::alloc::alloc(layout) }).ok_or(OutOfMemory)?.cast::<T>();
    // SAFETY: allocated for a `T` by the allocator `Box` frees with.
    unsafe {
        at.write(value);
        Ok(Box::from_raw(at.as_ptr()))
    }
}

/// Physically contiguous memory a device can reach. Freed when dropped.
pub struct DmaBuffer {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// `length` zeroed bytes, page aligned, all below physical address `limit`.
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
        // SAFETY: the block is ours and at least so long.
        unsafe { at.as_ptr().write_bytes(0, length) };
        Ok(Self { at, length })
    }

    /// Where a device finds it.
    pub fn physical_address(&self) -> u64 {
        Machine::virtual_to_physical(self.at.as_ptr())
    }

    /// Its memory. Whoever programs the device keeps it from writing at the same time.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the buffer owns these bytes.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr(), self.length) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        zone::of(self.at).lock().free_block(self.at);
    }
}

/// Memory of a node, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeUsage {
    /// All the kernel manages.
    pub total: u64,
    /// Free in whole pages, not counting what slabs and caches hold.
    pub free: u64,
    /// Free objects in pages of which others are in use.
    pub free_in_slabs: u64,
    /// Used for the zone's own records.
    pub records: u64,
    /// Largest free block.
    pub largest_free: u64,
}

/// Usage of a node; `None` if it has no memory.
pub fn node_usage(node: usize) -> Option<NodeUsage> {
    ZONES.get(node).map(|zone| zone.lock().usage())
}

/// Bytes of free small objects: in the CPUs' object caches and in the zones' slabs.
pub fn cached_bytes() -> u64 {
    // SAFETY: reads counters that their CPU may be changing: a count for display, off by one batch at most.
    let bytes =
        |cpu: &cpu::Cpu| aside::own_cached_bytes(cpu.index).unwrap_or_else(|| unsafe { cpu.caches.get() }.bytes());
    let in_slabs = (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.free_in_slabs).sum::<u64>();
    cpu::all().map(bytes).sum::<u64>() + in_slabs
}

/// Bytes that are not allocated: free pages and free small objects.
pub fn free_bytes() -> u64 {
    (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.free).sum::<u64>() + cached_bytes()
}

/// Bytes of all zones.
pub fn total_bytes() -> u64 {
    (0..MAX_NODES).filter_map(node_usage).map(|usage| usage.total).sum()
}

/// Returns what this CPU's object caches hold to the zones.
pub fn flush_this_cpus_caches() {
    let _guard = InterruptGuard::new();
    // SAFETY: this CPU's caches, interrupts off.
    unsafe { cpu::this().caches.get() }.flush();
}

/// The kernel's heap as Rust's global allocator; the image declares it.
pub struct KernelAllocator;

// SAFETY: `allocate` and `free` fulfil the contract; layouts pass through unchanged.
unsafe impl GlobalAlloc for KernelAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(layout, Placement::Near).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if let Some(at) = NonNull::new(at) {
            // SAFETY: the caller's obligation.
            unsafe { free(at, layout) };
        }
    }
}

/// Takes back what is kept for reuse; dead threads, freed stacks, the objects in all CPUs' caches. Blocks; where that is not
/// allowed, nothing happens. True if there is more free memory now.
pub fn reclaim() -> bool {
    reclaimer::reclaim()
}

/// Nodes that have memory.
pub fn nodes() -> NodeSet {
    zone::nodes()
}
