//! Runs of frames: allocations of any number of frames, which may span the borders of buddy blocks.

use core::ops::Range;
use core::ptr::NonNull;

use arch_contract::PAGE_SIZE;

use super::{Kind, NONE, ORDERS, Zone, order_of};

/// Number of free blocks tried before the search for a run gives up; bounds the search to some
/// hundred microseconds.
const TRIED: usize = 256;

impl Zone {
    /// Allocates `pages` consecutive frames, aligned to `align` bytes, a power of two. Where there
    /// is room, at least `gap` frames before the run stay free, so that consecutive large runs do
    /// not begin at the same offset from a power of two.
    pub fn allocate_pages(&mut self, pages: usize, align: usize, gap: usize) -> Option<NonNull<u8>> {
        let align = align.max(PAGE_SIZE) / PAGE_SIZE;
        let mut index = if pages.is_power_of_two() && gap == 0 { self.take_aligned(pages, align) } else { None };
        index = index.or_else(|| self.take_run(pages, align, gap));
        if gap != 0 {
            index = index.or_else(|| self.take_run(pages, align, 0));
        }
        let index = index.or_else(|| self.take_aligned(pages, align))?;
        Some(self.address_of(index))
    }

    /// Takes frames from the start of one free block that is large enough to have the alignment by
    /// itself.
    fn take_aligned(&mut self, pages: usize, align: usize) -> Option<u32> {
        let least = order_of(pages.max(align) * PAGE_SIZE)?;
        let order = (self.nonempty >> least << least).trailing_zeros() as usize;
        let block = self.free.get(order)?.first;
        let first = u64::from(block);
        self.cut_out(first, first..first + pages as u64);
        Some(block)
    }

    fn take_run(&mut self, pages: usize, align: usize, gap: usize) -> Option<u32> {
        // A free run of that many frames contains at least one whole free block of this order.
        let least = ((pages + gap + 1).ilog2() as usize).saturating_sub(1).min(ORDERS - 1);
        let mut tried = 0;
        // Small blocks first, so that the rest of a large block is used up before the next one is
        // cut.
        for order in least..ORDERS {
            let mut block = self.free[order].first;
            while block != NONE {
                let free = self.run_around(block, order, pages + gap + align);
                let first = (self.base + free.start + gap as u64).next_multiple_of(align as u64) - self.base;
                let run = first..first + pages as u64;
                if run.end <= free.end {
                    self.cut_out(free.start, run.clone());
                    return Some(run.start as u32);
                }
                tried += 1;
                if tried == TRIED {
                    return None;
                }
                block = self.frame(block).next;
            }
        }
        None
    }

    /// Returns the free frames around a free block: all adjoining free blocks before it, and after
    /// it as many as are needed to reach `wanted` frames.
    fn run_around(&self, block: u32, order: usize, wanted: usize) -> Range<u64> {
        let mut run = u64::from(block)..u64::from(block) + (1 << order);
        while let Some(order) = (0..ORDERS).find(|&order| self.is_free(run.start.wrapping_sub(1 << order), order)) {
            run.start -= 1 << order;
        }
        while run.end - run.start < wanted as u64
            && let Some(order) = self.free_order(run.end)
        {
            run.end += 1 << order;
        }
        run
    }

    /// Returns the order of the free block that begins at a frame; `None` if no free block begins
    /// there.
    fn free_order(&self, index: u64) -> Option<usize> {
        let frame = self.frame(u32::try_from(index).ok().filter(|&index| index < self.frame_count)?);
        (frame.kind == Kind::Free).then_some(usize::from(frame.order))
    }

    fn is_free(&self, index: u64, order: usize) -> bool {
        self.free_order(index) == Some(order)
    }

    /// Takes `run` out of the free blocks that it overlaps and puts back what is left of them
    /// before and after it. `start` is the start of a free block; contiguous free blocks lead from
    /// there to the end of the run.
    fn cut_out(&mut self, start: u64, run: Range<u64>) {
        let mut at = start;
        while at < run.end
            && let Some(order) = self.free_order(at)
        {
            let block = at..at + (1 << order);
            if block.end > run.start {
                self.remove_free(at as u32, order);
                self.free_frames -= 1 << order;
                self.put_back(block.start..run.start.max(block.start));
                self.put_back(run.end.min(block.end)..block.end);
            }
            at = block.end;
        }
        for (number, order) in blocks_of(self.base + run.start, self.base + run.end) {
            let frame = self.frame((number - self.base) as u32);
            frame.kind = Kind::Allocated;
            frame.order = order as u8;
        }
    }

    /// Frees part of a block that was taken out. No merge is attempted: the run lies between the
    /// parts, so no free buddy can exist.
    fn put_back(&mut self, frames: Range<u64>) {
        for (number, order) in blocks_of(self.base + frames.start, self.base + frames.end) {
            self.insert_free((number - self.base) as u32, order);
            self.free_frames += 1 << order;
        }
    }

    /// Frees a run from [`Zone::allocate_pages`], given with the same number of frames.
    ///
    /// # Panics
    /// If the run was not allocated with that number of frames.
    pub fn free_pages(&mut self, at: NonNull<u8>, pages: usize) {
        let first = self.base + u64::from(self.index_of(at));
        for (number, order) in blocks_of(first, first + pages as u64) {
            let frame = self.frame((number - self.base) as u32);
            assert!(
                frame.kind == Kind::Allocated && usize::from(frame.order) == order,
                "freed {pages} frames at {at:p}, which were not allocated as such ({:?})",
                frame.kind
            );
            self.return_block((number - self.base) as u32, order);
        }
    }
}

/// Splits a range of frame numbers into the largest blocks that alignment and length allow, and
/// yields each block's first frame and order.
pub(super) fn blocks_of(first: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut number = first;
    core::iter::from_fn(move || {
        let by_length = end.checked_sub(number)?.checked_ilog2()? as usize;
        let order = by_length.min(number.trailing_zeros() as usize).min(ORDERS - 1);
        number += 1 << order;
        Some((number - (1 << order), order))
    })
}
