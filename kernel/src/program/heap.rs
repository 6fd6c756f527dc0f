//! A program's heap: blocks in size classes a few percent apart, cut from spans of pages that only
//! the program uses.
//!
//! The record of a block is kept away from the block, so that a program that writes beyond its
//! blocks harms only itself: the kernel can still find, free and reclaim its blocks. Where a block
//! is larger than was asked for, the first bytes behind the requested end hold a pattern, which is
//! checked when the block is freed and when the program ends.
//!
//! A span belongs to a shard, whose lock guards it. Each CPU has a shard, and so has each node, for
//! allocations that name the node. A block is freed to its own span, whichever thread frees it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use arch_contract::PAGE_SIZE;

use super::regions::{RUN_LIMIT, Region, Regions, Scope, gap, give_pages, scope, set_owner, take_pages};
use super::table::Table;
use crate::cpu::{self, CacheLine};
use crate::lock::{SpinGuard, SpinLock};
use crate::memory::{self, OutOfMemory, Placement, zone};

/// Size of the largest block, in bytes.
const SIZE_LIMIT: usize = 1 << 40;
/// Largest alignment, in bytes.
const ALIGN_LIMIT: usize = 1 << 30;

/// Blocks up to this size come in steps of [`FINE_STEP`] bytes, from spans of [`FINE_PAGES`].
const FINE_LIMIT: usize = 1024;
const FINE_STEP: usize = 16;
const FINE_CLASSES: usize = FINE_LIMIT / FINE_STEP;
const FINE_PAGES: usize = 4;
/// Blocks up to this size come in steps of an eighth of a power of two, from spans of
/// [`COARSE_PAGES`], or [`COARSEST_PAGES`] above [`COARSE_SPAN_LIMIT`]. Larger blocks have pages of
/// their own.
const COARSE_LIMIT: usize = 16384;
const COARSE_SPAN_LIMIT: usize = 8192;
const COARSE_PER_DOUBLING: usize = 8;
const COARSE_PAGES: usize = 8;
const COARSEST_PAGES: usize = 32;
const CLASSES: usize = FINE_CLASSES + COARSE_PER_DOUBLING * (COARSE_LIMIT / FINE_LIMIT).ilog2() as usize;

const NONE: u32 = u32::MAX;
/// Flag in the entry of a block in use; the other bits count the block's bytes behind those asked
/// for.
const IN_USE: u16 = 1 << 15;
/// Marks the end of the free list: the entry of a free block is the number of the next one, or
/// this.
const LAST: u16 = IN_USE - 1;

/// The pattern byte behind a block's requested end, and the largest number of them.
const PATTERN: u8 = 0xfd;
const PATTERN_SIZE: usize = 16;

/// A span: blocks of one size, or a single large block, and their records.
struct Span {
    /// The shard whose lock guards the rest; [`NONE`] while the table entry is free.
    shard: AtomicU32,
    blocks: UnsafeCell<Blocks>,
}

// SAFETY: `blocks` is only accessed under the lock of the span's shard or of the list of free
// entries, or by the one caller that releases the span.
unsafe impl Sync for Span {}
// SAFETY: the pointers in `blocks` lead to memory of the heap, which is tied to no thread or CPU.
unsafe impl Send for Span {}

/// The blocks of a span.
struct Blocks {
    start: usize,
    /// Size of a block, in bytes.
    size: usize,
    pages: usize,
    /// The region that the pages were cut from; null if they come straight from a zone.
    region: *mut Region,
    /// Index of the heap's region list that `region` belongs to.
    regions: usize,
    /// An entry for each block of a class. Null for a large block, whose requested size is in
    /// `asked`.
    entries: *mut u16,
    asked: usize,
    class: u16,
    capacity: u16,
    in_use: u16,
    first_free: u16,
    /// Blocks from this number on were never used.
    fresh: u16,
    /// Links in the shard's list of spans with a free block; `next` also links the list of free
    /// entries.
    next: u32,
    previous: u32,
}

/// The `class` of a span with a single large block.
const LARGE: u16 = u16::MAX;

struct Shard {
    /// The first span with a free block, by class.
    with_free: [u32; CLASSES],
    usage: Usage,
}

