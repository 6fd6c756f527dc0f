//! The kernel's objects that a program has, and the handles by which it names them.
//!
//! A handle is a number, not an address: its kind, its life and its owner are looked up before anything of the object is
//! touched, so that a stale, wrong or foreign one is an error and nothing else. The objects are in the kernel's memory.
//! While a call uses an object, nobody can destroy it.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use super::table::Table;
use crate::lock::SpinLock;
use crate::memory::{self, OutOfMemory};
use crate::thread;
use crate::time::Deadline;

/// What a handle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A thread that can be joined.
    Thread,
    /// A channel.
    Channel,
    /// A timer.
    Timer,
    /// An interrupt vector with a handler.
    Interrupt,
    /// A device line with a handler.
    Line,
    /// A fiber.
    Fiber,
    /// A pool of tasks.
    Pool,
    /// A collective.
    Collective,
}

/// What can have a handle. Dropped when it is destroyed, or at its program's end.
///
/// # Safety
/// No other type has the same [`Kind`]: that is what an object is known by.
pub unsafe trait Object: Send + Sync + 'static {
    /// What its handles stand for.
    const KIND: Kind;

    /// Keeps it from calling the program from now on; false if it may still do so. Called at the program's end, before
    /// anything of the program is given back, again and again until it succeeds or takes too long.
    fn silence(&self) -> bool {
        true
    }
}

/// A handle: 19 bits of its program's number, 20 of how often its place was used, 24 of the place; the uppermost bit is
/// clear, which it is in no address of the kernel's. Never 0.
pub type Handle = u64;

const PLACE_BITS: u32 = 24;
const USE_BITS: u32 = 20;
const OWNER_BITS: u32 = 19;

/// Why a handle is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleError {
    /// It is not one of a live object of this kind and program.
    Invalid,
    /// Others are using the object.
    Busy,
}

/// In `users`: one has the object alone.
const ALONE: u32 = 1 << 31;
const NONE: u32 = u32::MAX;
/// How long calls that are about to leave an object may take.
const LEAVE_LIMIT: Duration = Duration::from_millis(20);

struct Slot {
    /// The handle of what is in it, 0 while it is free.
    handle: AtomicU64,
    /// Calls that use the object, or [`ALONE`].
    users: AtomicU32,
    content: UnsafeCell<Content>,
}

/// Written while the slot is free or held alone.
struct Content {
    kind: Kind,
    object: *mut u8,
    drop: unsafe fn(*mut u8),
    silence: unsafe fn(*const u8) -> bool,
    uses: u32,
    next_free: u32,
}

// SAFETY: `content` is written by the one who has the slot alone, and read by those who use it; see `borrow`.
unsafe impl Sync for Slot {}
// SAFETY: the objects are `Send`.
unsafe impl Send for Slot {}

/// The objects of one program.
pub struct Objects {
    slots: Table<Slot>,
    first_free: SpinLock<u32>,
    owner: u64,
}

unsafe fn drop_object<T>(object: *mut u8) {
    // SAFETY: made from a `Box<T>` by `Reserved::fill`, dropped once.
    drop(unsafe { Box::from_raw(object.cast::<T>()) });
}

unsafe fn silence_object<T: Object>(object: *const u8) -> bool {
    // SAFETY: a live `T`.
    unsafe { (*object.cast::<T>()).silence() }
}

impl Objects {
    /// None yet, of the program with this number.
    pub(super) fn new(program: u64) -> Self {
        let owner = program % (1 << OWNER_BITS) << (PLACE_BITS + USE_BITS);
        Self { slots: Table::new(), first_free: SpinLock::new(NONE), owner }
    }

