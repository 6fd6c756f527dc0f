//! Page runs for a program's blocks, cut from larger regions that hold nothing else.
//!
//! The first and the last page of a region stay unused, so that a program that writes a little
//! before or behind one of its blocks hits its own memory or nothing, never the kernel's.

use alloc::boxed::Box;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::PAGE_SIZE;

use crate::memory::zone::{self, ZONES, Zone};
use crate::memory::{self, OutOfMemory, Placement};

/// Pages of a program's first region, and of the largest. Each region is twice as large as the one
/// before.
const FIRST_PAGES: usize = 64;
const MOST_PAGES: usize = 1024;
/// Largest number of pages in a run.
pub(super) const RUN_LIMIT: usize = 32;
/// Number of regions searched before another one is made.
const SEARCHED: usize = 8;

/// A region: a run of a zone's pages.
pub(super) struct Region {
    start: NonNull<u8>,
    pages: usize,
    free: usize,
    /// Bit n is set if page n is free.
    map: [u64; MOST_PAGES / 64],
    next: *mut Region,
    previous: *mut Region,
}

/// A program's regions for one node and scope, as a list of those with free pages.
pub(super) struct Regions {
    /// The node, and the scope when that node has no memory left.
    placement: (usize, Scope),
    first: *mut Region,
    next_pages: usize,
}

/// Where memory may come from if the node has none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// From the nearest node that has some.
    Nearest,
    /// From no other node.
    NodeOnly,
}

// SAFETY: the regions belong to the list and are tied to no thread or CPU.
unsafe impl Send for Regions {}

impl Region {
    fn is_free(&self, page: usize) -> bool {
        self.map[page / 64] >> (page % 64) & 1 != 0
    }

    fn mark_free(&mut self, page: usize, count: usize) {
        (page..page + count).for_each(|page| self.map[page / 64] |= 1 << (page % 64));
        self.free += count;
    }

    fn mark_used(&mut self, page: usize, count: usize) {
        (page..page + count).for_each(|page| self.map[page / 64] &= !(1 << (page % 64)));
        self.free -= count;
    }

