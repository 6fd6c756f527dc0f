//! A thread of the program: what the runtime keeps of it.

use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use hvm::program::Step;
use libc::siginfo_t;

use crate::linux::Mask;

/// A stack for the program's handlers, as sigaltstack has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct SignalStack {
    /// Its lowest address.
    pub start: u64,
    /// Flags.
    pub flags: i32,
    /// Its size, in bytes; 0 if there is none.
    pub size: u64,
}

/// No stack for signals.
pub const NO_STACK: SignalStack = SignalStack { start: 0, flags: libc::SS_DISABLE, size: 0 };

/// What a signal's handler leaves for the thread.
pub struct Pending {
    /// What Linux says of it.
    pub information: siginfo_t,
    /// The mask before it.
    pub mask: Mask,
    /// Error code, vector and address of an exception.
    pub exception: [u64; 3],
}

/// A thread.
pub struct Thread {
    /// Number of the signal that is to be delivered, 0 for none. All signals are blocked until it
    /// is.
    pub signal: AtomicU32,
    /// What is known of that signal.
    pub pending: UnsafeCell<Option<Pending>>,
    /// The byte that makes its CPU leave the HRT.
    pub immediate_exit: AtomicPtr<u8>,
    /// The instruction that is being executed here.
    pub step: AtomicPtr<Step>,
    /// FS base of the program in this thread, while an instruction is executed here.
    pub program_fs_base: AtomicU64,
}

impl Thread {
    /// One that has just begun.
    pub fn new() -> Self {
        Self {
            signal: AtomicU32::new(0),
            pending: UnsafeCell::new(None),
            immediate_exit: AtomicPtr::new(null_mut()),
            step: AtomicPtr::new(null_mut()),
            program_fs_base: AtomicU64::new(0),
        }
    }
}
