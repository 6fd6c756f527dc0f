//! nanosleep and sched_yield in the HRT.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hvm::program::waited;
use libc::{EINTR, EINVAL, TIMER_ABSTIME, timespec};

use super::shipped::{
    NOTHING, SECOND, TO_ORIGINAL, Version, deadline, entry, is_crowded, time_ns, wait_begin, wait_end,
};

/// The version of a function.
pub fn version(symbol: &str) -> Option<Version> {
    let version = match symbol {
        "sched_yield" => Version::new(yield_entry, &YIELD),
        "nanosleep" => Version::new(nanosleep_entry, &NANOSLEEP),
        "clock_nanosleep" => Version::new(clock_nanosleep_entry, &CLOCK_NANOSLEEP),
        _ => return None,
    };
    Some(version)
}

entry!(yield_entry, YIELD, sched_yield);
entry!(nanosleep_entry, NANOSLEEP, nanosleep);
entry!(clock_nanosleep_entry, CLOCK_NANOSLEEP, clock_nanosleep);

/// A CPU of the HRT has one thread, so there is nothing to let run but other threads of the
/// process, if they have to share Linux's CPUs.
extern "C" fn sched_yield() -> i32 {
    if is_crowded() { TO_ORIGINAL } else { 0 }
}

/// Sleeps until a point in time of the kernel's clock.
///
/// # Errors
/// EINTR if a signal's handler was called.
fn sleep(until: u64) -> Result<(), i32> {
    let word = AtomicU32::new(0);
    let Some(number) = wait_begin(&word, 0) else { return Ok(()) };
    if wait_end(number, until, &NOTHING) == waited::TIMED_OUT { Ok(()) } else { Err(EINTR) }
}

/// Sleeps for a time, and says how much was left if a signal's handler was called.
///
/// # Errors
/// As [`sleep`], and EINVAL for a time that is none.
///
/// # Safety
/// The addresses are those of times, or null.
unsafe fn sleep_for(time: *const timespec, left: *mut timespec) -> Result<(), i32> {
    // SAFETY: the caller answers for it.
    let timespec { tv_sec, tv_nsec } = unsafe { *time };
    if tv_sec < 0 || !(0..SECOND).contains(&tv_nsec) {
        return Err(EINVAL);
    }
    let until = time_ns().saturating_add(tv_sec.saturating_mul(SECOND).saturating_add(tv_nsec) as u64);
    let slept = sleep(until);
    // SAFETY: the caller answers for it.
    let left = unsafe { left.as_mut() };
    if slept.is_err()
        && let Some(left) = left
    {
        let rest = until.saturating_sub(time_ns()) as i64;
        (left.tv_sec, left.tv_nsec) = (rest / SECOND, rest % SECOND);
    }
    slept
}

/// Where the C library's function is that says where errno is.
static ERRNO: AtomicU64 = AtomicU64::new(0);

/// Keeps where the function `__errno_location` is.
pub fn keep_errno(at: u64) {
    ERRNO.store(at, Ordering::Relaxed);
}

unsafe extern "C" fn nanosleep(time: *const timespec, left: *mut timespec) -> i32 {
    // SAFETY: the program's call has these arguments.
    let Err(error) = (unsafe { sleep_for(time, left) }) else { return 0 };
    // SAFETY: the function is the C library's.
    unsafe {
        let location =
            std::mem::transmute::<usize, extern "C" fn() -> *mut i32>(ERRNO.load(Ordering::Relaxed) as usize);
        *location() = error;
    }
    -1
}

unsafe extern "C" fn clock_nanosleep(clock: i32, flags: i32, time: *const timespec, left: *mut timespec) -> i32 {
    if !matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC) {
        return TO_ORIGINAL;
    }
    // SAFETY: the program's call has these arguments.
    let slept = unsafe {
        if flags & TIMER_ABSTIME != 0 { deadline(clock, &*time).and_then(sleep) } else { sleep_for(time, left) }
    };
    slept.err().unwrap_or(0)
}