/// The heap of one program.
pub struct Heap {
    /// The upper half of the owner words of the heap's pages.
    id: u32,
    shards: Box<[CacheLine<SpinLock<Shard>>]>,
    /// Largest number of CPUs; the nodes' shards follow the CPUs' shards.
    cpus: usize,
    /// For each node a list of regions that may come from other nodes too, then for each node a
    /// list that may not.
    regions: Box<[SpinLock<Regions>]>,
    spans: Table<Span>,
    free_entries: SpinLock<u32>,
}

/// Memory that is allocated and not freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of blocks.
    pub blocks: usize,
    /// The blocks' total size as asked for, in bytes.
    pub bytes: usize,
}

/// A block that was written behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The block's address.
    pub address: usize,
    /// The block's size as asked for, in bytes.
    pub size: usize,
}

impl core::fmt::Display for Overrun {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a block of {} bytes at {:#x} was written to behind its end", self.size, self.address)
    }
}

/// Why a block could not be freed, or was found damaged when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// The address is not that of a live block of this heap.
    NotABlock,
    /// The block was freed, but the program had written behind its end.
    Overrun(Overrun),
}

/// Returns the class of a size up to [`COARSE_LIMIT`], and the size of its blocks in bytes.
fn class_of(size: usize) -> (usize, usize) {
    if size <= FINE_LIMIT {
        let class = size.saturating_sub(1) / FINE_STEP;
        return (class, (class + 1) * FINE_STEP);
    }
    let shift = (size - 1).ilog2() as usize;
    let step_shift = shift - COARSE_PER_DOUBLING.ilog2() as usize;
    let steps = ((size - 1) >> step_shift) - COARSE_PER_DOUBLING + 1;
    let doubling = shift - FINE_LIMIT.ilog2() as usize;
    (FINE_CLASSES + doubling * COARSE_PER_DOUBLING + steps - 1, (1 << shift) + (steps << step_shift))
}

/// Returns the class for a size and alignment, and the size of its blocks in bytes; `None` if the
/// block needs pages of its own.
fn class_for(size: usize, align: usize) -> Option<(usize, usize)> {
    if align <= FINE_STEP && size <= COARSE_LIMIT {
        return Some(class_of(size));
    }
    // Spans begin at pages, so a block size that is a multiple of the alignment aligns every block.
    let mut wanted = size.max(1).next_multiple_of(align);
    while wanted <= COARSE_LIMIT && align <= PAGE_SIZE {
        let (class, block) = class_of(wanted);
        if block.is_multiple_of(align) {
            return Some((class, block));
        }
        wanted = block + 1;
    }
    None
}

/// Returns the number of pages in a span for blocks of a size.
fn pages_for(block: usize) -> usize {
    if block <= FINE_LIMIT {
        FINE_PAGES
    } else if block <= COARSE_SPAN_LIMIT {
        COARSE_PAGES
    } else {
        COARSEST_PAGES
    }
}

