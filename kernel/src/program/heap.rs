//! What a program owns: memory and kernel objects, in lists per CPU, so that all of it can be given back at its end.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::mem::{align_of, needs_drop, size_of};
use core::ptr::{self, NonNull};

use crate::cpu;
use crate::lock::SpinLock;
use crate::memory::{self, OutOfMemory, Placement};

/// In front of every block.
#[repr(C, align(16))]
struct Header {
    next: *mut Header,
    previous: *mut Header,
    /// Size and alignment of the whole, and where in it the block begins.
    size: usize,
    align: u32,
    offset: u32,
    /// Which list it is in.
    list: u32,
    /// [`LIVE`] while it is allocated.
    mark: u32,
    /// Ends what is in the block, `None` for plain memory.
    destroy: Option<unsafe fn(*mut u8)>,
}

const HEADER_SIZE: usize = size_of::<Header>();
const LIVE: u32 = 0x4c49_5645;
const FREED: u32 = 0x6672_6565;
/// Largest block, in bytes.
const SIZE_LIMIT: usize = 1 << 40;
/// Largest alignment, in bytes.
const ALIGN_LIMIT: usize = 1 << 30;

struct List {
    first: *mut Header,
    /// Plain memory in it.
    blocks: usize,
    bytes: usize,
}

// SAFETY: the headers are only touched under the list's lock.
unsafe impl Send for List {}

/// The blocks of one program.
pub struct Heap {
    lists: Box<[SpinLock<List>]>,
}

/// What was not freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of blocks.
    pub blocks: usize,
    /// Their bytes, as asked for.
    pub bytes: usize,
}

/// An address that is not that of a live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotABlock;

impl Heap {
    /// An empty one.
    pub fn new() -> Result<Self, OutOfMemory> {
        let mut lists = Vec::new();
        lists.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        lists.resize_with(cpu::limit(), || SpinLock::new(List { first: ptr::null_mut(), blocks: 0, bytes: 0 }));
        Ok(Self { lists: lists.into_boxed_slice() })
    }

    /// Allocates plain memory.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for absurd sizes and alignments.
    pub fn allocate(&self, size: usize, align: usize, placement: Placement) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_block(size, align, placement, None)
    }

    /// Takes ownership of a value; it is dropped when it is freed.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn keep<T>(&self, value: T) -> Result<NonNull<T>, OutOfMemory> {
        unsafe fn destroy<T>(value: *mut u8) {
            if needs_drop::<T>() {
                // SAFETY: the block holds a T, which nobody uses any more.
                unsafe { value.cast::<T>().drop_in_place() };
            }
        }
        let block = self.allocate_block(size_of::<T>(), align_of::<T>(), Placement::Near, Some(destroy::<T>))?.cast();
        // SAFETY: allocated for a T.
        unsafe { block.write(value) };
        Ok(block)
    }

    fn allocate_block(
        &self,
        size: usize,
        align: usize,
        placement: Placement,
        destroy: Option<unsafe fn(*mut u8)>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        if size > SIZE_LIMIT || align > ALIGN_LIMIT || !align.is_power_of_two() {
            return Err(OutOfMemory);
        }
        let align = align.max(align_of::<Header>());
        let offset = HEADER_SIZE.next_multiple_of(align);
        let layout = Layout::from_size_align(offset + size, align).map_err(|_| OutOfMemory)?;
        let whole = memory::allocate(layout, placement)?;
        // SAFETY: inside of what was allocated; the header is aligned because `offset` is a multiple of 16.
        let (block, header) = unsafe {
            let block = whole.add(offset);
            (block, block.cast::<Header>().sub(1).as_ptr())
        };
        let index = cpu::this_index();
        let mut list = self.lists[index].lock();
        // SAFETY: the new header is ours; the first one is live, under the list's lock.
        unsafe {
            header.write(Header {
                next: list.first,
                previous: ptr::null_mut(),
                size: layout.size(),
                align: align as u32,
                offset: offset as u32,
                list: index as u32,
                mark: LIVE,
                destroy,
            });
            if let Some(first) = list.first.as_mut() {
                first.previous = header;
            }
        }
        list.first = header;
        if destroy.is_none() {
            list.blocks += 1;
            list.bytes += size;
        }
        Ok(block)
    }

    /// Frees a block.
    ///
    /// # Errors
    /// [`NotABlock`] where it can be told; nothing happened then.
    ///
    /// # Safety
    /// `block` is readable memory with a header's bytes in front; if it is a block of this heap, nobody uses it any more.
    pub unsafe fn free(&self, block: NonNull<u8>) -> Result<(), NotABlock> {
        if !block.cast::<Header>().is_aligned() {
            return Err(NotABlock);
        }
        // SAFETY: readable by the caller's word.
        let header = unsafe { block.cast::<Header>().sub(1).as_ptr() };
        // SAFETY: as above.
        let list = self.lists.get(unsafe { (*header).list } as usize).ok_or(NotABlock)?;
        let mut list = list.lock();
        // SAFETY: as above; marked, so it is a header of ours.
        unsafe {
            if (*header).mark != LIVE {
                return Err(NotABlock);
            }
            list.remove(header);
        }
        drop(list);
        // SAFETY: in no list any more.
        unsafe { give_back(header) };
        Ok(())
    }

    /// Plain memory that is not freed.
    pub fn usage(&self) -> Usage {
        self.lists.iter().fold(Usage::default(), |usage, list| {
            let list = list.lock();
            Usage { blocks: usage.blocks + list.blocks, bytes: usage.bytes + list.bytes }
        })
    }

    /// Frees everything: objects first, because they may refer to memory. Nobody uses any of it any more.
    pub fn release_all(&self) {
        for objects_only in [Pass::Objects, Pass::All] {
            for list in &self.lists {
                while let Some(header) = list.lock().take(objects_only) {
                    // SAFETY: taken out of its list.
                    unsafe { give_back(header) };
                }
            }
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        self.release_all();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Objects,
    All,
}

impl List {
    /// # Safety
    /// It is in this list.
    unsafe fn remove(&mut self, header: *mut Header) {
        // SAFETY: live headers, under this list's lock.
        unsafe {
            let Header { next, previous, size, offset, destroy, .. } = *header;
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.first = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            (*header).mark = FREED;
            if destroy.is_none() {
                self.blocks -= 1;
                self.bytes -= size - offset as usize;
            }
        }
    }

    fn take(&mut self, pass: Pass) -> Option<*mut Header> {
        let mut header = self.first;
        // SAFETY: live headers, under this list's lock.
        unsafe {
            while pass == Pass::Objects && !header.is_null() && (*header).destroy.is_none() {
                header = (*header).next;
            }
            if header.is_null() {
                return None;
            }
            self.remove(header);
        }
        Some(header)
    }
}

/// # Safety
/// The header is in no list, and nobody uses its block.
unsafe fn give_back(header: *mut Header) {
    // SAFETY: by the caller's word; the layout is the one it was allocated with.
    unsafe {
        let Header { size, align, offset, destroy, .. } = *header;
        let block = header.add(1).cast::<u8>();
        if let Some(destroy) = destroy {
            destroy(block);
        }
        let whole = NonNull::new_unchecked(block.sub(offset as usize));
        memory::free(whole, Layout::from_size_align_unchecked(size, align as usize));
    }
}
