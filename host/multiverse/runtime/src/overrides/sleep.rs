//! nanosleep and sched_yield in the HRT.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hvm::program::waited;
use libc::{EINTR, EINVAL, TIMER_ABSTIME, timespec};

use super::shipped::{
    NOTHING, SECOND, TO_ORIGINAL, Version, deadline, entry, is_crowded, now, thread_id, time_left, wait_begin, wait_end,
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

/// Words that no thread wakes; several, so that the lists of the waits for them are short.
static WORDS: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

/// Sleeps until a point in time of one of Linux's clocks.
///
/// # Errors
/// EINTR if a signal's handler was called, EINVAL for a time that is none.
fn sleep(clock: i32, time: &timespec) -> Result<(), i32> {
    if time.tv_sec < 0 {
        return Err(EINVAL);
    }
    let word = &WORDS[thread_id() as usize % WORDS.len()];
    // Linux's clock may be behind the kernel's when that has come to the time.
    loop {
        let until = deadline(clock, time)?;
        if until == 0 {
            return Ok(());
        }
        if let Some(number) = wait_begin(word, 0)
            && wait_end(number, until, &NOTHING) == waited::INTERRUPTED
        {
            return Err(EINTR);
        }
    }
}

/// Sleeps for a time, and says how much was left if a signal's handler was called.
///
/// # Errors
/// As [`sleep`].
///
/// # Safety
/// The addresses are those of times, or null.
unsafe fn sleep_for(time: *const timespec, left: *mut timespec) -> Result<(), i32> {
    // SAFETY: the caller answers for it.
    let timespec { tv_sec, tv_nsec } = unsafe { *time };
    if tv_sec < 0 || !(0..SECOND).contains(&tv_nsec) {
        return Err(EINVAL);
    }
    let now = now(libc::CLOCK_MONOTONIC);
    let nanoseconds = now.tv_nsec + tv_nsec;
    let end = timespec {
        tv_sec: now.tv_sec.saturating_add(tv_sec).saturating_add(nanoseconds / SECOND),
        tv_nsec: nanoseconds % SECOND,
    };
    let slept = sleep(libc::CLOCK_MONOTONIC, &end);
    // SAFETY: the caller answers for it.
    let left = unsafe { left.as_mut() };
    if slept.is_err()
        && let Some(left) = left
    {
        let rest = time_left(libc::CLOCK_MONOTONIC, &end).max(0);
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
    let slept = unsafe { if flags & TIMER_ABSTIME != 0 { sleep(clock, &*time) } else { sleep_for(time, left) } };
    slept.err().unwrap_or(0)
}
