//! Thread stacks, mapped in an address window of their own with an unmapped guard below each.
//!
//! A slot is a power of two of address space: the lower half is the guard, the upper half the
//! stack. Freed stacks stay mapped for reuse; [`reclaim`] takes their memory back, with one TLB
//! flush on all CPUs for each batch of stacks.

use core::ops::Range;
use core::ptr::NonNull;

use arch_contract::{PAGE_SIZE, Protection};

use super::zone;
use super::{OutOfMemory, free, reclaimer};
use crate::arch::*;
use crate::call;
use crate::cpu;
use crate::lock::SpinLock;
use crate::wait::Mutex;

/// Default stack size of a thread, in bytes.
pub const DEFAULT_SIZE: usize = DEFAULT_STACK_SIZE;
/// Size of the largest stack, in bytes.
pub const LARGEST_SIZE: usize = 64 << 20;
/// The smallest slot has 8 KiB of address space, for a 4 KiB stack; each class doubles it.
const SMALLEST_SLOT_SHIFT: u32 = 13;
const CLASSES: usize = 15;
/// Bytes of freed stacks that stay mapped in each class. The reclaimer is told when a class has
/// more than [`TOO_MANY`] times as many stacks as these bytes hold.
const KEPT_BYTES: usize = 1 << 20;
const TOO_MANY: usize = 4;
/// Largest number of stacks unmapped for one TLB flush.
const BATCH: usize = 64;

/// A mapped stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    bottom: usize,
    top: usize,
}

/// The topmost word of a freed stack: the link to the next free one.
struct FreeStack {
    next: usize,
}

struct Class {
    /// Top of the first freed, mapped stack; 0 if there is none.
    mapped: usize,
    mapped_count: usize,
    /// List of the slots whose memory was reclaimed, as nodes in the heap.
    empty: Option<NonNull<EmptySlot>>,
}

struct EmptySlot {
    slot: usize,
    next: Option<NonNull<EmptySlot>>,
}

struct Stacks {
    /// Start of the part of the window that no slot has used.
    fresh: usize,
    classes: [Class; CLASSES],
    /// Bit n is set if class n has freed, mapped stacks.
    nonempty: u32,
    live: usize,
}

// SAFETY: the list nodes and freed stacks belong to the structure and are tied to no thread or CPU.
unsafe impl Send for Stacks {}

static STACKS: SpinLock<Stacks> = SpinLock::new(Stacks {
    fresh: 0,
    classes: [const { Class { mapped: 0, mapped_count: 0, empty: None } }; CLASSES],
    nonempty: 0,
    live: 0,
});

impl Stack {
    /// Returns a stack of at least `size` bytes, rounded up to a power of two and at least one
    /// page.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for sizes above [`LARGEST_SIZE`].
    pub fn new(size: usize) -> Result<Self, OutOfMemory> {
        if size > LARGEST_SIZE {
            return Err(OutOfMemory);
        }
        let size = size.max(PAGE_SIZE).next_power_of_two();
        let class = class_of(size);
        let mut stacks = STACKS.lock();
        let slot = match stacks.take_mapped(class) {
            Some(stack) => {
                stacks.live += 1;
                return Ok(stack);
            }
            None => stacks.take_empty(class).or_else(|| stacks.take_fresh(class)).ok_or(OutOfMemory)?,
        };
        let stack = Self { bottom: slot + size, top: slot + 2 * size };
        match stack.map() {
            Ok(()) => {
                stacks.live += 1;
                Ok(stack)
            }
            Err(error) => {
                stacks.put_empty(class, slot);
                Err(error)
            }
        }
    }

    /// Returns the address just above the stack's highest byte.
    pub fn top(&self) -> usize {
        self.top
    }

    /// Returns the address of the stack's lowest byte.
    pub fn bottom(&self) -> usize {
        self.bottom
    }

    /// Returns the stack's size in bytes.
    pub fn size(&self) -> usize {
        self.top - self.bottom
    }

    /// Returns the unmapped addresses below the stack.
    pub fn guard(&self) -> Range<usize> {
        self.bottom - self.size()..self.bottom
    }

