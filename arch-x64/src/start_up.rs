//! Start-up common to all machines with this CPU: memory for page tables, the kernel's address
//! space, and the data packed behind the image.

use core::cell::UnsafeCell;
use core::ptr::addr_of;

use arch_contract::boot::{BootInformation, CpuDescription, MAX_REGIONS, MemoryRegion, PhysicalRange};
use arch_contract::{MAX_CPUS, MapError, PAGE_SIZE};
use arrayvec::{ArrayString, ArrayVec};
use firmware::memory_map::{self, RangeList};
use firmware::{Notices, PhysicalMemory};
use wire::packed::{ALIGNMENT, PROGRAMS_MAGIC, SYMBOLS_MAGIC};

use crate::paging::{AddressSpace, Use, physical_to_virtual, virtual_to_physical};
use crate::trampoline;

unsafe extern "C" {
    static __image_start: u8;
    static __code_end: u8;
    static __constants_end: u8;
    static __image_end: u8;
    /// Symbols packed behind the image: a u32 magic, a u32 length, and that many bytes. See
    /// `host/build`'s pack module.
    static __symbols_start: u8;
}

/// Largest symbol table accepted, in bytes.
const SYMBOLS_LIMIT: u32 = 16 << 20;
/// Largest size of the packed programs accepted, in bytes.
const PROGRAMS_LIMIT: u32 = 1 << 30;
/// The trampoline must lie below a PC's video memory.
const TRAMPOLINE_LIMIT: u64 = 0xa_0000;
/// End of the memory that the start-up page tables map.
const START_UP_LIMIT: u64 = 1 << 32;

/// Returns the symbols and programs packed behind the image. Without symbols there are no programs
/// either.
pub fn packed() -> (&'static [u8], &'static [u8]) {
    // SAFETY: the linker script reserves 8 bytes there, and the packer puts the symbols behind
    // them.
    let symbols = unsafe { packed_part(addr_of!(__symbols_start), SYMBOLS_MAGIC, SYMBOLS_LIMIT) };
    if symbols.is_empty() {
        return (symbols, symbols);
    }
    let end = symbols.as_ptr_range().end;
    let next = end.wrapping_add(end.align_offset(ALIGNMENT));
    // SAFETY: the packer always puts a header for the programs behind the symbols.
    (symbols, unsafe { packed_part(next, PROGRAMS_MAGIC, PROGRAMS_LIMIT) })
}

/// Returns one packed part; empty if the magic or the length is wrong.
///
/// # Safety
/// A u32 magic and a u32 length are readable at `at`, and if the magic is right, that many bytes
/// follow.
unsafe fn packed_part(at: *const u8, magic: u32, limit: u32) -> &'static [u8] {
    // SAFETY: the caller guarantees a readable header and, behind the right magic, as many bytes as
    // it says.
    unsafe {
        let header = at.cast::<u32>();
        let (found, length) = (header.read_unaligned(), header.add(1).read_unaligned());
        let start = header.add(2).cast();
        match found == magic && length <= limit {
            true => core::slice::from_raw_parts(start, length as usize),
            false => core::slice::from_raw_parts(start, 0),
        }
    }
}

/// Physical memory of the image, including everything packed behind it.
pub fn image(symbols: &[u8], programs: &[u8]) -> PhysicalRange {
    PhysicalRange {
        start: virtual_to_physical(addr_of!(__image_start)),
        end: match symbols {
            [] => virtual_to_physical(addr_of!(__image_end)),
            _ => virtual_to_physical(programs.as_ptr_range().end).next_multiple_of(PAGE_SIZE as u64),
        },
    }
}

/// Longest command line kept, in bytes.
pub const COMMAND_LINE_LIMIT: usize = 4096;

