//! The kernel objects that a program owns, and the handles by which it names them.
//!
//! A handle is a number, not an address. Kind, life and owner are checked before the object is
//! touched, so that a stale, wrong or foreign handle results in an error and nothing worse. The
//! objects are in the kernel's memory. An object cannot be destroyed while a call uses it.

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

/// The kind of object that a handle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// A thread that can be joined.
    Thread,
    /// A message queue.
    MessageQueue,
    /// A timer.
    Timer,
    /// An interrupt vector with a handler.
    Interrupt,
    /// A device line with a handler.
    Line,
    /// A fiber.
    Fiber,
    /// A task pool.
    Pool,
    /// A collective.
    Collective,
}

/// A type whose values can have handles. An object is dropped when it is destroyed, or at its
/// program's end.
///
/// # Safety
/// No other type has the same [`ObjectKind`], which alone identifies the type of an object.
pub unsafe trait Object: Send + Sync + 'static {
    /// The kind of the type's handles.
    const KIND: ObjectKind;

    /// Keeps the object from calling the program from now on; returns false if it may still do so.
    /// Called at the program's end, before anything of the program is given back, repeatedly until
    /// it succeeds or takes too long.
    fn silence(&self) -> bool {
        true
    }
}

/// A handle, never 0: 19 bits of the program's number, 20 bits counting the uses of the slot, and
/// 24 bits with the slot's index. The top bit is clear, unlike in any kernel address.
pub type Handle = u64;

const PLACE_BITS: u32 = 24;
const USE_BITS: u32 = 20;
const OWNER_BITS: u32 = 19;

/// Why a handle was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleError {
    /// It does not name a live object of this kind and program.
    Invalid,
    /// Other calls are using the object.
    Busy,
}

/// Flag in [`Slot::users`]: a call holds the object exclusively.
const ALONE: u32 = 1 << 31;
const NONE: u32 = u32::MAX;
/// How long [`Objects::take`] waits for calls that are about to leave an object.
const LEAVE_LIMIT: Duration = Duration::from_millis(20);

struct Slot {
    /// The handle of the slot's object; 0 while the slot is free.
    handle: AtomicU64,
    /// Number of calls that use the object, plus [`ALONE`] while one holds it exclusively.
    users: AtomicU32,
    content: UnsafeCell<Content>,
}

/// The content of a slot, written only while the slot is free or held exclusively.
struct Content {
    kind: ObjectKind,
    object: *mut u8,
    drop: unsafe fn(*mut u8),
    silence: unsafe fn(*const u8) -> bool,
    uses: u32,
    next_free: u32,
}

// SAFETY: `content` is written only by the holder of a free or exclusively held slot, and read by
// calls that are counted in `users`; see `borrow`.
unsafe impl Sync for Slot {}
// SAFETY: the objects are `Send`, and a slot owns its object.
unsafe impl Send for Slot {}

/// The objects of one program.
pub struct Objects {
    slots: Table<Slot>,
    first_free: SpinLock<u32>,
    owner: u64,
}

unsafe fn drop_object<T>(object: *mut u8) {
    // SAFETY: `Reserved::fill` made the pointer from a `Box<T>`, and the object is dropped only
    // once.
    drop(unsafe { Box::from_raw(object.cast::<T>()) });
}

unsafe fn silence_object<T: Object>(object: *const u8) -> bool {
    // SAFETY: the caller passes a live object of the type that the slot was filled with, `T`.
    unsafe { (*object.cast::<T>()).silence() }
}

impl Objects {
    /// Creates the empty table of the program with this number.
    pub(super) fn new(program: u64) -> Self {
        let owner = program % (1 << OWNER_BITS) << (PLACE_BITS + USE_BITS);
        Self { slots: Table::new(), first_free: SpinLock::new(NONE), owner }
    }

    /// Reserves all memory that an object and its handle need, so that nothing can fail once the
    /// object exists.
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
                // SAFETY: the slot is on the list of free slots, whose lock is held.
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
        // SAFETY: the slot is free and not yet on the list of free slots, whose lock is held.
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