    /// Returns the first page of the first run of `count` free pages.
    fn find(&self, count: usize) -> Option<usize> {
        let mut page = 0;
        while page + count <= self.pages {
            // Skip words without a free page.
            if page.is_multiple_of(64) && self.map[page / 64] == 0 {
                page += 64;
                continue;
            }
            match (page..page + count).rev().find(|&page| !self.is_free(page)) {
                Some(taken) => page = taken + 1,
                None => return Some(page),
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.free == self.pages - 2
    }
}

/// Frees a run of pages that came from [`take_pages`].
pub(super) fn give_pages(at: NonNull<u8>, pages: usize) {
    zone::of(at).lock().free_pages(at, pages);
}

/// Limits of the gap before a large run: one free page per [`GAP_OF`] pages of the run, and
/// [`MOST_GAP`] pages at most.
const GAP_OF: usize = 64;
const MOST_GAP: usize = 31;
/// Difference between successive gaps before they wrap at the limit: a prime, so that the gaps take
/// on all values unless the limit is a multiple of it.
const GAP_STEP: usize = 7;

/// Returns the gap before a run, in pages; see [`take_pages`]. Successive runs get different gaps
/// in most cases. Without them, large runs that follow each other or come from aligned free memory
/// would begin at the same offset from a power of two and compete for the same cache sets.
pub(super) fn gap(pages: usize, align: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    match (pages / GAP_OF).min(MOST_GAP) {
        0 => 0,
        _ if align > PAGE_SIZE => 0,
        most => 1 + NEXT.fetch_add(GAP_STEP, Ordering::Relaxed) % most,
    }
}

/// Takes consecutive pages straight from a zone, behind a gap of free pages if there is room for
/// one.
pub(super) fn take_pages(
    node: usize,
    scope: Scope,
    pages: usize,
    align: usize,
    gap: usize,
) -> Result<NonNull<u8>, OutOfMemory> {
    memory::may_fail()?;
    let take = |zone: &mut Zone| zone.allocate_pages(pages, align, gap);
    let found = match scope {
        Scope::Nearest => zone::find_nearest(node, take),
        Scope::NodeOnly => ZONES.get(node).and_then(|zone| take(&mut zone.lock())),
    };
    found.ok_or(OutOfMemory)
}

impl Regions {
    pub(super) const fn new(node: usize, scope: Scope) -> Self {
        Self { placement: (node, scope), first: ptr::null_mut(), next_pages: FIRST_PAGES }
    }

    /// Returns the node and the scope that the regions come from.
    pub(super) fn placement(&self) -> (usize, Scope) {
        self.placement
    }

    /// Takes a run of at most [`RUN_LIMIT`] pages.
    pub(super) fn take(&mut self, count: usize) -> Result<(NonNull<Region>, NonNull<u8>), OutOfMemory> {
        let mut region = self.first;
        for _ in 0..SEARCHED {
            let Some(at) = NonNull::new(region) else { break };
            if let Some(found) = self.take_from(at, count) {
                return Ok((at, found));
            }
            // SAFETY: a region on the list lives until it is unlinked, and the list is borrowed
            // exclusively.
            region = unsafe { at.as_ref() }.next;
        }
        let at = self.add(count)?;
        let found = self.take_from(at, count).ok_or(OutOfMemory)?;
        Ok((at, found))
    }

    fn take_from(&mut self, mut at: NonNull<Region>, count: usize) -> Option<NonNull<u8>> {
        // SAFETY: the region is on this list, which is borrowed exclusively, so there is no other
        // reference to it.
        let region = unsafe { at.as_mut() };
        let page = region.find(count)?;
        region.mark_used(page, count);
        // SAFETY: `find` returned a page inside the region, so the address is inside it too.
        let found = unsafe { region.start.add(page * PAGE_SIZE) };
        if region.free == 0 {
            self.unlink(at);
        }
        Some(found)
    }

    /// Gives a run back. A region of which nothing is used goes back to its zone, unless it is the
    /// only one on the list.
    pub(super) fn give(&mut self, mut at: NonNull<Region>, start: NonNull<u8>, count: usize) {
        // SAFETY: a region with a run in use lives, and it belongs to this list, which is borrowed
        // exclusively.
        let region = unsafe { at.as_mut() };
        let was_full = region.free == 0;
        region.mark_free((start.as_ptr() as usize - region.start.as_ptr() as usize) / PAGE_SIZE, count);
        let is_empty = region.is_empty();
        if was_full {
            self.link(at);
        }
        // SAFETY: the region is still alive, and it belongs to this list, which is borrowed
        // exclusively.
        if is_empty && (self.first != at.as_ptr() || !unsafe { at.as_ref() }.next.is_null()) {
            self.unlink(at);
            release(at);
        }
    }

    /// Gives back the regions that are left once all runs have been given back.
    pub(super) fn release_all(&mut self) {
        while let Some(region) = NonNull::new(self.first) {
            self.unlink(region);
            release(region);
        }
    }

    /// Makes a region with room for a run of `count` pages.
    fn add(&mut self, count: usize) -> Result<NonNull<Region>, OutOfMemory> {
        let mut region = memory::try_box(Region {
            start: NonNull::dangling(),
            pages: 0,
            free: 0,
            map: [0; MOST_PAGES / 64],
            next: ptr::null_mut(),
            previous: ptr::null_mut(),
        })?;
        let (node, scope) = self.placement;
        let mut pages = self.next_pages;
        // When memory is short, a smaller region will do.
        let start = loop {
            match take_pages(node, scope, pages, PAGE_SIZE, 0) {
                Ok(start) => break start,
                Err(error) if pages / 2 < count + 2 => return Err(error),
                Err(_) => pages /= 2,
            }
        };
        self.next_pages = (self.next_pages * 2).min(MOST_PAGES);
        region.start = start;
        region.pages = pages;
        region.mark_free(1, pages - 2);
        let at = NonNull::from(Box::leak(region));
        self.link(at);
        Ok(at)
    }

    fn link(&mut self, mut at: NonNull<Region>) {
        // SAFETY: `at` and the regions on the list live and belong to this list, which is borrowed
        // exclusively.
        unsafe {
            let region = at.as_mut();
            (region.next, region.previous) = (self.first, ptr::null_mut());
            if let Some(first) = self.first.as_mut() {
                first.previous = at.as_ptr();
            }
        }
        self.first = at.as_ptr();
    }

    fn unlink(&mut self, at: NonNull<Region>) {
        // SAFETY: `at` and its neighbours live and belong to this list, which is borrowed
        // exclusively.
        unsafe {
            let (next, previous) = (at.as_ref().next, at.as_ref().previous);
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.first = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
        }
    }
}

/// Gives a region that is on no list back to its zone.
fn release(at: NonNull<Region>) {
    // SAFETY: `Regions::add` made the region from a box, and it is on no list, so this is the last
    // use of it.
    let region = unsafe { Box::from_raw(at.as_ptr()) };
    give_pages(region.start, region.pages);
}

/// Sets the owner word of a run of pages; 0 marks them as not owned.
pub(super) fn set_owner(start: NonNull<u8>, pages: usize, word: u64) {
    for page in 0..pages {
        // SAFETY: the caller owns the run of `pages` pages, so the address stays inside it.
        let at = unsafe { start.add(page * PAGE_SIZE) };
        if let Some(owner) = zone::owner(at) {
            owner.store(word, Ordering::Release);
        }
    }
}

/// Returns the scope of a placement: a placement on a given node does not use others.
pub(super) fn scope(placement: Placement) -> Scope {
    match placement {
        Placement::Near => Scope::Nearest,
        Placement::Node(_) => Scope::NodeOnly,
    }
}
