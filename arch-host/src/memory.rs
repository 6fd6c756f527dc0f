//! Physical memory: a memory file, mapped whole at a fixed address and page by page into the
//! windows for stacks and programs.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use arch_contract::boot::PhysicalRange;
use arch_contract::{MapError, PAGE_SIZE, Protection};

/// Virtual address of physical address 0.
const DIRECT_MAP: usize = 0x1000_0000_0000;
/// Lowest physical address of memory, so that address 0 is none.
const FIRST_PHYSICAL: u64 = 0x10_0000;
/// Virtual addresses of thread stacks: 64 GiB.
const STACK_WINDOW: Range<usize> = 0x2000_0000_0000..0x2010_0000_0000;
/// Virtual addresses of program images, after the stacks: 1 GiB.
pub const PROGRAM_WINDOW: Range<usize> = STACK_WINDOW.end..STACK_WINDOW.end + (1 << 30);
/// Both windows.
const WINDOWS: Range<usize> = STACK_WINDOW.start..PROGRAM_WINDOW.end;

static FILE: AtomicI32 = AtomicI32::new(-1);

/// Creates `length` bytes of memory; returns their physical addresses.
pub fn create(length: u64) -> PhysicalRange {
    // SAFETY: the name is a C string literal, so it is NUL-terminated.
    let file = unsafe { libc::memfd_create(c"aerokernel-memory".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(file >= 0, "no memory file: {}", std::io::Error::last_os_error());
    let end = FIRST_PHYSICAL + length;
    // SAFETY: the call only resizes the memory file, which was just created.
    let sized = unsafe { libc::ftruncate(file, end as libc::off_t) };
    assert_eq!(sized, 0, "no {length} bytes of memory: {}", std::io::Error::last_os_error());
    map_file(DIRECT_MAP, 0, end as usize, file);
    let reserve = |at: usize, length: usize, protection: libc::c_int, fixed: libc::c_int| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        // SAFETY: Linux chooses the address, or MAP_FIXED_NOREPLACE makes the call fail if it is
        // taken, so no existing mapping is replaced.
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
    // SAFETY: the addresses are reserved for the direct map, so no other mapping is replaced.
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

/// Maps whole pages of the machine's memory into a window.
pub fn map_pages(address: usize, physical: u64, size: usize, protection: Protection) -> Result<(), MapError> {
    let protection = match protection {
        Protection::Code => libc::PROT_READ | libc::PROT_EXEC,
        Protection::Constants => libc::PROT_READ,
        Protection::Data => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: the pages lie in the windows, whose pages the kernel gives out.
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
    // Linux limits the number of mappings of a process.
    if mapped == libc::MAP_FAILED {
        return Err(MapError::OutOfMemory);
    }
    for offset in (0..size).step_by(PAGE_SIZE) {
        ledger_entry(address + offset).store(physical + offset as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Unmaps a page and returns the frame it mapped.
pub fn unmap_page(address: usize) -> Option<u64> {
    let physical = ledger_entry(address).swap(0, Ordering::Relaxed);
    if physical == 0 {
        return None;
    }
    // SAFETY: the page lies in the windows, and the caller no longer uses it.
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

/// Physical address of each page of the windows, 0 if it is unmapped; takes the place of page
/// tables.
fn ledger_entry(address: usize) -> &'static AtomicU64 {
    let index = (address - WINDOWS.start) / PAGE_SIZE;
    assert!(index < LEDGER_ENTRIES, "{address:#x} is in no window");
    // SAFETY: `create` made the ledger with this many entries, all zero, and never unmaps it.
    unsafe { &*LEDGER.load(Ordering::Acquire).add(index) }
}

const LEDGER_ENTRIES: usize = (WINDOWS.end - WINDOWS.start) / PAGE_SIZE;
static LEDGER: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