impl Heap {
    /// Creates an empty heap. `id` differs from that of every other live heap.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn new(id: u32) -> Result<Self, OutOfMemory> {
        let (cpus, nodes) = (cpu::limit(), memory::node_count());
        let mut shards = Vec::new();
        shards.try_reserve_exact(cpus + nodes).map_err(|_| OutOfMemory)?;
        shards.resize_with(cpus + nodes, || {
            CacheLine(SpinLock::new(Shard { with_free: [NONE; CLASSES], usage: Usage::default() }))
        });
        let mut regions = Vec::new();
        regions.try_reserve_exact(2 * nodes).map_err(|_| OutOfMemory)?;
        regions.extend((0..nodes).map(|node| SpinLock::new(Regions::new(node, Scope::Nearest))));
        regions.extend((0..nodes).map(|node| SpinLock::new(Regions::new(node, Scope::NodeOnly))));
        Ok(Self {
            id,
            shards: shards.into_boxed_slice(),
            cpus,
            regions: regions.into_boxed_slice(),
            spans: Table::new(),
            free_entries: SpinLock::new(NONE),
        })
    }

    /// Allocates memory. If there is none, a thread waits until the memory kept for reuse has been
    /// reclaimed, and tries once more.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for sizes and alignments beyond the limits.
    #[inline(always)]
    pub fn allocate(&self, size: usize, align: usize, placement: Placement) -> Result<NonNull<u8>, OutOfMemory> {
        match self.try_allocate(size, align, placement) {
            Err(OutOfMemory) => self.allocate_again(size, align, placement),
            found => found,
        }
    }

    #[cold]
    fn allocate_again(&self, size: usize, align: usize, placement: Placement) -> Result<NonNull<u8>, OutOfMemory> {
        if !memory::reclaim() {
            return Err(OutOfMemory);
        }
        self.try_allocate(size, align, placement)
    }

    fn try_allocate(&self, size: usize, align: usize, placement: Placement) -> Result<NonNull<u8>, OutOfMemory> {
        if size > SIZE_LIMIT || align > ALIGN_LIMIT || !align.is_power_of_two() {
            return Err(OutOfMemory);
        }
        let nodes = self.shards.len() - self.cpus;
        let (shard, regions) = match placement {
            Placement::Near => (cpu::this_index(), cpu::this_node()),
            Placement::Node(node) if node < nodes => (self.cpus + node, nodes + node),
            Placement::Node(_) => return Err(OutOfMemory),
        };
        match class_for(size, align) {
            Some((class, block)) => self.allocate_small(shard, regions, class, block, size),
            None => self.allocate_large(shard, regions, size, align, scope(placement)),
        }
    }

    #[inline(always)]
    fn allocate_small(
        &self,
        shard: usize,
        regions: usize,
        class: usize,
        block: usize,
        size: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        memory::may_fail()?;
        let mut state = self.shards[shard].lock();
        let mut index = state.with_free[class];
        if index == NONE {
            drop(state);
            index = self.make_span(shard, regions, class, block)?;
            state = self.shards[shard].lock();
            self.link(&mut state, index);
            index = state.with_free[class];
        }
        // SAFETY: the span is on the list of this shard, whose lock is held.
        let blocks = unsafe { self.blocks(index) };
        let at = blocks.take(size);
        if blocks.first_free == LAST && blocks.fresh == blocks.capacity {
            self.unlink(&mut state, index);
        }
        state.usage.blocks += 1;
        state.usage.bytes += size;
        drop(state);
        // SAFETY: the block of `block` bytes was just taken and has not been handed out yet.
        unsafe { write_pattern(at, size, block) };
        Ok(at)
    }

    /// Makes a span for a class and enters it into the table, but into no list.
    #[cold]
    fn make_span(&self, shard: usize, regions: usize, class: usize, block: usize) -> Result<u32, OutOfMemory> {
        let pages = pages_for(block);
        let capacity = pages * PAGE_SIZE / block;
        let entries = memory::allocate(entries_layout(capacity), Placement::Near)?.cast::<u16>();
        let taken = self.regions[regions].lock().take(pages);
        let index = taken.and_then(|(region, start)| {
            let blocks = Blocks {
                start: start.as_ptr() as usize,
                size: block,
                pages,
                region: region.as_ptr(),
                regions,
                entries: entries.as_ptr(),
                asked: 0,
                class: class as u16,
                capacity: capacity as u16,
                in_use: 0,
                first_free: LAST,
                fresh: 0,
                next: NONE,
                previous: NONE,
            };
            self.enter(shard, blocks).inspect_err(|_| self.regions[regions].lock().give(region, start, pages))
        });
        index.inspect_err(|_| {
            // SAFETY: the entries were allocated above with this layout, and no span refers to
            // them.
            unsafe { memory::free(entries.cast(), entries_layout(capacity)) };
        })
    }

    #[cold]
    fn allocate_large(
        &self,
        shard: usize,
        regions: usize,
        size: usize,
        align: usize,
        scope: Scope,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let pages = size.max(1).div_ceil(PAGE_SIZE);
        let (region, start) = if pages <= RUN_LIMIT && align <= PAGE_SIZE {
            memory::may_fail()?;
            let (region, start) = self.regions[regions].lock().take(pages)?;
            (region.as_ptr(), start)
        } else {
            let (node, _) = self.regions[regions].lock().placement();
            (ptr::null_mut(), take_pages(node, scope, pages, align, gap(pages, align))?)
        };
        let blocks = Blocks {
            start: start.as_ptr() as usize,
            size: pages * PAGE_SIZE,
            pages,
            region,
            regions,
            entries: ptr::null_mut(),
            asked: size,
            class: LARGE,
            capacity: 1,
            in_use: 1,
            first_free: LAST,
            fresh: 1,
            next: NONE,
            previous: NONE,
        };
        self.enter(shard, blocks).inspect_err(|_| self.give_back(region, regions, start, pages))?;
        let mut state = self.shards[shard].lock();
        state.usage.blocks += 1;
        state.usage.bytes += size;
        drop(state);
        // SAFETY: the pages were just taken and have not been handed out yet.
        unsafe { write_pattern(start, size, pages * PAGE_SIZE) };
        Ok(start)
    }

    /// Gives pages back to the region or zone they came from.
    fn give_back(&self, region: *mut Region, regions: usize, start: NonNull<u8>, pages: usize) {
        match NonNull::new(region) {
            Some(region) => self.regions[regions].lock().give(region, start, pages),
            None => give_pages(start, pages),
        }
    }

    /// Puts a span into the table and marks its pages with the owner word.
    fn enter(&self, shard: usize, blocks: Blocks) -> Result<u32, OutOfMemory> {
        let start = NonNull::new(blocks.start as *mut u8).ok_or(OutOfMemory)?;
        let marked = if blocks.class == LARGE { 1 } else { blocks.pages };
        let mut free = self.free_entries.lock();
        let index = match *free {
            NONE => {
                let entry = Span { shard: AtomicU32::new(shard as u32), blocks: UnsafeCell::new(blocks) };
                self.spans.push(entry)? as u32
            }
            index => {
                // SAFETY: the entry is on the list of free entries, whose lock is held.
                let place = unsafe { self.blocks(index) };
                *free = place.next;
                *place = blocks;
                self.spans.get(index as usize).ok_or(OutOfMemory)?.shard.store(shard as u32, Ordering::Release);
                index
            }
        };
        drop(free);
        set_owner(start, marked, u64::from(self.id) << 32 | u64::from(index));
        Ok(index)
    }

    /// Returns the blocks of a span.
    ///
    /// # Safety
    /// The span exists, the caller holds the lock that guards it or is the only one that can reach
    /// it, and uses one reference at a time.
    #[expect(clippy::mut_from_ref, reason = "the caller holds the lock that guards it")]
    unsafe fn blocks(&self, index: u32) -> &mut Blocks {
        let span = self.spans.get(index as usize).expect("a span that is in a list is in the table");
        // SAFETY: the caller guarantees exclusive access to the span and that no other reference to
        // its blocks is in use.
        unsafe { &mut *span.blocks.get() }
    }

    fn link(&self, state: &mut Shard, index: u32) {
        // SAFETY: `index` and the spans on the list belong to this shard, whose lock the caller
        // holds through `state`.
        unsafe {
            let blocks = self.blocks(index);
            let class = usize::from(blocks.class);
            let next = state.with_free[class];
            (blocks.next, blocks.previous) = (next, NONE);
            if next != NONE {
                self.blocks(next).previous = index;
            }
            state.with_free[class] = index;
        }
    }

    fn unlink(&self, state: &mut Shard, index: u32) {
        // SAFETY: `index` and the spans on the list belong to this shard, whose lock the caller
        // holds through `state`.
        unsafe {
            let blocks = self.blocks(index);
            let (class, next, previous) = (usize::from(blocks.class), blocks.next, blocks.previous);
            if next != NONE {
                self.blocks(next).previous = previous;
            }
            if previous == NONE {
                state.with_free[class] = next;
            } else {
                self.blocks(previous).next = next;
            }
        }
    }

    /// Frees a block. Any address may be passed.
    ///
    /// # Errors
    /// See [`FreeError`].
    ///
    /// # Safety
    /// If `at` is a block of this heap, it is not used any more.
    pub unsafe fn free(&self, at: NonNull<u8>) -> Result<(), FreeError> {
        let (index, span, mut state) = self.find_span(at).ok_or(FreeError::NotABlock)?;
        // SAFETY: `find_span` found the span in this shard and locked it; `state` holds the lock.
        let blocks = unsafe { self.blocks(index) };
        let (number, size) = blocks.find(at.as_ptr() as usize).ok_or(FreeError::NotABlock)?;
        let overrun = blocks.overrun(number);
        let was_full = blocks.in_use == blocks.capacity;
        blocks.put(number);
        let (is_empty, is_large) = (blocks.in_use == 0, blocks.class == LARGE);
        state.usage.blocks -= 1;
        state.usage.bytes -= size;
        let class = usize::from(blocks.class);
        let is_only_one = !is_large && blocks.next == NONE && state.with_free[class] == index;
        if was_full && !is_large {
            self.link(&mut state, index);
        }
        // An empty span stays for reuse if it is the shard's only span of the class with a free
        // block.
        let goes = is_empty && !was_full && !is_only_one || is_large;
        if goes {
            if !is_large {
                self.unlink(&mut state, index);
            }
            span.shard.store(NONE, Ordering::Release);
        }
        drop(state);
        if goes {
            self.release(index);
        }
        overrun.map_or(Ok(()), |overrun| Err(FreeError::Overrun(overrun)))
    }

    /// Returns the span that contains an address, with its shard locked.
    #[inline(always)]
    fn find_span(&self, at: NonNull<u8>) -> Option<(u32, &Span, SpinGuard<'_, Shard>)> {
        let word = zone::owner(at)?.load(Ordering::Acquire);
        let (id, index) = ((word >> 32) as u32, word as u32);
        let span = self.spans.get(index as usize).filter(|_| id == self.id)?;
        let shard = span.shard.load(Ordering::Acquire);
        let state = self.shards.get(shard as usize)?.lock();
        // Between the two loads the span may have been released and its entry reused by another
        // shard; then another thread has freed the block.
        (span.shard.load(Ordering::Relaxed) == shard).then_some((index, span, state))
    }

    /// Returns the size of a block as asked for, in bytes; `None` if the address is not that of a
    /// live block. Any address may be passed.
    pub fn size_of(&self, at: NonNull<u8>) -> Option<usize> {
        let (index, _, state) = self.find_span(at)?;
        // SAFETY: `find_span` found the span in this shard and locked it; `state` holds the lock.
        let found = unsafe { self.blocks(index) }.find(at.as_ptr() as usize);
        drop(state);
        found.map(|(_, size)| size)
    }

    /// Gives the memory of a span back and frees its table entry. The span's shard is [`NONE`], and
    /// no list in use contains the span.
    fn release(&self, index: u32) {
        // SAFETY: `find_span` skips a span whose shard is `NONE`, and no list in use contains the
        // span, so only this call can reach it.
        let blocks = unsafe { self.blocks(index) };
        let (region, regions, pages) = (blocks.region, blocks.regions, blocks.pages);
        if let Some(start) = NonNull::new(blocks.start as *mut u8) {
            set_owner(start, if blocks.class == LARGE { 1 } else { pages }, 0);
            self.give_back(region, regions, start, pages);
        }
        if let Some(entries) = NonNull::new(blocks.entries) {
            // SAFETY: `make_span` allocated the entries with this layout, and nothing else frees
            // them.
            unsafe { memory::free(entries.cast(), entries_layout(usize::from(blocks.capacity))) };
        }
        let mut free = self.free_entries.lock();
        blocks.next = *free;
        *free = index;
    }

    /// Returns the blocks and bytes that are not freed.
    pub fn usage(&self) -> Usage {
        self.shards.iter().fold(Usage::default(), |usage, shard| {
            let of_shard = shard.lock().usage;
            Usage { blocks: usage.blocks + of_shard.blocks, bytes: usage.bytes + of_shard.bytes }
        })
    }

    /// Returns the first block found behind whose end the program has written, if any.
    pub fn find_overrun(&self) -> Option<Overrun> {
        (0..self.spans.len() as u32).find_map(|index| {
            let span = self.spans.get(index as usize)?;
            let shard = span.shard.load(Ordering::Acquire);
            let state = self.shards.get(shard as usize)?.lock();
            if span.shard.load(Ordering::Relaxed) != shard {
                return None;
            }
            // SAFETY: the span belongs to this shard, as was checked under its lock, which `state`
            // holds.
            let blocks = unsafe { self.blocks(index) };
            let found = (0..blocks.fresh).find_map(|number| blocks.overrun(number));
            drop(state);
            found
        })
    }

    /// Frees everything. The caller ensures that none of it is used any more.
    pub(super) fn release_all(&self) {
        for (index, span) in self.spans.iter().enumerate() {
            if span.shard.swap(NONE, Ordering::AcqRel) != NONE {
                self.release(index as u32);
            }
        }
        self.regions.iter().for_each(|regions| regions.lock().release_all());
        for shard in &self.shards {
            *shard.lock() = Shard { with_free: [NONE; CLASSES], usage: Usage::default() };
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.release_all();
    }
}

