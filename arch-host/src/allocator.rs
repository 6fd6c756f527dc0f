//! The process's allocator, safe against interrupts: a kernel thread preempted inside `malloc` would leave its lock
//! held, and the next thread of the same CPU would wait for it for ever.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::cpu;

/// `System` with interrupts off.
pub struct HostAllocator;

/// Runs with interrupts off, if this is a CPU.
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

// SAFETY: `System`'s contract, unchanged.
unsafe impl GlobalAlloc for HostAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligation.
        without_interrupts(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligation.
        without_interrupts(|| unsafe { System.dealloc(at, layout) });
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's obligation.
        without_interrupts(|| unsafe { System.realloc(at, layout, size) })
    }
}
