//! Thread-local variables: each thread of a program has a block of its own, made from the image's template.
//!
//! The layout is that of x86-64's TLS variant II (ELF Handling For Thread-Local Storage, 3.4.6, and the System V ABI's
//! AMD64 supplement): the thread pointer, FS base, points behind the variables, at a word that holds it.

use core::ptr::{self, NonNull};

use super::Program;
use super::image::Image;
use crate::memory::{OutOfMemory, Placement};
use crate::thread::Thread;

/// What the variables are at first, in a mapped image.
#[derive(Clone, Copy)]
pub(super) struct Template {
    /// Where the values are that are not zero, and their bytes.
    pub start: usize,
    pub length: usize,
    /// Bytes of all variables, a multiple of the alignment.
    pub size: usize,
    /// A power of two.
    pub align: usize,
}

/// Words behind the variables: the thread pointer itself, where the variables begin, and what compilers expect there (the stack
/// protector's value at 40).
const CONTROL_BLOCK: usize = 64;

/// Smallest alignment of a block: of the control block.
const LEAST_ALIGN: usize = 16;

/// Bytes before the thread pointer, so that this is aligned too: the variables are the last of them.
fn before(size: usize) -> usize {
    size.next_multiple_of(LEAST_ALIGN)
}

impl Program {
    fn template(&self) -> Option<Template> {
        self.code.image().and_then(Image::thread_locals)
    }

    /// The thread pointer of a new block, 0 if the program has no thread-local variables.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn make_thread_locals(&self) -> Result<usize, OutOfMemory> {
        let Some(Template { start, length, size, align }) = self.template() else { return Ok(0) };
        let before = before(size);
        let block = self.heap.allocate(before + CONTROL_BLOCK, align.max(LEAST_ALIGN), Placement::Near)?;
        // SAFETY: the block is large enough, and the image, which has checked the template, is mapped as long as the program
        // lives.
        unsafe {
            block.write_bytes(0, before + CONTROL_BLOCK);
            let pointer = block.add(before);
            ptr::copy_nonoverlapping(start as *const u8, pointer.sub(size).as_ptr(), length);
            pointer.cast::<[usize; 2]>().write([pointer.as_ptr() as usize, pointer.sub(size).as_ptr() as usize]);
            Ok(pointer.as_ptr() as usize)
        }
    }

    /// Takes the block of a thread back that has ended, if it has one.
    pub(super) fn free_thread_locals(&self, thread: &Thread) {
        let (Some(pointer), Some(template)) = (NonNull::new(thread.take_thread_pointer() as *mut u8), self.template())
        else {
            return;
        };
        // SAFETY: made by `make_thread_locals`. The program may have freed it, which is no error of the kernel's.
        let _ = unsafe { self.heap.free(pointer.sub(before(template.size))) };
    }
}
