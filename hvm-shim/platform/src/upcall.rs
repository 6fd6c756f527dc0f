//! What requests to the HRT need of the platform; see [`protocol::upcall`].

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arch_x64::cpu::paging::{self, physical_to_virtual};
use protocol::boot::Information;
use protocol::upcall::Page;

/// The vector that the image asks for in its HRT tag.
pub const VECTOR: u8 = 0xd0;

/// Physical address of the communication page, 0 if there is none.
static PAGE: AtomicU64 = AtomicU64::new(0);
static MONITORS_VECTOR: AtomicU8 = AtomicU8::new(0);

/// Keeps where requests are found.
pub(crate) fn keep(information: &Information) {
    PAGE.store(information.communication_page, Ordering::Relaxed);
    MONITORS_VECTOR.store(information.vector, Ordering::Relaxed);
}

/// The communication page, if the monitor gives one and uses the vector that the image asked for.
pub fn page() -> Option<&'static Page> {
    let at = PAGE.load(Ordering::Relaxed);
    let is_there = at != 0 && MONITORS_VECTOR.load(Ordering::Relaxed) == VECTOR;
    // SAFETY: the page lies in the boot state, which is mapped and which only the monitor uses
    // beside this; all its words are atomics.
    is_there.then(|| unsafe { &*physical_to_virtual(at).cast() })
}

/// Makes the lower half of the address space that of page tables of the ROS, or empty.
///
/// # Safety
/// As for [`paging::set_lower_half`]; `root` comes from the monitor.
pub unsafe fn merge(root: Option<u64>) {
    // SAFETY: the caller answers for it.
    unsafe { paging::set_lower_half(root) };
}
