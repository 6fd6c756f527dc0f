//! What is kept for reuse and goes back: at once where memory has run out, after a while otherwise.

use core::time::Duration;

use super::stack::{self, Keep};
use super::zone::{self, ZONES};
use crate::call;
use crate::cpu;
use crate::lock::InterruptGuard;
use crate::lock::passing;
use crate::thread::{self, Builder, SpawnError};
use crate::wait::Event;

/// How long freed stacks are kept however many they are: threads that end in large numbers are often followed by others.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// How long all CPUs may take to empty their caches.
const LIMIT: Duration = Duration::from_secs(1);

/// Signalled when more is kept than should be.
static DUE: Event = Event::new();

/// Starts the thread that gives back what has been kept for long enough.
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
    // Where there are several CPUs, not on the one that has something to do now.
    Builder::new("reclaimer").cpu(cpu::count() - 1).spawn(reclaimer)?.detach();
    Ok(())
}

/// Tells the reclaimer that there is something for it. Any context.
pub(super) fn is_due() {
    DUE.signal();
}

/// Takes back what is kept for reuse: dead threads, freed stacks, the objects in all CPUs' caches. True if there is more
/// free memory now, so that it is worth trying again.
///
/// Blocks. Where the caller must not, as in a handler or with interrupts off, nothing happens.
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
    // A CPU that does not answer keeps what it has.
    let _ = call::on_all(empty, LIMIT);
    stack::reclaim(Keep::None);
    // Emptied slots are noted in objects, of which a few came back with the stacks.
    super::flush_this_cpus_caches();
    free() > before
}

fn may_block() -> bool {
    let guard = InterruptGuard::new();
    guard.were_enabled() && !passing::is_here() && !cpu::in_interrupt() && thread::try_running().is_some()
}

/// Bytes that are in no CPU's cache.
fn free() -> u64 {
    let usages = zone::nodes().filter_map(|node| ZONES.get(node)).map(|zone| zone.lock().usage());
    usages.map(|usage| usage.free + usage.free_in_slabs).sum()
}
