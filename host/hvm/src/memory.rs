//! The HRT's own memory: a private mapping of this process that KVM gives the HRT.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::Error;

/// Gives the HRT a mapping, in a memory slot, at a physical address. The mapping must outlive the
/// virtual machine.
///
/// # Errors
/// [`Error::Refused`].
pub fn add_region(vm: &VmFd, slot: u32, at: u64, mapping: &Mapping) -> Result<(), Error> {
    add_part(vm, slot, at, (mapping.address(), mapping.size() as u64))
}

/// Gives the HRT its own memory, in two memory slots if it is larger than the lower part.
///
/// # Errors
/// [`Error::Refused`].
pub fn add_memory(vm: &VmFd, slots: [u32; 2], memory: &Mapping) -> Result<(), Error> {
    let (start, size) = (memory.address(), memory.size() as u64);
    add_part(vm, slots[0], 0, (start, size.min(END_OF_LOW)))?;
    match size.saturating_sub(END_OF_LOW) {
        0 => Ok(()),
        rest => add_part(vm, slots[1], START_OF_HIGH, (start + END_OF_LOW, rest)),
    }
}

fn add_part(vm: &VmFd, slot: u32, at: u64, (start, size): (u64, u64)) -> Result<(), Error> {
    let region =
        kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr: at, memory_size: size, userspace_addr: start };
    // SAFETY: the mapping outlives the virtual machine, as the caller guarantees, and nothing
    // refers to its content.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::refused("giving the HRT memory"))
}

/// Where the lower part of an HRT's memory ends in physical memory, and where the rest begins. What
/// the monitor has to do with lies in the lower part.
pub const END_OF_LOW: u64 = 3 << 30;
/// See [`END_OF_LOW`].
pub const START_OF_HIGH: u64 = 4 << 30;
/// Largest number of CPUs: the kernel's. Each may have a page or a ring.
pub const MOST_CPUS: u32 = 256;
/// Addresses from here on are no process's (Linux, Documentation/arch/x86/x86_64/mm.rst).
pub const END_OF_ROS: u64 = 1 << 47;
/// Size of a huge page.
const HUGE: usize = 2 << 20;
/// Size of the part of a stack that may not be accessed, in bytes.
const GUARD: usize = 4096;
/// Bytes above a function's frame that it may read: where its caller's arguments on the stack would
/// be (System V ABI AMD64, 3.2.2). C functions with any number of arguments do, as glibc's
/// `syscall`.
const ARGUMENTS: u64 = 64;

/// A mapping of this process.
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping is plain memory; it is accessed by copies only, and what the HRT writes
// meanwhile is not trusted.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps zeroed memory that this process alone has. Memory that is not touched costs nothing.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn private(size: usize) -> Result<Self, Error> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self::map(size, flags, -1, "the reservation of the HRT's memory")
    }

    /// Maps zeroed memory that this process alone has, in huge pages where Linux gives them: a
    /// fault then serves 2 MiB, and so does one of the second level page tables.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn huge(size: usize) -> Result<Self, Error> {
        let mut mapping = Self::private(size.saturating_add(HUGE))?;
        let before = mapping.start.as_ptr().align_offset(HUGE);
        // SAFETY: what is cut off is not used, and lies within the mapping: it is larger by a huge
        // page than the rest.
        unsafe {
            let start = mapping.start.add(before);
            libc::munmap(mapping.start.as_ptr().cast(), before);
            libc::munmap(start.add(size).as_ptr().cast(), HUGE - before);
            // Without huge pages it works as well.
            libc::madvise(start.as_ptr().cast(), size, libc::MADV_HUGEPAGE);
            (mapping.start, mapping.size) = (start, size);
        }
        Ok(mapping)
    }

    /// Maps a file, which others may map too.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn shared(file: &std::fs::File, size: usize) -> Result<Self, Error> {
        use std::os::fd::AsRawFd;
        Self::map(size, libc::MAP_SHARED, file.as_raw_fd(), "the mapping of the HRT's rings")
    }

    /// Maps a stack for code of this process; an access below it is refused.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn stack(size: usize) -> Result<Self, Error> {
        let stack = Self::private(GUARD + size)?;
        // SAFETY: the lowest page of the new mapping is not used.
        if unsafe { libc::mprotect(stack.start.as_ptr().cast(), GUARD, libc::PROT_NONE) } != 0 {
            return Err(Error::last("guarding a stack"));
        }
        Ok(stack)
    }

    /// Maps a page that reads as zeros in a fork of this process.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn wiped_in_forks() -> Result<Self, Error> {
        let page = Self::private(GUARD)?;
        // SAFETY: the advice changes the page in forks only.
        if unsafe { libc::madvise(page.start.as_ptr().cast(), GUARD, libc::MADV_WIPEONFORK) } != 0 {
            return Err(Error::last("marking a page for forks"));
        }
        Ok(page)
    }

    fn map(size: usize, flags: i32, file: i32, what: &'static str) -> Result<Self, Error> {
        // SAFETY: a new mapping at an address that Linux chooses changes no other memory.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
        match NonNull::new(at.cast()) {
            Some(start) if at != libc::MAP_FAILED => Ok(Self { start, size }),
            _ => Err(Error::last(what)),
        }
    }

    /// Fills a part with zeros, as far as there is something of it.
    pub fn clear(&self, at: u64, size: u64) {
        let at = (at as usize).min(self.size);
        // SAFETY: the range lies in the mapping, of which there are no references but to atomics of
        // pages that are not in use.
        unsafe { self.start.add(at).write_bytes(0, (size as usize).min(self.size - at)) };
    }

    /// The mapping's address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The address behind the mapping.
    pub fn end(&self) -> u64 {
        self.address() + self.size as u64
    }

    /// Where a stack in the mapping begins; aligned to 16 bytes.
    pub fn stack_pointer(&self) -> u64 {
        self.end() - ARGUMENTS
    }

    /// The mapping's size, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the word at an offset; `None` if it is not in the mapping.
    pub fn word(&self, at: u64) -> Option<&AtomicU64> {
        let is_inside = at.is_multiple_of(8) && at.checked_add(8)? <= self.size as u64;
        // SAFETY: the word was checked to lie in the mapping, aligned; other references to it are
        // atomics too.
        is_inside.then(|| unsafe { self.start.add(at as usize).cast().as_ref() })
    }

    /// Copies bytes into the memory. Returns false, with nothing changed, if they do not fit.
    #[must_use]
    pub fn write(&self, at: u64, bytes: &[u8]) -> bool {
        let Some(end) = at.checked_add(bytes.len() as u64) else { return false };
        if end > self.size as u64 {
            return false;
        }
        // SAFETY: the range was checked to lie in the mapping, of which there are no references.
        unsafe { self.start.add(at as usize).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its owner drops it after KVM has let go of it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}
