//! A zone: the memory of one NUMA node. A buddy allocator manages its frames; small objects come
//! from single-frame slabs.
//!
//! The zone keeps a 16-byte record for each frame in its own memory, followed by one owner word per
//! frame for the frame's user (see [`owner`]). Every operation takes bounded time, at most one step
//! per block order, with three exceptions: [`Zone::allocate_pages`] tries a limited number of free
//! blocks, [`Zone::allocate_bytes_below`] may look at all of them, and [`Zone::free_pages`] frees
//! each block of the run.

mod runs;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use arch_contract::PAGE_SIZE;
use arch_contract::boot::{BootInformation, MAX_NODES, MemoryRegion, PhysicalRange};

use super::NodeUsage;
use super::cache::{CLASSES, size_of_class};
use crate::arch::*;
use crate::lock::SpinLock;

/// Number of block orders: block sizes are `PAGE_SIZE << order`, up to 1 GiB.
pub const ORDERS: usize = 19;
const NONE: u32 = u32::MAX;
const NO_OBJECT: u16 = u16::MAX;

/// The role of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    /// Not the start of a block: a hole, part of the zone's own records, or inside a block.
    Inside = 0,
    /// First frame of a free block.
    Free,
    /// First frame of an allocated block.
    Allocated,
    /// A slab of small objects.
    Slab,
}

/// The zone's record of one frame.
#[repr(C)]
struct Frame {
    /// Neighbours in a list of free blocks, or of slabs with free objects.
    previous: u32,
    next: u32,
    kind: Kind,
    /// The order of a block, or the class of a slab.
    order: u8,
    /// Number of objects in use in a slab.
    in_use: u16,
    /// First object on the slab's free list.
    free_object: u16,
    /// First object of the slab that was never used.
    fresh: u16,
}

const _: () = assert!(size_of::<Frame>() == 16);

/// The head of a list of frames.
#[derive(Clone, Copy)]
struct List {
    first: u32,
}

/// The memory of one NUMA node.
pub struct Zone {
    /// Physical frame number of the first frame with a record.
    base: u64,
    frames: *mut Frame,
    owners: *mut AtomicU64,
    frame_count: u32,
    free: [List; ORDERS],
    /// Bit n is set if there are free blocks of order n.
    nonempty: u32,
    slabs: [List; CLASSES],
    free_frames: u64,
    total_frames: u64,
    /// Bytes of free objects in slabs.
    free_in_slabs: u64,
    record_bytes: u64,
}

// SAFETY: `frames` and `owners` point to memory that belongs to this zone alone and is not tied to
// a thread or CPU.
unsafe impl Send for Zone {}

/// The table of all zones; see [`Zones::get`].
pub struct Zones([SpinLock<Zone>; MAX_NODES]);

/// The machine's zones, indexed by node.
pub static ZONES: Zones = Zones([const { SpinLock::new(Zone::empty()) }; MAX_NODES]);

static NODES: AtomicUsize = AtomicUsize::new(0);
/// Virtual address range of each zone: its first address in the direct map and its span in bytes.
/// The span is 0 for a node without memory.
static SPANS: [(AtomicUsize, AtomicUsize); MAX_NODES] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MAX_NODES];
/// The owner words of each zone's frames; see [`owner`].
static OWNERS: [AtomicPtr<AtomicU64>; MAX_NODES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_NODES];
/// Bit n is set if node n has memory.
static WITH_MEMORY: AtomicU64 = AtomicU64::new(0);
static DISTANCES: [[core::sync::atomic::AtomicU8; MAX_NODES]; MAX_NODES] =
    [const { [const { core::sync::atomic::AtomicU8::new(10) }; MAX_NODES] }; MAX_NODES];

impl Zones {
    /// Returns the zone of a node; `None` if the node has no memory.
    pub fn get(&self, node: usize) -> Option<&SpinLock<Zone>> {
        (node < MAX_NODES && WITH_MEMORY.load(Ordering::Relaxed) >> node & 1 != 0).then(|| &self.0[node])
    }
}

/// The numbers of the nodes that have memory.
pub type NodeSet = arrayvec::IntoIter<usize, MAX_NODES>;