    /// Reserves all memory that an object and its handle need, so that once the object exists nothing can fail any more.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[inline(never)]
    pub fn reserve<T: Object>(&self) -> Result<Reserved<'_, T>, OutOfMemory> {
        let memory = memory::try_box(MaybeUninit::<T>::uninit())?;
        let mut free = self.first_free.lock();
        let index = match *free {
            NONE => {
                memory::may_fail()?;
                if self.slots.len() + 1 >= 1 << PLACE_BITS {
                    return Err(OutOfMemory);
                }
                let content = Content {
                    kind: T::KIND,
                    object: core::ptr::null_mut(),
                    drop: drop_object::<T>,
                    silence: silence_object::<T>,
                    uses: 0,
                    next_free: NONE,
                };
                let slot =
                    Slot { handle: AtomicU64::new(0), users: AtomicU32::new(0), content: UnsafeCell::new(content) };
                self.slots.push(slot)? as u32
            }
            index => {
                // SAFETY: a free slot, under the lock of their list.
                *free = unsafe { (*self.slot(index).content.get()).next_free };
                index
            }
        };
        drop(free);
        Ok(Reserved { objects: self, index, memory: Some(memory) })
    }

    fn slot(&self, index: u32) -> &Slot {
        self.slots.get(index as usize).expect("indices come from the table")
    }

    fn free(&self, index: u32) {
        let mut free = self.first_free.lock();
        // SAFETY: the slot is free, under the lock of their list.
        unsafe { (*self.slot(index).content.get()).next_free = *free };
        *free = index;
    }

    fn find(&self, handle: Handle) -> Result<(u32, &Slot), HandleError> {
        let index = (handle % (1 << PLACE_BITS)) as u32;
        let slot = self.slots.get(index as usize).ok_or(HandleError::Invalid)?;
        if handle == 0 || slot.handle.load(Ordering::Acquire) != handle {
            return Err(HandleError::Invalid);
        }
        Ok((index, slot))
    }

    /// An object, to be used beside others.
    ///
    /// # Errors
    /// See [`HandleError`].
    #[inline(never)]
    pub fn borrow<T: Object>(&self, handle: Handle) -> Result<Borrowed<'_, T>, HandleError> {
        let (_, slot) = self.find(handle)?;
        // Who wants the object alone finds the count, or this finds its mark.
        let users = slot.users.fetch_add(1, Ordering::AcqRel);
        let borrowed = Borrowed { slot, _object: PhantomData };
        if users & ALONE != 0 {
            return Err(HandleError::Busy);
        }
        if slot.handle.load(Ordering::Acquire) != handle {
            return Err(HandleError::Invalid);
        }
        // SAFETY: the slot has an object, and the count keeps it.
        if unsafe { (*slot.content.get()).kind } != T::KIND {
            return Err(HandleError::Invalid);
        }
        Ok(borrowed)
    }

    /// An object alone, to be changed or destroyed; waits for calls that are about to leave it.
    ///
    /// # Errors
    /// See [`HandleError`].
    #[inline(never)]
    pub fn take<T: Object>(&self, handle: Handle) -> Result<Taken<'_, T>, HandleError> {
        let deadline = Deadline::after(LEAVE_LIMIT);
        loop {
            match self.try_take(handle) {
                Err(HandleError::Busy) if !crate::cpu::in_interrupt() && !deadline.has_passed() => thread::yield_now(),
                taken => return taken,
            }
        }
    }

    /// As [`Objects::take`], without waiting. Any context.
    ///
    /// # Errors
    /// See [`HandleError`].
    #[inline(never)]
    pub fn try_take<T: Object>(&self, handle: Handle) -> Result<Taken<'_, T>, HandleError> {
        let (index, slot) = self.find(handle)?;
        if slot.users.compare_exchange(0, ALONE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Err(HandleError::Busy);
        }
        let taken = Taken { objects: self, index, _object: PhantomData };
        // SAFETY: the slot is held alone.
        if slot.handle.load(Ordering::Relaxed) != handle || unsafe { (*slot.content.get()).kind } != T::KIND {
            return Err(HandleError::Invalid);
        }
        Ok(taken)
    }

    /// Silences all objects; false if one could not be. For the program's end, when none of its threads is left.
    pub(super) fn silence_all(&self) -> bool {
        let live = self.slots.iter().filter(|slot| slot.handle.load(Ordering::Acquire) != 0);
        // All of them, also after one that cannot be.
        live.fold(true, |all, slot| {
            // SAFETY: it has an object, and there is no thread that could destroy it.
            let content = unsafe { &*slot.content.get() };
            // SAFETY: as above.
            unsafe { (content.silence)(content.object) && all }
        })
    }

    /// Destroys all objects. For the program's end, when none of its threads is left and all objects are silent.
    pub(super) fn release_all(&self) {
        for slot in self.slots.iter() {
            if slot.handle.swap(0, Ordering::AcqRel) != 0 {
                // SAFETY: nobody else has it; see above. A thread that died while it used the object left its count behind.
                let content = unsafe { &*slot.content.get() };
                // SAFETY: as above.
                unsafe { (content.drop)(content.object) };
            }
        }
    }
}

/// Memory for an object and its handle.
pub struct Reserved<'a, T: Object> {
    objects: &'a Objects,
    index: u32,
    memory: Option<Box<MaybeUninit<T>>>,
}

impl<T: Object> Reserved<'_, T> {
    /// Puts the object there; its handle.
    #[inline(never)]
    pub fn fill(mut self, object: T) -> Handle {
        let Some(memory) = self.memory.take() else { unreachable!("filled once, here") };
        let slot = self.objects.slot(self.index);
        // SAFETY: the slot is reserved, so nobody else has it.
        let content = unsafe { &mut *slot.content.get() };
        content.kind = T::KIND;
        content.object = Box::into_raw(Box::write(memory, object)).cast();
        content.drop = drop_object::<T>;
        content.silence = silence_object::<T>;
        content.uses = (content.uses + 1) % (1 << USE_BITS);
        if content.uses == 0 {
            content.uses = 1;
        }
        let handle = self.objects.owner | u64::from(content.uses) << PLACE_BITS | u64::from(self.index);
        slot.handle.store(handle, Ordering::Release);
        handle
    }
}

impl<T: Object> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        if self.memory.is_some() {
            self.objects.free(self.index);
        }
    }
}

/// An object that a call uses.
pub struct Borrowed<'a, T> {
    slot: &'a Slot,
    _object: PhantomData<&'a T>,
}

impl<T> Deref for Borrowed<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `borrow` saw that a `T` is there, and the count keeps it.
        unsafe { &*(*self.slot.content.get()).object.cast::<T>() }
    }
}

impl<T> Drop for Borrowed<'_, T> {
    fn drop(&mut self) {
        self.slot.users.fetch_sub(1, Ordering::Release);
    }
}

/// An object that a call has alone.
pub struct Taken<'a, T> {
    objects: &'a Objects,
    index: u32,
    _object: PhantomData<&'a mut T>,
}

impl<T> Taken<'_, T> {
    fn object(&self) -> *mut T {
        // SAFETY: the slot is held alone.
        unsafe { (*self.objects.slot(self.index).content.get()).object.cast() }
    }

    /// Takes the object out; its handle is not valid any more.
    #[inline(never)]
    pub fn remove(self) -> Box<T> {
        // SAFETY: `take` saw that a `T` is there, made from a box; the handle goes, so nobody else comes to it.
        let object = unsafe { Box::from_raw(self.object()) };
        self.objects.slot(self.index).handle.store(0, Ordering::Release);
        let (objects, index) = (self.objects, self.index);
        drop(self);
        objects.free(index);
        object
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `take` saw that a `T` is there; it is held alone.
        unsafe { &*self.object() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.object() }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.objects.slot(self.index).users.fetch_sub(ALONE, Ordering::Release);
    }
}
