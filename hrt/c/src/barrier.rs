//! POSIX barriers and `pthread_once`.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

use hrt::abi::NEVER;
use hrt::raw::aero_thread_yield;

use crate::futex;
use crate::process::EINVAL;

/// `pthread_barrier_t`, of 32 bytes.
#[repr(C)]
pub struct Barrier {
    wanted: u32,
    /// Guards `arrived` and the step to the next round.
    lock: AtomicU32,
    arrived: AtomicU32,
    round: AtomicU32,
    /// Number of threads that have not left yet.
    inside: AtomicU32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_init(barrier: *mut Barrier, _: *const c_void, wanted: c_uint) -> c_int {
    if wanted == 0 {
        return EINVAL;
    }
    // SAFETY: the caller passes memory for a barrier that is not in use.
    unsafe {
        barrier.write(Barrier {
            wanted,
            lock: AtomicU32::new(0),
            arrived: AtomicU32::new(0),
            round: AtomicU32::new(0),
            inside: AtomicU32::new(0),
        });
    }
    0
}

/// Waits until the threads that have passed the barrier have left it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_destroy(barrier: *const Barrier) -> c_int {
    // SAFETY: POSIX requires an initialised barrier, which stays in place during the call.
    let inside = unsafe { &(*barrier).inside };
    while inside.load(Ordering::Acquire) != 0 {
        // SAFETY: the interface allows a yield in any state.
        unsafe { aero_thread_yield() };
    }
    0
}

/// The value that one thread per round receives (PTHREAD_BARRIER_SERIAL_THREAD).
const SERIAL: c_int = -1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_wait(barrier: *const Barrier) -> c_int {
    // SAFETY: POSIX requires an initialised barrier, which stays in place during the call.
    let barrier = unsafe { &*barrier };
    barrier.inside.fetch_add(1, Ordering::Relaxed);
    futex::lock(&barrier.lock, NEVER);
    let round = barrier.round.load(Ordering::Relaxed);
    let is_last = barrier.arrived.load(Ordering::Relaxed) + 1 == barrier.wanted;
    if is_last {
        barrier.arrived.store(0, Ordering::Relaxed);
        barrier.round.store(round.wrapping_add(1), Ordering::Release);
    } else {
        barrier.arrived.fetch_add(1, Ordering::Relaxed);
    }
    futex::unlock(&barrier.lock);
    if is_last {
        futex::wake(&barrier.round, u32::MAX);
    } else {
        futex::wait_while(&barrier.round, round);
    }
    barrier.inside.fetch_sub(1, Ordering::Release);
    if is_last { SERIAL } else { 0 }
}

/// The states of a `pthread_once_t`: 0 before the first call, a call in progress, and a call that
/// has returned.
const UNDER_WAY: u32 = 1;
const DONE: u32 = 2;

/// Calls a function unless an earlier call has done so, and waits for a call in progress. `word` is
/// initially zero.
pub fn once(word: &AtomicU32, function: impl FnOnce()) {
    match word.compare_exchange(0, UNDER_WAY, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            function();
            word.store(DONE, Ordering::Release);
            futex::wake(word, u32::MAX);
        }
        Err(_) => futex::wait_while(word, UNDER_WAY),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_once(word: *const AtomicU32, function: unsafe extern "C" fn()) -> c_int {
    // SAFETY: the caller passes a `pthread_once_t` that was initialised to zero, and a function it
    // may call.
    once(unsafe { &*word }, || unsafe { function() });
    0
}