/// Returns the nodes that have memory.
pub fn nodes() -> NodeSet {
    let all = 0..NODES.load(Ordering::Relaxed);
    let list: arrayvec::ArrayVec<usize, MAX_NODES> = all.filter(|&node| ZONES.get(node).is_some()).collect();
    list.into_iter()
}

/// Yields the nodes that have memory: `from` first, then the others from near to far.
pub fn by_distance(from: usize) -> impl Iterator<Item = usize> {
    let count = NODES.load(Ordering::Relaxed);
    let mut done = 0u64;
    core::iter::from_fn(move || {
        if done == 0 && from < count {
            done = 1 << from;
            return Some(from);
        }
        let row = DISTANCES.get(from)?;
        let next =
            (0..count).filter(|node| done >> node & 1 == 0).min_by_key(|&node| row[node].load(Ordering::Relaxed))?;
        done |= 1 << next;
        Some(next)
    })
    .filter(|&node| ZONES.get(node).is_some())
}

/// Calls `find` on the zone of `node`, then on the other zones from near to far, until it returns a
/// result.
#[inline(always)]
pub fn find_nearest<T>(node: usize, mut find: impl FnMut(&mut Zone) -> Option<T>) -> Option<T> {
    let mut look = |node: usize| find(&mut ZONES.get(node)?.lock());
    look(node).or_else(|| by_distance(node).find_map(look))
}

/// Returns the start of a node's memory in the direct map, and its span in bytes.
pub fn span(node: usize) -> (usize, usize) {
    (SPANS[node].0.load(Ordering::Relaxed), SPANS[node].1.load(Ordering::Relaxed))
}

/// Returns false if the address is certainly not in this node's memory, true if it may be.
#[inline(always)]
pub fn may_contain(node: usize, at: NonNull<u8>) -> bool {
    let (start, length) = &SPANS[node];
    (at.as_ptr() as usize).wrapping_sub(start.load(Ordering::Relaxed)) < length.load(Ordering::Relaxed)
}

/// Returns the zone that an allocated address belongs to.
///
/// # Panics
/// If no zone owns the address, which was then never allocated.
#[inline]
pub fn of(at: NonNull<u8>) -> &'static SpinLock<Zone> {
    if NODES.load(Ordering::Relaxed) == 1 && may_contain(0, at) {
        return &ZONES.0[0];
    }
    of_several(at)
}

fn of_several(at: NonNull<u8>) -> &'static SpinLock<Zone> {
    let frame = AddressSpace::virtual_to_physical(at.as_ptr()) / PAGE_SIZE as u64;
    let owner = (0..NODES.load(Ordering::Relaxed)).filter(|&node| may_contain(node, at)).find(|&node| {
        // Node spans overlap where the memory of nodes interleaves; only the frame's record tells
        // them apart.
        ZONES.0[node].lock().owns(frame)
    });
    match owner {
        Some(node) => &ZONES.0[node],
        None => panic!("freed {at:p}, which was never allocated"),
    }
}

/// Returns the owner word of the frame at an address: the frame's user stores there what it needs
/// to find its own data by address. The word is 0 unless it was set. Returns `None` for an address
/// outside all zones. Takes no lock, so the value read for another user's frame may already be out
/// of date.
#[inline(always)]
pub fn owner(at: NonNull<u8>) -> Option<&'static AtomicU64> {
    let node =
        if may_contain(0, at) { 0 } else { (1..NODES.load(Ordering::Relaxed)).find(|&node| may_contain(node, at))? };
    let index = (at.as_ptr() as usize - SPANS[node].0.load(Ordering::Relaxed)) / PAGE_SIZE;
    // SAFETY: `init` creates a word for each frame of a span before it publishes the span, and the
    // words are never freed. Where spans overlap, the same node is chosen each time, so an address
    // always maps to the same word.
    unsafe { OWNERS[node].load(Ordering::Relaxed).add(index).as_ref() }
}

