//! Page tables: the direct map at [`PHYSICAL_OFFSET`], device registers, thread stacks, and the
//! image's own sections.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arch_contract::boot::PhysicalRange;
use arch_contract::{MapError, PAGE_SIZE, ProbeError, Protection};
use x86_64::registers::control::{Cr3, Cr3Flags, Cr4, Cr4Flags};
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use super::{debug, probe, thread_pointer};

/// Virtual address of physical address 0 in the direct map (DESIGN.md, decision 1).
pub const PHYSICAL_OFFSET: usize = 0xffff_8000_0000_0000;
/// Virtual addresses of device registers.
pub const DEVICE_WINDOW: Range<usize> = 0xffff_e000_0000_0000..0xffff_e080_0000_0000;
/// Virtual addresses of thread stacks: 32 TiB.
pub const STACK_WINDOW: Range<usize> = 0xffff_c000_0000_0000..0xffff_e000_0000_0000;

/// Virtual addresses of program images: 64 GiB.
pub const PROGRAM_WINDOW: Range<usize> = 0xffff_e100_0000_0000..0xffff_e110_0000_0000;

const _: () = {
    // All memory that may be reported fits in the direct map, and no two windows overlap.
    assert!(PHYSICAL_OFFSET + firmware::memory_map::HIGHEST_ADDRESS as usize <= STACK_WINDOW.start);
    assert!(STACK_WINDOW.end <= DEVICE_WINDOW.start && DEVICE_WINDOW.end <= PROGRAM_WINDOW.start);
};

const SIZE_2M: u64 = 1 << 21;
/// Entries of a page table.
const ENTRIES: usize = 512;
const SIZE_1G: u64 = 1 << 30;

/// Flags of an entry that refers to another table.
const TABLE_FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// Use of mapped memory. No use is both writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Execute and read.
    Code,
    /// Read.
    Constants,
    /// Read and write.
    Data,
    /// Read and write, uncached.
    Device,
}

impl Use {
    fn flags(self) -> PageTableFlags {
        let specific = match self {
            Self::Code => PageTableFlags::empty(),
            Self::Constants => PageTableFlags::NO_EXECUTE,
            Self::Data => PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
            Self::Device => {
                PageTableFlags::NO_EXECUTE
                    | PageTableFlags::WRITABLE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
        };
        PageTableFlags::PRESENT | specific
    }
}

/// Supplies zeroed frames for page tables, by physical address.
pub type TableSource<'a> = &'a mut dyn FnMut() -> Option<u64>;

/// Returns a physical address's place in the direct map.
#[inline(always)]
pub fn physical_to_virtual(physical: u64) -> *mut u8 {
    (PHYSICAL_OFFSET + physical as usize) as *mut u8
}

/// Returns the physical address of something in the direct map.
#[inline(always)]
pub fn virtual_to_physical(address: *const u8) -> u64 {
    (address as usize).wrapping_sub(PHYSICAL_OFFSET) as u64
}

fn table_at(physical: u64) -> *mut PageTable {
    physical_to_virtual(physical).cast()
}

/// Size of the largest page the CPU supports, in bytes.
fn largest_page() -> u64 {
    let has_1g = raw_cpuid::CpuId::new().get_extended_processor_and_feature_identifiers();
    if has_1g.is_some_and(|features| features.has_1gib_pages()) { SIZE_1G } else { SIZE_2M }
}

/// A page table hierarchy under construction.
pub struct Tables {
    root: u64,
    largest_page: u64,
}

impl Tables {
    /// Creates an empty address space.
    pub fn new(source: TableSource) -> Option<Self> {
        Some(Self { root: source()?, largest_page: largest_page() })
    }

    /// Maps memory into the direct map with the largest pages that fit.
    pub fn map_direct(&mut self, range: PhysicalRange, usage: Use, source: TableSource) -> Result<(), MapError> {
        self.map(PHYSICAL_OFFSET + range.start as usize, range, usage, source)
    }

    fn map(&mut self, mut at: usize, range: PhysicalRange, usage: Use, source: TableSource) -> Result<(), MapError> {
        let mut physical = range.start;
        while physical < range.end {
            let fits = |size: u64| {
                size <= self.largest_page && (physical | at as u64).is_multiple_of(size) && range.end - physical >= size
            };
            let size = if fits(SIZE_1G) {
                SIZE_1G
            } else if fits(SIZE_2M) {
                SIZE_2M
            } else {
                PAGE_SIZE as u64
            };
            map_one(self.root, at, physical, size, usage, source)?;
            physical += size;
            at += size as usize;
        }
        Ok(())
    }

