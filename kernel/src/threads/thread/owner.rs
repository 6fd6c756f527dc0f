//! The owner of a set of threads, which end with it: a program, of which the scheduler knows no more than this.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::memory::OutOfMemory;
use crate::scheduler;
use crate::thread::{self, Thread};

/// The owner's part that threads, timers and the scheduler use. An owner has it as its first field, so that a pointer to one is
/// a pointer to the other; the functions are given that pointer.
pub(crate) struct Owner {
    /// Set once its threads are to end.
    ending: AtomicBool,
    functions: &'static Functions,
}

/// What an owner does for its threads. Every function is called with the owner of that thread, which outlives the call.
pub(crate) struct Functions {
    /// True for an address in the owner's own code, where its threads can be ended at any instruction.
    pub is_code: unsafe fn(*const Owner, address: usize) -> bool,
    /// A thread is being spawned: counts it, and returns where its thread-local variables end, 0 if it has none.
    pub join: unsafe fn(*const Owner) -> Result<usize, OutOfMemory>,
    /// A thread has ended: the last access to the owner that the thread causes. On the scheduler's stack, interrupts off.
    pub leave: unsafe fn(*const Owner, &'static Thread),
}

impl Owner {
    pub(crate) fn new(functions: &'static Functions) -> Self {
        Self { ending: AtomicBool::new(false), functions }
    }

    /// True once its threads are to end.
    #[inline(always)]
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// From now on its threads end.
    pub(crate) fn set_ending(&self) {
        self.ending.store(true, Ordering::Release);
    }
}

/// The calling thread's owner, null for the kernel's own threads.
#[inline(always)]
pub(crate) fn current() -> *const Owner {
    thread::try_running().map_or(core::ptr::null(), Thread::owner)
}

/// Counts a new thread among `owner`'s; where its thread-local variables end, 0 if it has none.
///
/// # Safety
/// The owner does not end during the call.
pub(super) unsafe fn join(owner: *const Owner) -> Result<usize, OutOfMemory> {
    // SAFETY: the caller's word, for both.
    unsafe { ((*owner).functions.join)(owner) }
}

/// A thread of `owner` has ended.
///
/// # Safety
/// The thread still counts among the owner's, which therefore has not ended.
pub(super) unsafe fn leave(owner: *const Owner, thread: &'static Thread) {
    // SAFETY: the caller's word, for both.
    unsafe { ((*owner).functions.leave)(owner, thread) }
}

/// True if the calling thread's owner ends.
#[inline(always)]
pub fn is_ending() -> bool {
    // SAFETY: null, or the owner of the calling thread, which outlives it.
    unsafe { current().as_ref() }.is_some_and(Owner::is_ending)
}

/// True if the calling thread was interrupted in its owner's own code, and that owner ends.
pub(crate) fn interrupted_in_ending(interrupted: usize) -> bool {
    let owner = current();
    // SAFETY: null, or the owner of the calling thread, which outlives it.
    unsafe { owner.as_ref().is_some_and(|it| it.is_ending() && (it.functions.is_code)(owner, interrupted)) }
}

/// Ends the calling thread if its owner ends. The interface's functions call it before they return. In an interrupt handler it
/// does nothing: the thread there is whichever was interrupted.
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