/// Builds the zones from the boot information.
pub fn init(boot: &BootInformation) {
    let count = boot.nodes.clamp(1, MAX_NODES);
    NODES.store(count, Ordering::Relaxed);
    for (from, row) in DISTANCES.iter().enumerate().take(count) {
        for (to, distance) in row.iter().enumerate().take(count) {
            distance.store(boot.distances[from][to], Ordering::Relaxed);
        }
    }
    for (node, span) in SPANS.iter().enumerate().take(count) {
        let regions = || boot.memory.iter().filter(move |region| usize::from(region.node) == node);
        if let Some(zone) = Zone::build(regions) {
            let start = AddressSpace::physical_to_virtual(zone.base * PAGE_SIZE as u64) as usize;
            OWNERS[node].store(zone.owners, Ordering::Relaxed);
            span.0.store(start, Ordering::Relaxed);
            span.1.store(zone.frame_count as usize * PAGE_SIZE, Ordering::Relaxed);
            *ZONES.0[node].lock() = zone;
            WITH_MEMORY.fetch_or(1 << node, Ordering::Relaxed);
        }
    }
}

impl Zone {
    const fn empty() -> Self {
        Self {
            base: 0,
            frames: core::ptr::null_mut(),
            owners: core::ptr::null_mut(),
            frame_count: 0,
            free: [List { first: NONE }; ORDERS],
            nonempty: 0,
            slabs: [List { first: NONE }; CLASSES],
            free_frames: 0,
            total_frames: 0,
            free_in_slabs: 0,
            record_bytes: 0,
        }
    }

    /// Builds a zone of these regions and takes its records from the largest one; `None` if the
    /// largest cannot hold them.
    pub(super) fn build<'a, I: Iterator<Item = &'a MemoryRegion>>(regions: impl Fn() -> I) -> Option<Self> {
        let page = PAGE_SIZE as u64;
        let first = regions().map(|region| region.range.start).min()? / page;
        let last = regions().map(|region| region.range.end).max()? / page;
        let mut zone = Self::empty();
        zone.base = first;
        zone.frame_count = u32::try_from(last - first).ok()?;
        let per_frame = (size_of::<Frame>() + size_of::<AtomicU64>()) as u64;
        let records = (u64::from(zone.frame_count) * per_frame).next_multiple_of(page);
        let host = regions().max_by_key(|region| region.range.len())?.range;
        if host.len() <= records {
            return None;
        }
        // Place the records at the end of the largest region, away from low memory that devices may
        // need.
        let records_start = host.end - records;
        zone.frames = AddressSpace::physical_to_virtual(records_start).cast();
        zone.record_bytes = records;
        // SAFETY: the record range lies in a region of this zone that is not yet in use. Zero is a
        // valid record (`Kind::Inside`) and a valid owner word, and a record's size is a multiple
        // of the word's alignment, so the words after the records are aligned.
        unsafe {
            zone.frames.cast::<u8>().write_bytes(0, records as usize);
            zone.owners = zone.frames.add(zone.frame_count as usize).cast();
        }
        for region in regions() {
            let mut range = region.range;
            if range.start == host.start {
                range.end = records_start;
            }
            zone.total_frames += region.range.len() / page;
            zone.add(range);
        }
        Some(zone)
    }

    /// Frees a range, split into the largest aligned blocks.
    fn add(&mut self, range: PhysicalRange) {
        let first = range.start / PAGE_SIZE as u64;
        for (number, order) in runs::blocks_of(first, range.end / PAGE_SIZE as u64) {
            self.insert_free((number - self.base) as u32, order);
            self.free_frames += 1 << order;
        }
    }

    fn owns(&self, frame: u64) -> bool {
        frame.checked_sub(self.base).is_some_and(|index| {
            index < u64::from(self.frame_count) && {
                let kind = self.frame(index as u32).kind;
                kind == Kind::Slab || kind == Kind::Allocated
            }
        })
    }

    #[expect(clippy::mut_from_ref, reason = "records are raw memory; callers hold the zone's lock")]
    fn frame(&self, index: u32) -> &mut Frame {
        debug_assert!(index < self.frame_count);
        // SAFETY: `frames` has a record for each index below `frame_count`. Callers hold the zone's
        // lock, or build the zone, and use one reference to a record at a time.
        unsafe { &mut *self.frames.add(index as usize) }
    }