    /// Gives the stack back for reuse.
    ///
    /// # Safety
    /// The stack comes from [`Stack::new`], nothing uses it any more, and no copy of it is released
    /// as well.
    pub unsafe fn release(self) {
        let mut stacks = STACKS.lock();
        stacks.live -= 1;
        let is_too_many = stacks.put_mapped(self);
        drop(stacks);
        if is_too_many {
            reclaimer::is_due();
        }
    }

    fn map(&self) -> Result<(), OutOfMemory> {
        super::may_fail()?;
        let node = cpu::this().node;
        let memory = zone::find_nearest(node, |zone| zone.allocate_bytes(self.size())).ok_or(OutOfMemory)?;
        let physical = AddressSpace::virtual_to_physical(memory.as_ptr());
        let mut table = super::page_table_frame;
        let mapped = AddressSpace::map_pages(self.bottom, physical, self.size(), Protection::Data, &mut table);
        mapped.map_err(|_| {
            zone::of(memory).lock().free_block(memory);
            OutOfMemory
        })
    }

    /// Removes the mapping and returns the memory behind it, which may be freed only after a TLB
    /// flush on all CPUs.
    fn unmap(&self) -> Option<NonNull<u8>> {
        let mut memory = None;
        for offset in (0..self.size()).step_by(PAGE_SIZE) {
            let physical = AddressSpace::unmap_page(self.bottom + offset);
            if offset == 0 {
                memory = physical.and_then(|physical| NonNull::new(AddressSpace::physical_to_virtual(physical)));
            }
        }
        memory
    }
}

/// Returns the stack size of a class, in bytes.
fn size_of_class(class: usize) -> usize {
    1 << (class as u32 + SMALLEST_SLOT_SHIFT - 1)
}

/// Returns the class of a stack size, which is a power of two.
fn class_of(size: usize) -> usize {
    ((2 * size).trailing_zeros() - SMALLEST_SLOT_SHIFT) as usize
}

impl Stacks {
    /// Returns a class with more freed, mapped stacks than `keep` allows.
    fn class_above(&self, keep: Keep) -> Option<usize> {
        // The mask comes first: usually only one or two classes have any.
        let mut left = self.nonempty;
        while left != 0 {
            let class = left.trailing_zeros() as usize;
            if self.classes[class].mapped_count > keep.of_class(class) {
                return Some(class);
            }
            left &= left - 1;
        }
        None
    }

    fn take_mapped(&mut self, class: usize) -> Option<Stack> {
        let list = &mut self.classes[class];
        let top = list.mapped;
        if top == 0 {
            return None;
        }
        // SAFETY: `top` is that of a freed stack, which is still mapped and has its link in the
        // topmost word.
        list.mapped = unsafe { (*((top - size_of::<FreeStack>()) as *const FreeStack)).next };
        list.mapped_count -= 1;
        if list.mapped_count == 0 {
            self.nonempty &= !(1 << class);
        }
        Some(Stack { bottom: top - size_of_class(class), top })
    }

    /// Adds a freed stack to its class. Returns true if the class has just exceeded the number at
    /// which the reclaimer is told.
    fn put_mapped(&mut self, stack: Stack) -> bool {
        let class = class_of(stack.size());
        self.nonempty |= 1 << class;
        let list = &mut self.classes[class];
        // SAFETY: the stack is mapped, and its last user has given it up, so its topmost word can
        // hold the link.
        unsafe {
            ((stack.top - size_of::<FreeStack>()) as *mut FreeStack).write(FreeStack { next: list.mapped });
        }
        list.mapped = stack.top;
        list.mapped_count += 1;
        list.mapped_count == TOO_MANY * Keep::Some.of_class(class) + 1
    }

    fn take_empty(&mut self, class: usize) -> Option<usize> {
        let node = self.classes[class].empty?;
        // SAFETY: `put_empty` wrote the node, and the list has the only pointer to it.
        let EmptySlot { slot, next } = unsafe { node.read() };
        self.classes[class].empty = next;
        // SAFETY: `put_empty` allocated the node with this layout, and it has left the list.
        unsafe { free(node.cast(), core::alloc::Layout::new::<EmptySlot>()) };
        Some(slot)
    }

