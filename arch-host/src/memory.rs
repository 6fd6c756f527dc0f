//! Physical memory: a memory file, mapped whole at a fixed place, and page by page into the windows for stacks and programs.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use arch_contract::boot::PhysicalRange;
use arch_contract::{MapError, PAGE_SIZE, Protection};

/// Where physical address 0 would be.
const DIRECT_MAP: usize = 0x1000_0000_0000;
/// Nothing lives below; address 0 shall be no memory.
const FIRST_PHYSICAL: u64 = 0x10_0000;
/// Thread stacks: 64 GiB.
const STACK_WINDOW: Range<usize> = 0x2000_0000_0000..0x2010_0000_0000;
/// Programs' images, right behind: 1 GiB.
pub const PROGRAM_WINDOW: Range<usize> = STACK_WINDOW.end..STACK_WINDOW.end + (1 << 30);
/// Both.
const WINDOWS: Range<usize> = STACK_WINDOW.start..PROGRAM_WINDOW.end;

static FILE: AtomicI32 = AtomicI32::new(-1);

/// Makes `length` bytes of memory; returns where they are.
pub fn create(length: u64) -> PhysicalRange {
    // SAFETY: the name is NUL-terminated.
    let file = unsafe { libc::memfd_create(c"aerokernel-memory".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(file >= 0, "no memory file: {}", std::io::Error::last_os_error());
    let end = FIRST_PHYSICAL + length;
    // SAFETY: the file is ours.
    let sized = unsafe { libc::ftruncate(file, end as libc::off_t) };
    assert_eq!(sized, 0, "no {length} bytes of memory: {}", std::io::Error::last_os_error());
    map_file(DIRECT_MAP, 0, end as usize, file);
    let reserve = |at: usize, length: usize, protection: libc::c_int, fixed: libc::c_int| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        // SAFETY: addresses nothing else in the process uses.
        unsafe { libc::mmap(at as *mut _, length, protection, flags, -1, 0) }
    };
    let window = reserve(WINDOWS.start, WINDOWS.len(), libc::PROT_NONE, libc::MAP_FIXED_NOREPLACE);
    assert_eq!(window as usize, WINDOWS.start, "the addresses for stacks and programs are taken");
    let ledger = reserve(0, LEDGER_ENTRIES * size_of::<AtomicU64>(), libc::PROT_READ | libc::PROT_WRITE, 0);
    assert_ne!(ledger, libc::MAP_FAILED, "no memory for the ledger of the stack window");
    LEDGER.store(ledger.cast(), Ordering::Release);
    FILE.store(file, Ordering::Relaxed);
    PhysicalRange { start: FIRST_PHYSICAL, end }
}

fn map_file(at: usize, offset: u64, length: usize, file: i32) {
    // SAFETY: addresses set aside for this.
    let mapped = unsafe {
        libc::mmap(
            at as *mut _,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
            file,
            offset as libc::off_t,
        )
    };
    assert_eq!(mapped as usize, at, "memory cannot be mapped: {}", std::io::Error::last_os_error());
}

pub fn physical_to_virtual(physical: u64) -> *mut u8 {
    (DIRECT_MAP + physical as usize) as *mut u8
}

pub fn virtual_to_physical(address: *const u8) -> u64 {
    (address as usize).wrapping_sub(DIRECT_MAP) as u64
}

pub fn stack_window() -> Range<usize> {
    STACK_WINDOW
}

/// Maps whole pages of the machine's memory.
pub fn map_pages(address: usize, physical: u64, size: usize, protection: Protection) -> Result<(), MapError> {
    let protection = match protection {
        Protection::Code => libc::PROT_READ | libc::PROT_EXEC,
        Protection::Constants => libc::PROT_READ,
        Protection::Data => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: pages of the windows, which the kernel gives out.
    let mapped = unsafe {
        libc::mmap(
            address as *mut _,
            size,
            protection,
            libc::MAP_SHARED | libc::MAP_FIXED,
            FILE.load(Ordering::Relaxed),
            physical as libc::off_t,
        )
    };
    // Linux limits the number of mappings.
    if mapped == libc::MAP_FAILED {
        return Err(MapError::OutOfMemory);
    }
    for offset in (0..size).step_by(PAGE_SIZE) {
        ledger_entry(address + offset).store(physical + offset as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes a page's mapping away and says where it led.
pub fn unmap_page(address: usize) -> Option<u64> {
    let physical = ledger_entry(address).swap(0, Ordering::Relaxed);
    if physical == 0 {
        return None;
    }
    // SAFETY: a page of the windows that nothing uses any more.
    unsafe {
        libc::mmap(
            address as *mut _,
            PAGE_SIZE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    Some(physical)
}

/// Where each page of the windows leads, 0 for nowhere: what page tables are on bare metal.
fn ledger_entry(address: usize) -> &'static AtomicU64 {
    let index = (address - WINDOWS.start) / PAGE_SIZE;
    assert!(index < LEDGER_ENTRIES, "{address:#x} is in no window");
    // SAFETY: made by `create` with so many entries, never unmapped, zero at first.
    unsafe { &*LEDGER.load(Ordering::Acquire).add(index) }
}

const LEDGER_ENTRIES: usize = (WINDOWS.end - WINDOWS.start) / PAGE_SIZE;
static LEDGER: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