    fn index_of(&self, at: NonNull<u8>) -> u32 {
        (AddressSpace::virtual_to_physical(at.as_ptr()) / PAGE_SIZE as u64 - self.base) as u32
    }

    fn address_of(&self, index: u32) -> NonNull<u8> {
        let at = AddressSpace::physical_to_virtual((self.base + u64::from(index)) * PAGE_SIZE as u64);
        NonNull::new(at).expect("the direct map does not begin at 0")
    }

    fn link(&self, list: List, index: u32) -> List {
        let frame = self.frame(index);
        frame.previous = NONE;
        frame.next = list.first;
        if list.first != NONE {
            self.frame(list.first).previous = index;
        }
        List { first: index }
    }

    fn unlink(&self, list: List, index: u32) -> List {
        let (previous, next) = (self.frame(index).previous, self.frame(index).next);
        if next != NONE {
            self.frame(next).previous = previous;
        }
        if previous == NONE {
            return List { first: next };
        }
        self.frame(previous).next = next;
        list
    }

    fn insert_free(&mut self, index: u32, order: usize) {
        let frame = self.frame(index);
        frame.kind = Kind::Free;
        frame.order = order as u8;
        self.free[order] = self.link(self.free[order], index);
        self.nonempty |= 1 << order;
    }

    fn remove_free(&mut self, index: u32, order: usize) {
        self.free[order] = self.unlink(self.free[order], index);
        if self.free[order].first == NONE {
            self.nonempty &= !(1 << order);
        }
        self.frame(index).kind = Kind::Inside;
    }

    /// Takes a block of the given order and splits a larger one if necessary.
    fn take_block(&mut self, order: usize) -> Option<u32> {
        let found = (self.nonempty >> order << order).trailing_zeros() as usize;
        if found >= ORDERS {
            return None;
        }
        let index = self.free[found].first;
        self.remove_free(index, found);
        self.split(index, found, order);
        Some(index)
    }

    /// Cuts a taken block down to `order` and frees the upper halves.
    fn split(&mut self, index: u32, from: usize, order: usize) {
        for half in (order..from).rev() {
            self.insert_free(index + (1 << half), half);
        }
        let frame = self.frame(index);
        frame.kind = Kind::Allocated;
        frame.order = order as u8;
        self.free_frames -= 1 << order;
    }

    /// Frees a block and merges it with its free buddies.
    fn return_block(&mut self, mut index: u32, mut order: usize) {
        self.frame(index).kind = Kind::Inside;
        self.free_frames += 1 << order;
        while order < ORDERS - 1 {
            let number = self.base + u64::from(index);
            let Some(buddy) = (number ^ 1 << order).checked_sub(self.base) else { break };
            if buddy >= u64::from(self.frame_count) {
                break;
            }
            let frame = self.frame(buddy as u32);
            if frame.kind != Kind::Free || usize::from(frame.order) != order {
                break;
            }
            self.remove_free(buddy as u32, order);
            index = index.min(buddy as u32);
            order += 1;
        }
        self.insert_free(index, order);
    }

    /// Allocates a block of at least `size` bytes, aligned to its size rounded up to a power of
    /// two.
    pub fn allocate_bytes(&mut self, size: usize) -> Option<NonNull<u8>> {
        let index = self.take_block(order_of(size)?)?;
        Some(self.address_of(index))
    }

    /// Like [`Zone::allocate_bytes`], but the whole block lies below the physical address `limit`.
    pub fn allocate_bytes_below(&mut self, size: usize, limit: u64) -> Option<NonNull<u8>> {
        let order = order_of(size)?;
        let fits = |index: u32| (self.base + u64::from(index) + (1 << order)) * PAGE_SIZE as u64 <= limit;
        let (index, found) = (order..ORDERS).find_map(|order| {
            let mut at = self.free[order].first;
            while at != NONE && !fits(at) {
                at = self.frame(at).next;
            }
            (at != NONE).then_some((at, order))
        })?;
        self.remove_free(index, found);
        self.split(index, found, order);
        Some(self.address_of(index))
    }