/// Backing storage for [`BootInformation`] and the firmware's data; static, because there is no
/// heap yet.
pub struct Storage<Firmware> {
    /// The kernel's command line; see [`keep_line`].
    pub command_line: ArrayString<COMMAND_LINE_LIMIT>,
    /// Free memory.
    pub memory: ArrayVec<MemoryRegion, MAX_REGIONS>,
    /// CPUs, the boot CPU first.
    pub cpus: ArrayVec<CpuDescription, MAX_CPUS>,
    /// The firmware's data.
    pub firmware: Firmware,
    /// The irregularities found at start-up.
    pub notices: Notices,
    /// The boot information passed to the kernel.
    pub information: Option<BootInformation>,
}

/// Copies a command line, truncated to the space available.
pub fn keep_line(line: &str, kept: &mut ArrayString<COMMAND_LINE_LIMIT>) {
    let mut cut = line.len().min(COMMAND_LINE_LIMIT);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    kept.clear();
    kept.push_str(&line[..cut]);
}

/// A static that holds a [`Storage`].
pub struct Place<Firmware>(UnsafeCell<Storage<Firmware>>);

// SAFETY: only `take` gives access, and its caller guarantees to call it once, so there is a single
// user.
unsafe impl<Firmware> Sync for Place<Firmware> {}

impl<Firmware> Place<Firmware> {
    /// Creates a place whose storage is empty but for `firmware`.
    pub const fn new(firmware: Firmware) -> Self {
        Self(UnsafeCell::new(Storage {
            command_line: ArrayString::new_const(),
            memory: ArrayVec::new_const(),
            cpus: ArrayVec::new_const(),
            firmware,
            notices: Notices(ArrayVec::new_const()),
            information: None,
        }))
    }

    /// Returns the storage.
    ///
    /// # Safety
    /// Called at most once for each place.
    #[expect(clippy::mut_from_ref, reason = "by the caller's word there is only one")]
    pub unsafe fn take(&'static self) -> &'static mut Storage<Firmware> {
        // SAFETY: the caller guarantees to call this only once, so no other reference exists.
        unsafe { &mut *self.0.get() }
    }
}

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

/// Takes a page below 1 MiB for the trampoline that starts secondary CPUs.
pub fn take_trampoline(free: &mut RangeList, notices: &mut Notices) -> Option<u64> {
    let last_page = |range: &PhysicalRange| {
        let end = range.end.min(TRAMPOLINE_LIMIT);
        (range.start + PAGE_SIZE as u64 <= end).then(|| end - PAGE_SIZE as u64)
    };
    let Some(page) = free.iter().filter_map(last_page).max() else {
        notices.add("no free page below 1 MiB: only the boot CPU can run; limit", TRAMPOLINE_LIMIT);
        return None;
    };
    memory_map::remove(free, PhysicalRange { start: page, end: page + PAGE_SIZE as u64 }, notices);
    trampoline::set_page(page);
    Some(page)
}

/// The writable part of the image.
pub fn image_data() -> PhysicalRange {
    PhysicalRange {
        start: virtual_to_physical(addr_of!(__constants_end)),
        end: virtual_to_physical(addr_of!(__symbols_start)),
    }
}

/// Builds the kernel's page tables and activates them: all memory with the largest pages, memory
/// shared with others, the image write-xor-execute, and the lower half empty.
///
/// # Errors
/// A human-readable reason.
pub fn build_address_space(
    free: &RangeList,
    shared: Option<PhysicalRange>,
    image: PhysicalRange,
    trampoline: Option<u64>,
    tables: &mut FrameSource,
) -> Result<(), &'static str> {
    let own_tables = PhysicalRange { start: tables.start, end: tables.next };
    let code_end = virtual_to_physical(addr_of!(__code_end));
    let constants_end = virtual_to_physical(addr_of!(__constants_end));
    let mut source = || tables.next();
    let mut build = || {
        let mut space = AddressSpace::new(&mut source).ok_or(MapError::OutOfMemory)?;
        for range in free.iter().chain(&shared) {
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

unsafe extern "C" {
    static boot_tables: u8;
}

/// Physical address of the start-up page tables, which map the first 4 GiB at 0 and in the direct
/// map.
pub fn start_up_tables() -> u64 {
    virtual_to_physical(&raw const boot_tables)
}
