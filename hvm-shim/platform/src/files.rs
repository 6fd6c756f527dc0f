//! Files that the kernel writes for the ROS, handed over by downcalls.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use arch_contract::Export;
use arch_x64::cpu::paging::virtual_to_physical;
use protocol::call::{FAILED, File, extension};

use crate::downcall;

/// Bytes handed over at once: a page, so that they lie together in physical memory.
const SIZE: usize = 4096;

/// A page of the image, whose physical address is known, for the bytes of a file.
#[repr(align(4096))]
struct Page {
    bytes: UnsafeCell<[u8; SIZE]>,
    is_in_use: AtomicBool,
}

// SAFETY: who sets `is_in_use` has the bytes until clearing it.
unsafe impl Sync for Page {}

static PAGES: [Page; 2] = [const { Page { bytes: UnsafeCell::new([0; SIZE]), is_in_use: AtomicBool::new(false) } }; 2];

fn file(what: Export) -> File {
    match what {
        Export::Trace => File::Trace,
        Export::Crash => File::Crash,
    }
}

/// Whether the monitor keeps this file.
pub fn are_kept(what: Export) -> bool {
    hand_over(what, 0, 0)
}

/// Hands bytes over; drops them if the monitor does not keep the file.
pub fn write(what: Export, bytes: &[u8]) {
    let page = &PAGES[what as usize];
    // Each file has one writer. A crash that interrupts it does not write the same file.
    if page.is_in_use.swap(true, Ordering::Acquire) {
        return;
    }
    let at = page.bytes.get().cast::<u8>();
    for part in bytes.chunks(SIZE) {
        // SAFETY: the page is in use by this function alone, and is not smaller than the part.
        unsafe { at.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
        hand_over(what, virtual_to_physical(at), part.len());
    }
    page.is_in_use.store(false, Ordering::Release);
}

fn hand_over(what: Export, at: u64, length: usize) -> bool {
    downcall::call_with_three(extension::EXPORT, [file(what) as u64, at, length as u64]) != FAILED
}