    /// Frees a block.
    ///
    /// # Panics
    /// If `at` is not an allocated block: it was freed before, or never allocated.
    pub fn free_block(&mut self, at: NonNull<u8>) {
        let index = self.index_of(at);
        let frame = self.frame(index);
        assert!(frame.kind == Kind::Allocated, "freed {at:p}, which is not an allocated block ({:?})", frame.kind);
        let order = usize::from(frame.order);
        self.return_block(index, order);
    }

    /// Allocates a small object of a class.
    pub fn allocate_object(&mut self, class: usize) -> Option<NonNull<u8>> {
        let size = size_of_class(class);
        if size == PAGE_SIZE {
            return self.allocate_bytes(PAGE_SIZE);
        }
        if self.slabs[class].first == NONE {
            let index = self.take_block(0)?;
            let frame = self.frame(index);
            frame.kind = Kind::Slab;
            frame.order = class as u8;
            (frame.in_use, frame.free_object, frame.fresh) = (0, NO_OBJECT, 0);
            self.slabs[class] = self.link(self.slabs[class], index);
            self.free_in_slabs += PAGE_SIZE as u64;
        }
        let index = self.slabs[class].first;
        let page = self.address_of(index);
        let frame = self.frame(index);
        let object = if frame.free_object == NO_OBJECT {
            frame.fresh += 1;
            frame.fresh - 1
        } else {
            frame.free_object
        };
        // SAFETY: `object` is below the number of objects per slab, so the result is inside the
        // slab's page.
        let at = unsafe { page.add(usize::from(object) * size) };
        if object == frame.free_object {
            // SAFETY: the object is on the free list, and a free object's first two bytes hold the
            // number of the next one.
            frame.free_object = unsafe { at.cast::<u16>().read() };
        }
        frame.in_use += 1;
        if usize::from(frame.in_use) == PAGE_SIZE / size {
            self.slabs[class] = self.unlink(self.slabs[class], index);
        }
        self.free_in_slabs -= size as u64;
        Some(at)
    }

    /// Frees a small object.
    ///
    /// # Panics
    /// If the page of `at` is not a slab of this class, so that `at` was never allocated from it.
    pub fn free_object(&mut self, at: NonNull<u8>, class: usize) {
        let size = size_of_class(class);
        if size == PAGE_SIZE {
            return self.free_block(at);
        }
        let index = self.index_of(at);
        let frame = self.frame(index);
        assert!(
            frame.kind == Kind::Slab && usize::from(frame.order) == class,
            "freed {at:p} as an object of {size} bytes, which it is not ({:?}, class {})",
            frame.kind,
            frame.order
        );
        // SAFETY: the object has been freed by its owner, and an object has at least 16 bytes,
        // which hold the link.
        unsafe { at.cast::<u16>().write(frame.free_object) };
        frame.free_object = ((at.as_ptr() as usize % PAGE_SIZE) / size) as u16;
        let was_full = usize::from(frame.in_use) == PAGE_SIZE / size;
        frame.in_use -= 1;
        let is_empty = frame.in_use == 0;
        self.free_in_slabs += size as u64;
        if was_full {
            self.slabs[class] = self.link(self.slabs[class], index);
        }
        if is_empty {
            self.slabs[class] = self.unlink(self.slabs[class], index);
            self.free_in_slabs -= PAGE_SIZE as u64;
            self.return_block(index, 0);
        }
    }

    /// Returns the zone's usage, in bytes.
    pub fn usage(&self) -> NodeUsage {
        let largest = u32::BITS - self.nonempty.leading_zeros();
        NodeUsage {
            total: self.total_frames * PAGE_SIZE as u64,
            free: self.free_frames * PAGE_SIZE as u64,
            free_in_slabs: self.free_in_slabs,
            records: self.record_bytes,
            largest_free: if largest == 0 { 0 } else { (PAGE_SIZE as u64) << (largest - 1) },
        }
    }
}

/// Returns the order of the smallest block that holds `size` bytes; `None` if no block is that
/// large.
fn order_of(size: usize) -> Option<usize> {
    let frames = size.div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
    let order = frames.trailing_zeros() as usize;
    (order < ORDERS).then_some(order)
}
