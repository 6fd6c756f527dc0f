//! The owner of a set of threads, which end with it: a program, of which the scheduler knows only
//! this.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::memory::OutOfMemory;
use crate::scheduler;
use crate::thread::{self, Thread};

/// The part of an owner that threads, timers and the scheduler use. It is the owner's first field,
/// so a pointer to one is a pointer to the other, and the functions take that pointer.
pub(crate) struct Owner {
    /// Set once the owner's threads have to end.
    ending: AtomicBool,
    functions: &'static Functions,
}

/// The functions of an owner for its threads. Each is called with the thread's owner, which
/// outlives the call.
pub(crate) struct Functions {
    /// Returns true for an address in the owner's own code, where its threads can be ended at any
    /// instruction.
    pub is_code: unsafe fn(*const Owner, address: usize) -> bool,
    /// Counts a thread that is being spawned. Returns where its thread-local variables end, 0 if it
    /// has none.
    pub join: unsafe fn(*const Owner) -> Result<usize, OutOfMemory>,
    /// Notes that a thread has ended. This is the thread's last access to the owner; it runs on the
    /// scheduler's stack with interrupts off.
    pub leave: unsafe fn(*const Owner, &'static Thread),
}

impl Owner {
    pub(crate) fn new(functions: &'static Functions) -> Self {
        Self { ending: AtomicBool::new(false), functions }
    }

    /// Returns true once the owner's threads have to end.
    #[inline(always)]
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Makes the owner's threads end from now on.
    pub(crate) fn set_ending(&self) {
        self.ending.store(true, Ordering::Release);
    }
}

/// Returns the calling thread's owner, null for a thread of the kernel.
#[inline(always)]
pub(crate) fn current() -> *const Owner {
    thread::try_running().map_or(core::ptr::null(), Thread::owner)
}

/// Counts a new thread among `owner`'s threads. Returns where its thread-local variables end, 0 if
/// it has none.
///
/// # Safety
/// The owner does not end during the call.
pub(super) unsafe fn join(owner: *const Owner) -> Result<usize, OutOfMemory> {
    // SAFETY: the caller guarantees that the owner does not end during the call, which covers the
    // access and the function.
    unsafe { ((*owner).functions.join)(owner) }
}

/// Notes that a thread of `owner` has ended.
///
/// # Safety
/// The thread still counts among the owner's threads, so the owner has not ended.
pub(super) unsafe fn leave(owner: *const Owner, thread: &'static Thread) {
    // SAFETY: the caller guarantees that the thread still counts among the owner's, so the owner
    // exists during the call.
    unsafe { ((*owner).functions.leave)(owner, thread) }
}

/// Returns true if the calling thread's owner is ending.
#[inline(always)]
pub fn is_ending() -> bool {
    // SAFETY: the pointer is null or leads to the calling thread's owner, which outlives the
    // thread.
    unsafe { current().as_ref() }.is_some_and(Owner::is_ending)
}

/// Returns true if the calling thread was interrupted in its owner's own code and the owner is
/// ending.
pub(crate) fn interrupted_in_ending(interrupted: usize) -> bool {
    let owner = current();
    // SAFETY: the pointer is null or leads to the calling thread's owner, which outlives the
    // thread.
    unsafe { owner.as_ref().is_some_and(|it| it.is_ending() && (it.functions.is_code)(owner, interrupted)) }
}

/// Ends the calling thread if its owner is ending. The functions of the interface call this before
/// they return. In an interrupt handler it does nothing, because the current thread is only the
/// interrupted one.
#[inline(always)]
pub fn leave_if_ending() {
    if is_ending() {
        exit_unless_in_interrupt();
    }
}

#[cold]
fn exit_unless_in_interrupt() {
    if !cpu::in_interrupt() {
        scheduler::exit();
    }
}