fn entries_layout(capacity: usize) -> Layout {
    // A span has at most 1,024 blocks, so the layout cannot overflow.
    Layout::array::<u16>(capacity).unwrap_or(Layout::new::<u16>())
}

/// Writes the pattern behind `size` bytes, as far as the block reaches.
///
/// # Safety
/// `at` is a block of `block` bytes that belongs to the caller.
#[inline(always)]
unsafe fn write_pattern(at: NonNull<u8>, size: usize, block: usize) {
    for offset in size..block.min(size + PATTERN_SIZE) {
        // SAFETY: `offset` is below `block`, and the caller guarantees that the block has that size
        // and belongs to it.
        unsafe { at.add(offset).write(PATTERN) };
    }
}

impl Blocks {
    /// Takes a block for `size` bytes. The span must have a free block.
    #[inline(always)]
    fn take(&mut self, size: usize) -> NonNull<u8> {
        let number = if self.first_free == LAST {
            self.fresh += 1;
            self.fresh - 1
        } else {
            self.first_free
        };
        debug_assert!(number < self.capacity);
        // SAFETY: `entries` has an entry for each block, and a free block's number is below
        // `capacity`.
        let entry = unsafe { &mut *self.entries.add(usize::from(number)) };
        if number == self.first_free {
            self.first_free = *entry;
        }
        *entry = IN_USE | (self.size - size) as u16;
        self.in_use += 1;
        // SAFETY: the address lies in the span, which does not begin at 0, so it is not null.
        unsafe { NonNull::new_unchecked((self.start + usize::from(number) * self.size) as *mut u8) }
    }

