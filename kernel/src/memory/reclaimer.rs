//! Reclaims memory kept for reuse: at once when memory has run out, otherwise after a delay.

use core::time::Duration;

use super::stack::{self, Keep};
use super::zone::{self, ZONES};
use crate::call;
use crate::cpu;
use crate::lock::InterruptGuard;
use crate::lock::passing;
use crate::thread::{self, Builder, SpawnError};
use crate::wait::Event;

/// How long freed stacks are kept regardless of their number: threads that end in large numbers are
/// often followed by others.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// How long all CPUs may take to empty their caches.
const LIMIT: Duration = Duration::from_secs(1);

/// Signalled when more freed stacks are kept than should be.
static DUE: Event = Event::new();

/// Starts the reclaimer thread, which frees stacks that have been kept long enough.
///
/// # Errors
/// [`SpawnError`] for the thread.
pub(crate) fn start() -> Result<(), SpawnError> {
    let reclaimer = || {
        loop {
            DUE.wait();
            thread::sleep(KEPT_FOR);
            stack::reclaim(Keep::Some);
        }
    };
    // Use the last CPU: if there are several, it is not the boot CPU, which is still busy starting
    // the kernel.
    Builder::new("reclaimer").cpu(cpu::count() - 1).spawn(reclaimer)?.detach();
    Ok(())
}

/// Tells the reclaimer that there is something to reclaim. Callable in any context.
pub(super) fn is_due() {
    DUE.signal();
}

/// Reclaims memory kept for reuse: dead threads, freed stacks, and the objects in all CPUs' caches.
/// Returns true if there is more free memory afterwards, so that a retry is worthwhile.
///
/// Blocks. Does nothing if the caller must not block, as in a handler or with interrupts off.
#[cold]
pub(super) fn reclaim() -> bool {
    if !may_block() {
        return false;
    }
    #[cfg(feature = "faults")]
    if super::faults::is_active() {
        return false;
    }
    let before = free();
    let empty = || {
        thread::empty_stock();
        super::flush_this_cpus_caches();
    };
    // A CPU that does not answer keeps its caches.
    let _ = call::on_all(empty, LIMIT);
    stack::reclaim(Keep::None);
    // Noting the emptied slots allocated list nodes, whose refills left a few spare objects in this
    // CPU's cache.
    super::flush_this_cpus_caches();
    free() > before
}

fn may_block() -> bool {
    let guard = InterruptGuard::new();
    guard.were_enabled() && !passing::is_here() && !cpu::in_interrupt() && thread::try_running().is_some()
}

/// Returns the free bytes outside the CPUs' caches.
fn free() -> u64 {
    let usages = zone::nodes().filter_map(|node| ZONES.get(node)).map(|zone| zone.lock().usage());
    usages.map(|usage| usage.free + usage.free_in_slabs).sum()
}
