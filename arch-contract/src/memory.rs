//! Virtual and physical addresses: [`AddressSpace`].

use core::fmt;
use core::ops::Range;

/// The kernel's address space: all memory in the direct map, and windows of which pages are mapped
/// one by one.
pub trait AddressSpace: 'static {
    /// Returns a physical address's place in the direct map. Valid for all memory in the boot
    /// information.
    fn physical_to_virtual(physical: u64) -> *mut u8;
    /// The inverse of [`AddressSpace::physical_to_virtual`].
    fn virtual_to_physical(address: *const u8) -> u64;
    /// Virtual addresses reserved for thread stacks; nothing is mapped there until
    /// [`AddressSpace::map_pages`].
    fn stack_window() -> Range<usize>;
    /// Virtual addresses reserved for program images, on the same terms as
    /// [`AddressSpace::stack_window`].
    fn program_window() -> Range<usize>;
    /// Maps `size` bytes of whole pages. `table` supplies the physical addresses of zeroed frames
    /// for page tables, or `None` if there is no memory. Called for the two windows only, under the
    /// lock of the window's owner in the kernel.
    ///
    /// # Errors
    /// See [`MapError`]. On error nothing is mapped, not even temporarily.
    fn map_pages(
        address: usize,
        physical: u64,
        size: usize,
        protection: Protection,
        table: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError>;
    /// Unmaps a page and returns the frame it mapped. The caller flushes TLBs before it reuses the
    /// frame.
    fn unmap_page(address: usize) -> Option<u64>;
    /// Flushes this CPU's TLB.
    fn flush_tlb();
    /// True for addresses of device registers, which a read can change.
    fn is_device_memory(_address: usize) -> bool {
        false
    }

    /// Reads `buffer.len()` bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be read; there is no other effect.
    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError>;
    /// Writes bytes at any address.
    ///
    /// # Errors
    /// If an address cannot be written; the bytes before it have been.
    ///
    /// # Safety
    /// No code relies on what was there, or the caller answers for what becomes of it.
    unsafe fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError>;
    /// Writes bytes at an address even if it is read-only, code for example. All other CPUs are
    /// stopped.
    ///
    /// # Errors
    /// If nothing is mapped there, or the machine has no debugger's mechanisms.
    ///
    /// # Safety
    /// As for [`AddressSpace::probe_write`]; code that runs afterwards may be changed too.
    unsafe fn write_protected(address: usize, _bytes: &[u8]) -> Result<(), ProbeError> {
        Err(ProbeError { address })
    }
}

/// Permitted accesses to a page. No page is both writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Execute and read.
    Code,
    /// Read.
    Constants,
    /// Read and write.
    Data,
}

/// Why a page was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no frame for a page table.
    OutOfMemory,
    /// Something is mapped there already.
    AlreadyMapped,
}

/// An address that could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeError {
    /// The first address that failed.
    pub address: usize,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing accessible is mapped at {:#x}", self.address)
    }
}
