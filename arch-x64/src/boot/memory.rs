//! Memory while the kernel starts: the start-up page tables, frames for the kernel's own, and its
//! address space.

use core::ptr::addr_of;

use arch_contract::boot::PhysicalRange;
use arch_contract::{MapError, PAGE_SIZE};
use firmware::PhysicalMemory;
use firmware::memory_map::RangeList;

use crate::cpu::paging::{Tables, Use, physical_to_virtual, virtual_to_physical};

unsafe extern "C" {
    static __code_end: u8;
    pub(super) static __constants_end: u8;
    static boot_tables: u8;
}

/// End of the memory that the start-up page tables map.
const START_UP_LIMIT: u64 = 1 << 32;

/// Memory below 4 GiB, accessed through the start-up page tables.
pub struct StartUpMemory(());

impl StartUpMemory {
    /// Grants access through the start-up page tables.
    ///
    /// # Safety
    /// The value is no longer used once [`build_address_space`] is called.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysicalMemory for StartUpMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        if address == 0 || address.checked_add(length as u64)? > START_UP_LIMIT {
            return None;
        }
        // SAFETY: the start-up tables map the range and are in use, as the caller of `new`
        // guarantees; absent memory reads as ones.
        Some(unsafe { core::slice::from_raw_parts(physical_to_virtual(address), length) })
    }
}

/// Frames for page tables, from the end of the largest free range below 4 GiB.
pub struct FrameSource {
    next: u64,
    start: u64,
}

/// Limit for page tables built at start-up. The direct map needs 4 KiB per GiB with 2 MiB pages.
const TABLE_MEMORY: u64 = 32 << 20;

impl FrameSource {
    /// Takes the frames from free memory.
    ///
    /// # Errors
    /// A human-readable reason.
    pub fn take(free: &mut RangeList) -> Result<Self, &'static str> {
        let candidate = free.iter_mut().filter(|range| range.end <= START_UP_LIMIT).max_by_key(|range| range.len());
        let range = candidate.ok_or("there is no usable memory below 4 GiB")?;
        let size = (range.len() / 4).min(TABLE_MEMORY) & !(PAGE_SIZE as u64 - 1);
        range.end -= size;
        Ok(Self { start: range.end, next: range.end + size })
    }

    /// Returns the next frame, zeroed.
    #[expect(clippy::should_implement_trait, reason = "it is no sequence")]
    pub fn next(&mut self) -> Option<u64> {
        if self.next == self.start {
            return None;
        }
        self.next -= PAGE_SIZE as u64;
        // SAFETY: the frame was free and lies below 4 GiB, so it is mapped both before and after
        // the page tables are switched.
        unsafe { physical_to_virtual(self.next).write_bytes(0, PAGE_SIZE) };
        Some(self.next)
    }

    /// Returns the unused frames to free memory.
    pub fn give_back(self, free: &mut RangeList) {
        if let Some(range) = free.iter_mut().find(|range| range.end == self.start) {
            range.end = self.next;
        }
    }
}

/// Builds the kernel's page tables and activates them: all memory with the largest pages, memory
/// shared with others, the image write-xor-execute, and the lower half empty.
///
/// # Errors
/// A human-readable reason.
pub fn build_address_space(
    free: &RangeList,
    shared: &[PhysicalRange],
    image: PhysicalRange,
    trampoline: Option<u64>,
    tables: &mut FrameSource,
) -> Result<(), &'static str> {
    let own_tables = PhysicalRange { start: tables.start, end: tables.next };
    let code_end = virtual_to_physical(addr_of!(__code_end));
    let constants_end = virtual_to_physical(addr_of!(__constants_end));
    let mut source = || tables.next();
    let mut build = || {
        let mut space = Tables::new(&mut source).ok_or(MapError::OutOfMemory)?;
        for range in free.iter().chain(shared) {
            space.map_direct(*range, Use::Data, &mut source)?;
        }
        space.map_direct(own_tables, Use::Data, &mut source)?;
        space.map_direct(PhysicalRange { start: image.start, end: code_end }, Use::Code, &mut source)?;
        space.map_direct(PhysicalRange { start: code_end, end: constants_end }, Use::Constants, &mut source)?;
        space.map_direct(PhysicalRange { start: constants_end, end: image.end }, Use::Data, &mut source)?;
        if let Some(page) = trampoline {
            let range = PhysicalRange { start: page, end: page + PAGE_SIZE as u64 };
            space.map_direct(range, Use::Data, &mut source)?;
        }
        Ok(space)
    };
    match build() {
        Ok(space) => {
            space.install();
            Ok(())
        }
        Err(MapError::OutOfMemory) => Err("the memory for page tables is used up"),
        Err(MapError::AlreadyMapped) => Err("two memory ranges overlap"),
    }
}

/// Physical address of the start-up page tables, which map the first 4 GiB at 0 and in the direct
/// map.
pub fn start_up_tables() -> u64 {
    virtual_to_physical(&raw const boot_tables)
}
