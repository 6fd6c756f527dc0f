//! The process's allocator, which disables interrupts: a kernel thread preempted inside `malloc`
//! would leave its lock held, and the next thread of the same CPU would wait for that lock forever.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::cpu;

/// `System` with interrupts disabled.
pub struct HostAllocator;

/// Calls `run` with interrupts disabled if the calling pthread is a CPU.
fn without_interrupts<R>(run: impl FnOnce() -> R) -> R {
    if !cpu::this_thread_is_cpu() {
        return run();
    }
    let were_enabled = cpu::interrupts_enabled();
    cpu::disable_interrupts();
    let result = run();
    if were_enabled {
        cpu::enable_interrupts();
    }
    result
}

// SAFETY: every method forwards to `System`, which fulfils the trait's contract.
unsafe impl GlobalAlloc for HostAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees a layout of non-zero size, as `System` requires.
        without_interrupts(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `at` was allocated here, and so by `System`, with this
        // layout.
        without_interrupts(|| unsafe { System.dealloc(at, layout) });
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that `at` was allocated here, and so by `System`, with this
        // layout, and that the new size is valid.
        without_interrupts(|| unsafe { System.realloc(at, layout, size) })
    }
}
