//! Locks on a stopped machine. A CPU that runs a function there ([`crate::crash::sandbox`]) passes
//! a lock that a stopped CPU holds; the lock is held again afterwards.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::cpu;

/// Number of locks that a function may pass.
const PASS_LIMIT: usize = 64;

const NO_CPU: usize = usize::MAX;

/// The CPU that passes locks.
static PASSING_CPU: AtomicUsize = AtomicUsize::new(NO_CPU);
/// The addresses of the locks passed so far; 0 in free places.
static PASSED: [AtomicUsize; PASS_LIMIT] = [const { AtomicUsize::new(0) }; PASS_LIMIT];

/// Lets this CPU pass locks. Returns false if a CPU already does.
pub(crate) fn begin() -> bool {
    PASSING_CPU.compare_exchange(NO_CPU, cpu::this_index(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Marks the passed locks as held again and ends what [`begin`] began, on the same CPU.
///
/// # Safety
/// The holders of the passed locks are still stopped where they hold them.
pub(crate) unsafe fn end() {
    for lock in &PASSED {
        let address = lock.swap(0, Ordering::Relaxed);
        if address != 0 {
            // SAFETY: the address is that of a lock's word, which exists as long as its holder
            // stays in the critical section; the caller guarantees that the holder is still stopped
            // there.
            unsafe { (*(address as *const AtomicBool)).store(true, Ordering::Relaxed) };
        }
    }
    PASSING_CPU.store(NO_CPU, Ordering::SeqCst);
}

/// Returns true on the CPU that passes locks.
pub fn is_here() -> bool {
    let passing = PASSING_CPU.load(Ordering::Relaxed);
    passing != NO_CPU && passing == cpu::this_index()
}

/// Returns true if the caller is to continue as if the lock, which is held, were free.
#[inline(always)]
pub(crate) fn passes(lock: &AtomicBool) -> bool {
    PASSING_CPU.load(Ordering::Relaxed) != NO_CPU && passes_here(lock)
}

#[cold]
fn passes_here(lock: &AtomicBool) -> bool {
    if !is_here() {
        return false;
    }
    let address = core::ptr::from_ref(lock) as usize;
    match PASSED.iter().find(|place| [0, address].contains(&place.load(Ordering::Relaxed))) {
        Some(place) => place.store(address, Ordering::Relaxed),
        None => panic!("more than {PASS_LIMIT} locks are held"),
    }
    true
}
