//! POSIX semaphores between threads: `sem_t`, of 32 bytes.

use core::ffi::{c_int, c_uint};
use core::sync::atomic::{AtomicU32, Ordering};

use hrt::abi::NEVER;

use crate::futex;
use crate::locks::deadline;
use crate::process::{EAGAIN, EINVAL, ETIMEDOUT, TimeSpec, set_errno};

/// Takes a unit. Returns 0, or -1 with the reason in `errno`; without a deadline it does not wait.
fn down(units: &AtomicU32, deadline: Option<u64>) -> c_int {
    loop {
        if units.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |units| units.checked_sub(1)).is_ok() {
            return 0;
        }
        let error = match deadline {
            None => EAGAIN,
            Some(deadline) if futex::wait(units, 0, deadline) => continue,
            Some(_) => ETIMEDOUT,
        };
        set_errno(error);
        return -1;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_init(semaphore: *mut u32, _: c_int, units: c_uint) -> c_int {
    // SAFETY: the caller passes memory for a semaphore that is not in use.
    unsafe { semaphore.write(units) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn sem_destroy(_: *mut u32) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_wait(semaphore: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised semaphore, which stays in place during the call.
    down(unsafe { &*semaphore }, Some(NEVER))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_trywait(semaphore: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised semaphore, which stays in place during the call.
    down(unsafe { &*semaphore }, None)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_timedwait(semaphore: *const AtomicU32, time: *const TimeSpec) -> c_int {
    // SAFETY: the caller passes a readable time, as POSIX requires.
    match unsafe { deadline(time) } {
        // SAFETY: POSIX requires an initialised semaphore, which stays in place during the call.
        Some(deadline) => down(unsafe { &*semaphore }, Some(deadline)),
        None => {
            set_errno(EINVAL);
            -1
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_post(semaphore: *const AtomicU32) -> c_int {
    // SAFETY: POSIX requires an initialised semaphore, which stays in place during the call.
    let units = unsafe { &*semaphore };
    units.fetch_add(1, Ordering::Release);
    futex::wake(units, 1);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_getvalue(semaphore: *const AtomicU32, value: *mut c_int) -> c_int {
    // SAFETY: POSIX requires an initialised semaphore and a place for the value.
    unsafe { value.write((*semaphore).load(Ordering::Relaxed) as c_int) };
    0
}