    /// Remembers an unmapped slot. If there is no memory for the node, its addresses are lost; the
    /// window has plenty.
    fn put_empty(&mut self, class: usize, slot: usize) {
        let layout = core::alloc::Layout::new::<EmptySlot>();
        if let Ok(node) = super::allocate(layout, super::Placement::Near) {
            let node = node.cast::<EmptySlot>();
            // SAFETY: the memory was just allocated for an `EmptySlot`.
            unsafe { node.write(EmptySlot { slot, next: self.classes[class].empty }) };
            self.classes[class].empty = Some(node);
        }
    }

    fn take_fresh(&mut self, class: usize) -> Option<usize> {
        let window = AddressSpace::stack_window();
        let slot_size = 1usize << (class as u32 + SMALLEST_SLOT_SHIFT);
        let slot = self.fresh.max(window.start).next_multiple_of(slot_size);
        let end = slot.checked_add(slot_size).filter(|&end| end <= window.end)?;
        self.fresh = end;
        Some(slot)
    }
}

/// Frees the memory of freed stacks and returns the number of bytes; 0 if a CPU did not flush its
/// TLB. Blocks until all CPUs have flushed theirs, so only a thread may call it.
pub fn reclaim(keep: Keep) -> u64 {
    /// Serializes callers, so that memory which another caller is about to free does not count as
    /// unavailable.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let mut bytes = 0;
    loop {
        // Building the batch allocates nothing: each unmapped stack's memory holds its own list
        // node.
        let mut unmapped: Option<NonNull<Unmapped>> = None;
        let mut stacks = STACKS.lock();
        let mut batch = 0;
        while let Some(class) = stacks.class_above(keep).filter(|_| batch < BATCH) {
            let Some(stack) = stacks.take_mapped(class) else { break };
            let slot = stack.guard().start;
            if let Some(memory) = stack.unmap() {
                let note = memory.cast::<Unmapped>();
                // SAFETY: the memory of a freed stack belongs to this function and stays writable
                // through the direct map.
                unsafe { note.write(Unmapped { next: unmapped, class, slot }) };
                unmapped = Some(note);
                bytes += stack.size() as u64;
                batch += 1;
            }
        }
        let is_last = stacks.class_above(keep).is_none();
        drop(stacks);
        if batch == 0 {
            return bytes;
        }
        let flushed = call::flush_tlbs();
        while let Some(note) = unmapped {
            // SAFETY: the loop above wrote the node, and each node is read once, before its memory
            // is freed.
            let Unmapped { next, class, slot } = unsafe { note.read() };
            unmapped = next;
            if flushed.is_ok() {
                zone::of(note.cast()).lock().free_block(note.cast());
                STACKS.lock().put_empty(class, slot);
            }
            // A CPU that does not answer may still use the old translation, so without a complete
            // flush the memory is never used again.
        }
        if let Err(error) = flushed {
            log::error!("stacks: {error}; lost {bytes} bytes of memory for safety");
            return 0;
        }
        if is_last {
            return bytes;
        }
    }
}

/// How many freed stacks [`reclaim`] leaves mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A few of each size.
    Some,
    /// None.
    None,
}

impl Keep {
    fn of_class(self, class: usize) -> usize {
        match self {
            Self::Some => KEPT_BYTES / size_of_class(class),
            Self::None => 0,
        }
    }
}

struct Unmapped {
    next: Option<NonNull<Unmapped>>,
    class: usize,
    slot: usize,
}

/// Returns the number of stacks in use, and the bytes of freed stacks that are still mapped.
pub fn usage() -> (usize, u64) {
    let stacks = STACKS.lock();
    let sizes = stacks.classes.iter().enumerate();
    let cached = sizes.map(|(class, list)| (list.mapped_count * size_of_class(class)) as u64).sum();
    (stacks.live, cached)
}