    /// Makes this the kernel's address space, for the boot CPU now and for CPUs that start later.
    pub fn install(self) {
        ROOT.store(self.root, Ordering::Release);
        activate();
    }
}

static ROOT: AtomicU64 = AtomicU64::new(0);
static NEXT_DEVICE: AtomicUsize = AtomicUsize::new(DEVICE_WINDOW.start);

/// Physical address of the kernel's page tables.
pub fn root() -> u64 {
    ROOT.load(Ordering::Acquire)
}

/// Loads the kernel's page tables on this CPU.
fn activate() {
    let frame = PhysFrame::containing_address(PhysAddr::new(root()));
    // SAFETY: the tables map the image, the stacks in it and all memory, as the previous ones did.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}

fn map_one(root: u64, at: usize, physical: u64, size: u64, usage: Use, source: TableSource) -> Result<(), MapError> {
    if size == PAGE_SIZE as u64 {
        let table = last_table(root, at, source)?;
        // SAFETY: `table` is a page table of this hierarchy in the direct map, and callers
        // serialise changes.
        let entry = unsafe { &mut (&mut *table)[VirtAddr::new(at as u64).p1_index()] };
        return fill(entry, physical, usage.flags());
    }
    let address = VirtAddr::new(at as u64);
    let mut table = table_at(root);
    for (index, leaf_size) in [(address.p4_index(), 0), (address.p3_index(), SIZE_1G), (address.p2_index(), SIZE_2M)] {
        // SAFETY: `table` is a page table of this hierarchy in the direct map, and callers
        // serialise changes.
        let entry = unsafe { &mut (&mut *table)[index] };
        if leaf_size == size {
            return fill(entry, physical, usage.flags() | PageTableFlags::HUGE_PAGE);
        }
        table = table_below(entry, source)?;
    }
    Err(MapError::AlreadyMapped)
}

fn fill(entry: &mut PageTableEntry, physical: u64, flags: PageTableFlags) -> Result<(), MapError> {
    if !entry.is_unused() {
        return Err(MapError::AlreadyMapped);
    }
    entry.set_addr(PhysAddr::new(physical), flags);
    Ok(())
}

/// Returns the table an entry refers to; creates it if there is none.
#[inline(always)]
fn table_below(entry: &mut PageTableEntry, source: TableSource) -> Result<*mut PageTable, MapError> {
    if entry.is_unused() {
        let frame = source().ok_or(MapError::OutOfMemory)?;
        entry.set_addr(PhysAddr::new(frame), TABLE_FLAGS);
    } else if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
        return Err(MapError::AlreadyMapped);
    }
    Ok(table_at(entry.addr().as_u64()))
}

/// Returns the 4 KiB page table for an address; creates it and those above it if necessary.
#[inline(always)]
fn last_table(root: u64, at: usize, source: TableSource) -> Result<*mut PageTable, MapError> {
    let address = VirtAddr::new(at as u64);
    let mut table = table_at(root);
    for index in [address.p4_index(), address.p3_index(), address.p2_index()] {
        // SAFETY: `table` is a page table of this hierarchy in the direct map, and callers
        // serialise changes.
        table = table_below(unsafe { &mut (&mut *table)[index] }, source)?;
    }
    Ok(table)
}

impl From<Protection> for Use {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Code => Self::Code,
            Protection::Constants => Self::Constants,
            Protection::Data => Self::Data,
        }
    }
}

/// Maps device registers uncached and returns their virtual address. Only the boot CPU calls it,
/// during start-up.
///
/// # Errors
/// See [`MapError`].
pub fn map_device(physical: u64, length: usize, source: TableSource) -> Result<*mut u8, MapError> {
    let first = physical & !(PAGE_SIZE as u64 - 1);
    let pages = ((physical - first) as usize + length).div_ceil(PAGE_SIZE);
    let at = NEXT_DEVICE.fetch_add(pages * PAGE_SIZE, Ordering::Relaxed);
    if at + pages * PAGE_SIZE > DEVICE_WINDOW.end {
        return Err(MapError::OutOfMemory);
    }
    for page in 0..pages {
        let offset = page * PAGE_SIZE;
        let root = ROOT.load(Ordering::Relaxed);
        map_one(root, at + offset, first + offset as u64, PAGE_SIZE as u64, Use::Device, source)?;
    }
    Ok((at + (physical - first) as usize) as *mut u8)
}

