//! Windows onto this process's memory: 1 GiB of its addresses each, at the same addresses in the
//! HRT's lower half. KVM gives the HRT what Linux gives the process there, page by page.

use std::fs;
use std::sync::atomic::Ordering;

use kvm_ioctls::VmFd;

use crate::Error;
use crate::memory::{Mapping, add_region};

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
const TABLE_ENTRIES: u64 = 512;
/// Entries of the root table for the lower half, each with a table of the next level.
const ROOT_ENTRIES: u64 = 256;
/// One past the last address that a process can have (Linux, Documentation/arch/x86/x86_64/mm.rst).
const END: u64 = 0x7fff_ffff_f000;
/// GiB of addresses that a process can have.
const GIBS: usize = 1 << 17;
/// Most windows without pages of 1 GiB: each takes a table.
const SMALL_WINDOWS: u64 = 512;
/// Size of the tables, in bytes; what is not used costs nothing.
const TABLES: u64 = (ROOT_ENTRIES + SMALL_WINDOWS) * PAGE;
/// Bits of page table entries (SDM Vol. 3A, 4.5).
const PRESENT: u64 = 0x3;
const LEAF: u64 = 0x80;

/// The windows of an HVM.
pub struct Windows {
    tables: Mapping,
    /// Physical address of the tables.
    at: u64,
    /// Where windows begin in physical memory: behind everything else.
    first: u64,
    has_large_pages: bool,
    /// Bits of a physical address.
    address_bits: u8,
    /// A bit for each GiB of the process's addresses that has a window. Nothing is allocated when
    /// a window is opened, because the HRT may run this process's allocator just then.
    open: Box<[u64]>,
    count: u64,
    next_slot: u32,
}

impl Windows {
    /// Makes room for windows. Their tables lie at a physical address; physical addresses from
    /// `behind` on and memory slots from `next_slot` on are free.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn new(
        vm: &VmFd,
        at: u64,
        behind: u64,
        next_slot: u32,
        has_large_pages: bool,
        address_bits: u8,
    ) -> Result<Self, Error> {
        let tables = Mapping::private(TABLES as usize)?;
        add_region(vm, next_slot, at, &tables)?;
        Ok(Self {
            tables,
            at,
            first: behind.next_multiple_of(GIB),
            has_large_pages,
            address_bits,
            open: vec![0; GIBS / 64].into(),
            count: 0,
            next_slot: next_slot + 1,
        })
    }

    /// The lower half of a root table that leads to the windows.
    pub fn root(&self) -> Vec<u64> {
        (0..ROOT_ENTRIES).map(|entry| self.at + entry * PAGE | PRESENT).collect()
    }

    /// Opens windows onto everything that the process has mapped and may access.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::TooManyWindows`].
    pub fn open_all(&mut self, vm: &VmFd) -> Result<(), Error> {
        let maps = fs::read_to_string("/proc/self/maps")
            .map_err(|why| Error::Refused { what: "reading what the process has mapped", why })?;
        for (start, end) in maps.lines().filter_map(accessible) {
            for gib in start / GIB..end.div_ceil(GIB) {
                self.open(vm, gib)?;
            }
        }
        Ok(())
    }

    /// The number of windows.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Opens the window with an address, unless it is open. Allocates nothing.
    ///
    /// # Errors
    /// As [`Windows::open_all`]; [`Error::NoAddress`].
    pub fn open_at(&mut self, vm: &VmFd, address: u64) -> Result<(), Error> {
        if address < END { self.open(vm, address / GIB) } else { Err(Error::NoAddress(address)) }
    }

    /// Opens a window, unless it is open. The GiB is one of the process's addresses.
    fn open(&mut self, vm: &VmFd, gib: u64) -> Result<(), Error> {
        let (word, bit) = (gib as usize / 64, 1 << (gib % 64));
        if self.open[word] & bit != 0 {
            return Ok(());
        }
        let number = self.count;
        let physical = self.first + number * GIB;
        if physical + GIB > 1 << self.address_bits || (!self.has_large_pages && number == SMALL_WINDOWS) {
            return Err(Error::TooManyWindows(number));
        }
        let start = gib * GIB;
        let size = GIB.min(END - start);
        // The whole window, mapped or not: KVM asks Linux for each page when it is touched.
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: self.next_slot,
            flags: 0,
            guest_phys_addr: physical,
            memory_size: size,
            userspace_addr: start,
        };
        // SAFETY: the HRT may access all memory of the process: the code that merges the address
        // spaces answers for what it does there.
        unsafe { vm.set_user_memory_region(region) }.map_err(Error::refused("opening a window onto the process"))?;
        self.next_slot += 1;
        let entry = if self.has_large_pages {
            physical | LEAF | PRESENT
        } else {
            let table = (ROOT_ENTRIES + number) * PAGE;
            for page in 0..TABLE_ENTRIES {
                self.put(table + page * 8, physical + (page << 21) | LEAF | PRESENT);
            }
            self.at + table | PRESENT
        };
        self.put(gib * 8, entry);
        self.open[word] |= bit;
        self.count += 1;
        Ok(())
    }

    fn put(&self, at: u64, entry: u64) {
        // The tables have room for all windows.
        if let Some(word) = self.tables.word(at) {
            word.store(entry, Ordering::Release);
        }
    }
}

/// Returns the range of a line of /proc/self/maps, if it is accessible and a process's.
fn accessible(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let is_accessible = words.next()?.starts_with(['r', 'w', 'x']) || words.next().is_none();
    (is_accessible && range.1 <= END).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::accessible;

    #[test]
    fn windows_are_opened_where_the_process_has_memory() {
        let line = "7f5d2c000000-7f5d2c021000 rw-p 00000000 00:00 0";
        assert_eq!(accessible(line), Some((0x7f5d_2c00_0000, 0x7f5d_2c02_1000)));
        assert_eq!(accessible("7f5d2c021000-7f5d30000000 ---p 00000000 00:00 0"), None);
        assert_eq!(accessible("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"), None);
        assert_eq!(accessible("nonsense"), None);
    }
}