    /// Returns the bytes asked for of a block; `None` if it is not in use.
    fn asked(&self, number: u16) -> Option<usize> {
        if self.class == LARGE {
            return (self.in_use != 0).then_some(self.asked);
        }
        // SAFETY: `entries` has an entry for each block, and callers pass numbers below `fresh`.
        let entry = unsafe { *self.entries.add(usize::from(number)) };
        (entry & IN_USE != 0).then(|| self.size - usize::from(entry & !IN_USE))
    }

    /// Returns the number and requested size of the block in use that begins at an address.
    fn find(&self, address: usize) -> Option<(u16, usize)> {
        let offset = address.checked_sub(self.start)?;
        let number = offset / self.size;
        if number >= usize::from(self.fresh) || !offset.is_multiple_of(self.size) {
            return None;
        }
        Some((number as u16, self.asked(number as u16)?))
    }

    /// Takes back a block that is in use.
    fn put(&mut self, number: u16) {
        self.in_use -= 1;
        if self.class != LARGE {
            // SAFETY: `entries` has an entry for each block, and `number` is that of a block in
            // use.
            unsafe { *self.entries.add(usize::from(number)) = self.first_free };
            self.first_free = number;
        }
    }

    /// Returns the block if it is in use and the pattern behind its end has been changed.
    fn overrun(&self, number: u16) -> Option<Overrun> {
        let size = self.asked(number)?;
        let address = self.start + usize::from(number) * self.size;
        let mut behind = size..self.size.min(size + PATTERN_SIZE);
        // SAFETY: the offsets lie inside the block, which stays mapped while its span is locked.
        // The program may write to it meanwhile, hence the volatile read.
        let is_intact = behind.all(|offset| unsafe { ((address + offset) as *const u8).read_volatile() } == PATTERN);
        (!is_intact).then_some(Overrun { address, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_not_the_one_below() {
        let mut last = (0, 0);
        for size in 1..=COARSE_LIMIT {
            let (class, block) = class_of(size);
            assert!(block >= size && class < CLASSES, "{size}: class {class} of {block} bytes");
            assert!(size == 1 || (class, block) == last || (class == last.0 + 1 && size == last.1 + 1), "{size}");
            last = (class, block);
        }
        assert_eq!(last, (CLASSES - 1, COARSE_LIMIT));
    }

    #[test]
    fn aligned_blocks_are_multiples_of_their_alignment() {
        for align in (0..14).map(|shift| 1usize << shift) {
            for size in (1..=COARSE_LIMIT).step_by(7) {
                match class_for(size, align) {
                    Some((class, block)) => {
                        assert!(block >= size && block.is_multiple_of(align.min(PAGE_SIZE)), "{size} {align}: {block}");
                        assert_eq!(class_of(block), (class, block));
                    }
                    None => assert!(align > PAGE_SIZE || size.next_multiple_of(align) > COARSE_LIMIT, "{size} {align}"),
                }
            }
        }
    }
}