/// Makes the lower half of the kernel's address space that of other page tables, or empty. Other
/// CPUs may still use the previous one until they have flushed their TLBs.
///
/// # Safety
/// `from` is the physical address of a root table in the direct map, whose lower half maps nothing
/// that the kernel uses otherwise; its tables stay where they are until the lower half is set
/// again.
pub unsafe fn set_lower_half(from: Option<u64>) {
    const LOWER: usize = ENTRIES / 2;
    let root = table_at(root());
    for index in 0..LOWER {
        // SAFETY: both are root tables in the direct map, as the caller guarantees for `from`; the
        // kernel itself maps nothing in the lower half, so no other code changes it.
        unsafe {
            let entry = from.map_or(PageTableEntry::new(), |from| (&*table_at(from))[index].clone());
            (&mut *root)[index] = entry;
        }
    }
    x86_64::instructions::tlb::flush_all();
}

/// Sets the control register bits the kernel relies on: CR4.DE, and CR4.FSGSBASE if the CPU has it.
/// The boot code has already set CR0.WP, so write protection holds in ring 0.
pub fn control_registers() {
    // SAFETY: debugging extensions only make accesses to reserved debug registers trap.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::DEBUGGING_EXTENSIONS)) };
    thread_pointer::enable();
}

/// The kernel's address space, in the active page tables.
pub struct AddressSpace;

impl arch_contract::AddressSpace for AddressSpace {
    #[inline(always)]
    fn physical_to_virtual(physical: u64) -> *mut u8 {
        physical_to_virtual(physical)
    }

    #[inline(always)]
    fn virtual_to_physical(address: *const u8) -> u64 {
        virtual_to_physical(address)
    }

    fn stack_window() -> Range<usize> {
        STACK_WINDOW
    }

    fn program_window() -> Range<usize> {
        PROGRAM_WINDOW
    }

    /// Maps page by page, in the active tables.
    ///
    /// Creates all tables before it maps the first page. A page that was mapped even for a moment
    /// may be in a TLB, if only by a speculative access (SDM Vol. 3A, 4.10.2.3), so undoing the
    /// mapping would need a flush on all CPUs.
    fn map_pages(
        at: usize,
        physical: u64,
        size: usize,
        protection: Protection,
        source: TableSource,
    ) -> Result<(), MapError> {
        let root = ROOT.load(Ordering::Relaxed);
        let end = at + size;
        // A last-level table maps 2 MiB, so one lookup serves all its pages.
        let end_of_table = |place: usize| end.min((place | (SIZE_2M as usize - 1)) + 1);
        let mut next = end_of_table(at);
        let mut place = next;
        while place < end {
            last_table(root, place, source)?;
            place = end_of_table(place);
        }
        let flags = Use::from(protection).flags();
        place = at;
        loop {
            // SAFETY: the result is a page table of this hierarchy in the direct map, and callers
            // serialise changes.
            let table = unsafe { &mut *last_table(root, place, source)? };
            while place < next {
                fill(&mut table[place / PAGE_SIZE % ENTRIES], physical + (place - at) as u64, flags)?;
                place += PAGE_SIZE;
            }
            if place >= end {
                return Ok(());
            }
            next = end_of_table(place);
        }
    }

    fn unmap_page(at: usize) -> Option<u64> {
        let address = VirtAddr::new(at as u64);
        let mut table = table_at(ROOT.load(Ordering::Relaxed));
        for index in [address.p4_index(), address.p3_index(), address.p2_index()] {
            // SAFETY: `table` is a page table of this hierarchy in the direct map, and callers
            // serialise changes.
            let entry = unsafe { &(&*table)[index] };
            if !entry.flags().contains(PageTableFlags::PRESENT) || entry.flags().contains(PageTableFlags::HUGE_PAGE) {
                return None;
            }
            table = table_at(entry.addr().as_u64());
        }
        // SAFETY: `table` is the last-level table of this hierarchy in the direct map, and callers
        // serialise changes.
        let entry = unsafe { &mut (&mut *table)[address.p1_index()] };
        let mapped = entry.flags().contains(PageTableFlags::PRESENT).then(|| entry.addr().as_u64());
        entry.set_unused();
        mapped
    }

    /// Global entries included.
    fn flush_tlb() {
        x86_64::instructions::tlb::flush_all();
    }

    fn is_device_memory(address: usize) -> bool {
        DEVICE_WINDOW.contains(&address)
    }

    #[inline(always)]
    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError> {
        probe::read(address, buffer)
    }

    #[inline(always)]
    unsafe fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        // SAFETY: the caller answers for the write.
        unsafe { probe::write(address, bytes) }
    }

    #[inline(always)]
    unsafe fn write_protected(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        // SAFETY: the caller answers for the write, with all other CPUs stopped.
        unsafe { debug::write_protected(address, bytes) }
    }
}