    /// Returns an object for shared use.
    ///
    /// # Errors
    /// See [`HandleError`].
    #[inline(never)]
    pub fn borrow<T: Object>(&self, handle: Handle) -> Result<Borrowed<'_, T>, HandleError> {
        let (_, slot) = self.find(handle)?;
        // Count first, check afterwards: either `try_take` sees this count, or this call sees its
        // `ALONE` flag.
        let users = slot.users.fetch_add(1, Ordering::AcqRel);
        let borrowed = Borrowed { slot, _object: PhantomData };
        if users & ALONE != 0 {
            return Err(HandleError::Busy);
        }
        if slot.handle.load(Ordering::Acquire) != handle {
            return Err(HandleError::Invalid);
        }
        // SAFETY: the handle matches, so the slot has an object, and the count keeps it from being
        // removed.
        if unsafe { (*slot.content.get()).kind } != T::KIND {
            return Err(HandleError::Invalid);
        }
        Ok(borrowed)
    }

    /// Returns an object for exclusive use, to be changed or destroyed. Waits for calls that are
    /// about to leave it.
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

    /// Like [`Objects::take`], but does not wait. Callable in any context.
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
        // SAFETY: `ALONE` was set while no call used the slot, so this call holds it exclusively.
        if slot.handle.load(Ordering::Relaxed) != handle || unsafe { (*slot.content.get()).kind } != T::KIND {
            return Err(HandleError::Invalid);
        }
        Ok(taken)
    }

    /// Silences all objects; returns false if one could not be silenced. For the program's end,
    /// when none of its threads is left.
    pub(super) fn silence_all(&self) -> bool {
        let live = self.slots.iter().filter(|slot| slot.handle.load(Ordering::Acquire) != 0);
        // Try every object, also after one that cannot be silenced.
        live.fold(true, |all, slot| {
            // SAFETY: the handle is not 0, so the slot has an object, and no thread is left that
            // could destroy it.
            let content = unsafe { &*slot.content.get() };
            // SAFETY: `content.object` is the live object that `content.silence` was stored for.
            unsafe { (content.silence)(content.object) && all }
        })
    }

    /// Destroys all objects. For the program's end, when none of its threads is left and all
    /// objects are silent.
    pub(super) fn release_all(&self) {
        for slot in self.slots.iter() {
            if slot.handle.swap(0, Ordering::AcqRel) != 0 {
                // SAFETY: no thread of the program is left and all objects are silent, so nothing
                // else accesses the slot. `users` does not tell: a thread that died while it used
                // the object left its count behind.
                let content = unsafe { &*slot.content.get() };
                // SAFETY: `content.drop` was stored for this object, and the handle, now 0, keeps
                // it from being dropped again.
                unsafe { (content.drop)(content.object) };
            }
        }
    }
}

/// Memory reserved for an object and its handle.
pub struct Reserved<'a, T: Object> {
    objects: &'a Objects,
    index: u32,
    memory: Option<Box<MaybeUninit<T>>>,
}

impl<T: Object> Reserved<'_, T> {
    /// Stores the object and returns its handle.
    #[inline(never)]
    pub fn fill(mut self, object: T) -> Handle {
        let Some(memory) = self.memory.take() else { unreachable!("filled once, here") };
        let slot = self.objects.slot(self.index);
        // SAFETY: the slot is reserved for this call, and its handle is 0, so no other call
        // accesses its content.
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

/// An object in shared use by a call.
pub struct Borrowed<'a, T> {
    slot: &'a Slot,
    _object: PhantomData<&'a T>,
}

impl<T> Deref for Borrowed<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `borrow` checked that the slot holds a `T`, and the count in `users` keeps it
        // alive.
        unsafe { &*(*self.slot.content.get()).object.cast::<T>() }
    }
}

impl<T> Drop for Borrowed<'_, T> {
    fn drop(&mut self) {
        self.slot.users.fetch_sub(1, Ordering::Release);
    }
}

/// An object in exclusive use by a call.
pub struct Taken<'a, T> {
    objects: &'a Objects,
    index: u32,
    _object: PhantomData<&'a mut T>,
}

impl<T> Taken<'_, T> {
    fn object(&self) -> *mut T {
        // SAFETY: `try_take` set `ALONE`, so this call holds the slot exclusively.
        unsafe { (*self.objects.slot(self.index).content.get()).object.cast() }
    }

    /// Takes the object out. Its handle becomes invalid.
    #[inline(never)]
    pub fn remove(self) -> Box<T> {
        // SAFETY: `try_take` checked that the slot holds a `T`, which `fill` made from a box. The
        // handle is cleared before the slot is released, so no other call reaches the object.
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
        // SAFETY: `try_take` checked that the slot holds a `T`, and `ALONE` excludes all other
        // calls.
        unsafe { &*self.object() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `try_take` checked that the slot holds a `T`, and `ALONE` excludes all other
        // calls.
        unsafe { &mut *self.object() }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.objects.slot(self.index).users.fetch_sub(ALONE, Ordering::Release);
    }
}
