//! What start-up has to do on every machine with this CPU: take memory for page tables, map everything, find what is packed behind
//! the image.

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
    /// Symbols packed behind the image: u32 magic, u32 bytes that follow. See `cli`'s pack module.
    static __symbols_start: u8;
}

/// Largest symbol table accepted, in bytes.
const SYMBOLS_LIMIT: u32 = 16 << 20;
/// Most bytes of programs accepted.
const PROGRAMS_LIMIT: u32 = 1 << 30;
/// A trampoline must be below a PC's video memory.
const TRAMPOLINE_LIMIT: u64 = 0xa_0000;
/// The start-up page tables map this much.
const START_UP_LIMIT: u64 = 1 << 32;

/// What is packed behind the image: symbols, and programs. Without symbols there are no programs either.
pub fn packed() -> (&'static [u8], &'static [u8]) {
    // SAFETY: the linker script reserves 8 bytes there, and the packer puts the symbols behind them.
    let symbols = unsafe { packed_part(addr_of!(__symbols_start), SYMBOLS_MAGIC, SYMBOLS_LIMIT) };
    if symbols.is_empty() {
        return (symbols, symbols);
    }
    let end = symbols.as_ptr_range().end;
    let next = end.wrapping_add(end.align_offset(ALIGNMENT));
    // SAFETY: behind symbols the packer always puts a header for the programs.
    (symbols, unsafe { packed_part(next, PROGRAMS_MAGIC, PROGRAMS_LIMIT) })
}

/// # Safety
/// At `at` there are a u32 magic and a u32 length, and if the magic is right, so many bytes.
unsafe fn packed_part(at: *const u8, magic: u32, limit: u32) -> &'static [u8] {
    // SAFETY: by the caller's word.
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

/// Where the image is, with what is packed behind it.
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

/// What becomes [`BootInformation`], and what firmware told: static, because there is no heap yet.
pub struct Storage<Firmware> {
    /// The kernel's command line; see [`keep_line`].
    pub command_line: ArrayString<COMMAND_LINE_LIMIT>,
    /// Free memory.
    pub memory: ArrayVec<MemoryRegion, MAX_REGIONS>,
    /// The boot CPU first.
    pub cpus: ArrayVec<CpuDescription, MAX_CPUS>,
    /// What firmware told.
    pub firmware: Firmware,
    /// What was not as it should be.
    pub notices: Notices,
    /// For the kernel.
    pub information: Option<BootInformation>,
}

/// Keeps a command line, as much of it as there is room for.
pub fn keep_line(line: &str, kept: &mut ArrayString<COMMAND_LINE_LIMIT>) {
    let mut cut = line.len().min(COMMAND_LINE_LIMIT);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    kept.clear();
    kept.push_str(&line[..cut]);
}

/// A place for one.
pub struct Place<Firmware>(UnsafeCell<Storage<Firmware>>);

// SAFETY: only given away by `take`, to one who is alone with it by its caller's word.
unsafe impl<Firmware> Sync for Place<Firmware> {}

impl<Firmware> Place<Firmware> {
    /// Nothing is known yet.
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

    /// What is in it.
    ///
    /// # Safety
    /// Called once.
    #[expect(clippy::mut_from_ref, reason = "by the caller's word there is only one")]
    pub unsafe fn take(&'static self) -> &'static mut Storage<Firmware> {
        // SAFETY: by the caller's word.
        unsafe { &mut *self.0.get() }
    }
}

/// Memory below 4 GiB as the start-up page tables map it.
pub struct StartUpMemory(());

impl StartUpMemory {
    /// # Safety
    /// It is no longer used when [`build_address_space`] is called.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysicalMemory for StartUpMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        if address == 0 || address.checked_add(length as u64)? > START_UP_LIMIT {
            return None;
        }
        // SAFETY: mapped by the start-up tables, which are in use (`new`); reads of absent memory give ones.
        Some(unsafe { core::slice::from_raw_parts(physical_to_virtual(address), length) })
    }
}

/// Frames for page tables, from the end of the last free range below 4 GiB.
pub struct FrameSource {
    next: u64,
    start: u64,
}

/// At most this much goes into start-up page tables. Direct map with 2 MiB pages: 4 KiB per GiB.
const TABLE_MEMORY: u64 = 32 << 20;

impl FrameSource {
    /// From free memory.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn take(free: &mut RangeList) -> Result<Self, &'static str> {
        let candidate = free.iter_mut().filter(|range| range.end <= START_UP_LIMIT).max_by_key(|range| range.len());
        let range = candidate.ok_or("there is no usable memory below 4 GiB")?;
        let size = (range.len() / 4).min(TABLE_MEMORY) & !(PAGE_SIZE as u64 - 1);
        range.end -= size;
        Ok(Self { start: range.end, next: range.end + size })
    }

    /// The next one, zeroed.
    #[expect(clippy::should_implement_trait, reason = "it is no sequence")]
    pub fn next(&mut self) -> Option<u64> {
        if self.next == self.start {
            return None;
        }
        self.next -= PAGE_SIZE as u64;
        // SAFETY: the frame was free, below 4 GiB and thereby mapped before and after the switch of page tables.
        unsafe { physical_to_virtual(self.next).write_bytes(0, PAGE_SIZE) };
        Some(self.next)
    }

    /// Returns what was not used.
    pub fn give_back(self, free: &mut RangeList) {
        if let Some(range) = free.iter_mut().find(|range| range.end == self.start) {
            range.end = self.next;
        }
    }
}

/// Takes a page below 1 MiB where further CPUs can start.
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

/// The part of the image that is written to.
pub fn image_data() -> PhysicalRange {
    PhysicalRange {
        start: virtual_to_physical(addr_of!(__constants_end)),
        end: virtual_to_physical(addr_of!(__symbols_start)),
    }
}

/// Makes the kernel's page tables and uses them: all memory with the largest pages, and what is shared with others; the image with
/// write-xor-execute; the lower half empty.
///
/// # Errors
/// What is wrong, for people.
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

/// Physical address of the start-up page tables: the first 4 GiB at 0 and at the direct map's place.
pub fn start_up_tables() -> u64 {
    virtual_to_physical(&raw const boot_tables)
}
