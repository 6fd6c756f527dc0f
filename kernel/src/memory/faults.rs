//! Allocation failures injected by tests: one thread's allocation of a given number fails.

use core::sync::atomic::{AtomicU64, Ordering};

use super::OutOfMemory;
use crate::cpu;
use crate::thread;

/// The thread whose allocations are counted, 0 for none.
static THREAD: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static FAILING: AtomicU64 = AtomicU64::new(u64::MAX);

/// Runs `operation` while the calling thread's allocation number `failing`, counted from 0, fails.
/// Returns its result and the number of allocations it made. Only one caller at a time.
pub fn with_failing<T>(failing: u64, operation: impl FnOnce() -> T) -> (T, u64) {
    FAILING.store(failing, Ordering::Relaxed);
    SEEN.store(0, Ordering::Relaxed);
    THREAD.store(thread::running().id(), Ordering::Relaxed);
    let result = operation();
    THREAD.store(0, Ordering::Relaxed);
    (result, SEEN.load(Ordering::Relaxed))
}

/// Returns true while the calling thread's allocations are counted.
pub(super) fn is_active() -> bool {
    let wanted = THREAD.load(Ordering::Relaxed);
    wanted != 0 && thread::try_running().is_some_and(|thread| thread.id() == wanted)
}

/// Counts an allocation and fails it if it is the chosen one.
pub(super) fn allocation() -> Result<(), OutOfMemory> {
    if cpu::in_interrupt() || !is_active() {
        return Ok(());
    }
    if SEEN.fetch_add(1, Ordering::Relaxed) == FAILING.load(Ordering::Relaxed) { Err(OutOfMemory) } else { Ok(()) }
}
