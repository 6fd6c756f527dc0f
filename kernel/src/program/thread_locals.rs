//! Thread-local variables: each thread of a program has a block of its own, made from the image's
//! template.
//!
//! The layout is that of x86-64's TLS variant II (ELF Handling For Thread-Local Storage, 3.4.6, and
//! the System V ABI's AMD64 supplement): the thread pointer, FS base, points just behind the
//! variables, at a word that holds the pointer itself.

use core::ptr::{self, NonNull};

use super::Program;
use super::image::Image;
use crate::memory::{OutOfMemory, Placement};
use crate::thread::Thread;

/// The initial values of the variables, in a mapped image.
#[derive(Clone, Copy)]
pub(super) struct Template {
    /// Address and length in bytes of the initialized part; the rest is zero.
    pub start: usize,
    pub length: usize,
    /// Size of all variables in bytes, a multiple of the alignment.
    pub size: usize,
    /// Alignment in bytes, a power of two.
    pub align: usize,
}

/// Bytes behind the variables: the thread pointer itself, the start of the variables, and what
/// compilers expect there (the stack protector's value at offset 40).
const CONTROL_BLOCK: usize = 64;

/// Smallest alignment of a block, that of the control block.
const LEAST_ALIGN: usize = 16;

/// Returns the number of bytes before the thread pointer: the variables, preceded by padding that
/// aligns the pointer.
fn before(size: usize) -> usize {
    size.next_multiple_of(LEAST_ALIGN)
}

impl Program {
    fn template(&self) -> Option<Template> {
        self.code.image().and_then(Image::thread_locals)
    }

    /// Makes a block and returns its thread pointer; 0 if the program has no thread-local
    /// variables.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn make_thread_locals(&self) -> Result<usize, OutOfMemory> {
        let Some(Template { start, length, size, align }) = self.template() else { return Ok(0) };
        let before = before(size);
        let block = self.heap.allocate(before + CONTROL_BLOCK, align.max(LEAST_ALIGN), Placement::Near)?;
        // SAFETY: the block has room for `before + CONTROL_BLOCK` bytes, and `length` is at most
        // `size`. The loader checked that the template lies in the image, which stays mapped as
        // long as the program lives.
        unsafe {
            block.write_bytes(0, before + CONTROL_BLOCK);
            let pointer = block.add(before);
            ptr::copy_nonoverlapping(start as *const u8, pointer.sub(size).as_ptr(), length);
            pointer.cast::<[usize; 2]>().write([pointer.as_ptr() as usize, pointer.sub(size).as_ptr() as usize]);
            Ok(pointer.as_ptr() as usize)
        }
    }

    /// Frees the block of a thread that has ended, if it has one.
    pub(super) fn free_thread_locals(&self, thread: &Thread) {
        let (Some(pointer), Some(template)) = (NonNull::new(thread.take_thread_pointer() as *mut u8), self.template())
        else {
            return;
        };
        // SAFETY: `make_thread_locals` made the block, and its thread has ended. If the program has
        // freed the block itself, only the program's own heap is affected.
        let _ = unsafe { self.heap.free(pointer.sub(before(template.size))) };
    }
}
