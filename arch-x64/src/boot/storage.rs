//! Where the boot keeps what it learns: static, because there is no heap yet.

use core::cell::UnsafeCell;

use arch_contract::MAX_CPUS;
use arch_contract::boot::{BootInformation, CpuDescription, MAX_REGIONS, MemoryRegion};
use arrayvec::{ArrayString, ArrayVec};
use firmware::Notices;

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
