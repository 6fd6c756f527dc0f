//! The memory that a thread of the program needs of the runtime: a stack to run on, thread-local
//! storage, and a stack for signals, by which a signal's handler finds the thread.

use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::thread::Thread;

/// Size of a block, and of each of its parts; they are aligned to the latter.
const SIZE: usize = 4 * PART;
const PART: usize = 64 << 10;
const PAGE: usize = 4096;
/// Offsets of the parts: a page that may not be accessed and the stack, the stack for signals, the
/// thread-local storage.
const SIGNALS: usize = 2 * PART;
const STORAGE: usize = 3 * PART;
/// Size of the descriptor of a thread that the C library keeps behind its variables, in bytes; more
/// than it is.
const DESCRIPTOR: usize = 8192;
/// Bytes at the beginning of the descriptor, the same for all threads but for its own address
/// (glibc, sysdeps/x86_64/nptl/tls.h: tcbhead_t).
const HEADER: usize = 704;

/// What is at the beginning of the stack for signals.
#[repr(C)]
pub struct Head {
    /// The thread.
    pub thread: *const Thread,
    /// FS base of the runtime's own code in this thread.
    pub fs_base: u64,
    is_free: AtomicBool,
}

/// A block.
#[derive(Clone, Copy)]
pub struct Block(usize);

/// All blocks that there are.
static ALL: Mutex<Vec<Block>> = Mutex::new(Vec::new());

impl Block {
    /// Takes a block that is free, or a new one; `None` if Linux has no memory.
    pub fn take() -> Option<Self> {
        let mut all = ALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(free) = all.iter().find(|block| block.head().is_free.swap(false, Ordering::Acquire)) {
            return Some(*free);
        }
        let block = Self::map()?;
        all.push(block);
        Some(block)
    }

    fn map() -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new mappings, of which the surplus for the alignment is given back.
        unsafe {
            let mapped = libc::mmap(null_mut(), SIZE + PART, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if mapped == libc::MAP_FAILED {
                return None;
            }
            let start = (mapped as usize).next_multiple_of(PART);
            let before = start - mapped as usize;
            libc::munmap(mapped, before);
            libc::munmap((start + SIZE) as *mut _, PART - before);
            libc::mprotect(start as *mut _, PAGE, libc::PROT_NONE);
            Some(Self(start))
        }
    }

    /// The head.
    pub fn head(&self) -> &Head {
        // SAFETY: the block stays mapped, and reads as zeros at first.
        unsafe { &*((self.0 + SIGNALS) as *const Head) }
    }

    /// Sets the block's thread, with the FS base of the runtime's own code in it.
    pub fn set_thread(&self, thread: *const Thread, fs_base: u64) {
        // SAFETY: the block is the caller's.
        unsafe {
            let head = (self.0 + SIGNALS) as *mut Head;
            (*head).thread = thread;
            (*head).fs_base = fs_base;
        }
    }

    /// Where the stack begins.
    pub fn stack(&self) -> u64 {
        (self.0 + SIGNALS) as u64
    }

    /// The lowest address of the stack.
    pub fn stack_start(&self) -> u64 {
        (self.0 + PAGE) as u64
    }

    /// Has the calling thread take its signals on the block.
    pub fn take_signals(&self) {
        // The head stays as it is.
        let start = self.0 + SIGNALS + size_of::<Head>().next_multiple_of(64);
        let stack = libc::stack_t { ss_sp: start as *mut _, ss_flags: 0, ss_size: self.0 + STORAGE - start };
        // SAFETY: the stack is the thread's.
        unsafe { crate::linux::call(libc::SYS_sigaltstack, [&raw const stack as u64, 0, 0, 0, 0, 0]) };
    }

    /// Prepares the thread-local storage for a new thread. Returns its FS base.
    ///
    /// # Safety
    /// The calling thread has a storage that the C library made, or this function.
    pub unsafe fn make_storage(&self) -> u64 {
        let (image, size, alignment) = variables();
        let own = crate::linux::fs_base() as *const u8;
        let base = self.0 + STORAGE + PART - DESCRIPTOR;
        // The variables lie below the descriptor (System V ABI, ELF Handling For Thread-Local
        // Storage, 3.4.6).
        let start = base - size.next_multiple_of(alignment);
        // SAFETY: the block is the caller's, and the calling thread's descriptor has the header.
        unsafe {
            std::ptr::write_bytes(start as *mut u8, 0, base + DESCRIPTOR - start);
            std::ptr::copy_nonoverlapping(image.as_ptr(), start as *mut u8, image.len());
            std::ptr::copy_nonoverlapping(own, base as *mut u8, HEADER);
            // Both the first word and the third are the descriptor's own address.
            (base as *mut usize).write(base);
            (base as *mut usize).add(2).write(base);
        }
        base as u64
    }

    /// Gives the block back, which nothing uses.
    pub fn give_back(&self) {
        self.head().is_free.store(true, Ordering::Release);
    }

    /// The flag to set when nothing uses the block any more.
    pub fn flag(&self) -> *const AtomicBool {
        &raw const self.head().is_free
    }
}

/// The variables' initial content, their size, and their alignment.
fn variables() -> (&'static [u8], usize, usize) {
    // SAFETY: the C library keeps what the launcher gave: the program headers of the runtime, which
    // is mapped from its first byte on.
    unsafe {
        let headers = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        let start = headers.cast::<u8>().sub(size_of::<libc::Elf64_Ehdr>());
        let headers = std::slice::from_raw_parts(headers, count);
        headers.iter().find(|header| header.p_type == libc::PT_TLS).map_or((&[], 0, 1), |header| {
            let image = std::slice::from_raw_parts(start.add(header.p_vaddr as usize), header.p_filesz as usize);
            (image, header.p_memsz as usize, (header.p_align as usize).max(1))
        })
    }
}

/// The head of the stack for signals on which the caller runs.
///
/// # Safety
/// The caller runs on one.
pub unsafe fn head_here() -> *const Head {
    let here = 0_u8;
    (&raw const here as usize & !(PART - 1)) as *const Head
}
