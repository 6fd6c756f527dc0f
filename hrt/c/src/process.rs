//! A program's start and end, `errno`, the environment, time.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use hrt::raw::{
    aero_cpu_count, aero_cpu_this, aero_exit, aero_panic, aero_thread_sleep, aero_thread_yield, aero_time_ns,
};

use crate::memory::malloc;
use crate::thread_local;

// Linux's numbers (asm-generic/errno-base.h, asm-generic/errno.h).
pub const EPERM: c_int = 1;
pub const ENOMEM: c_int = 12;
pub const EAGAIN: c_int = 11;
pub const EBUSY: c_int = 16;
pub const EINVAL: c_int = 22;
pub const ERANGE: c_int = 34;
pub const EDEADLK: c_int = 35;
pub const ETIMEDOUT: c_int = 110;

#[thread_local]
static ERRNO: UnsafeCell<c_int> = UnsafeCell::new(0);

/// What `errno` stands for in glibc's header.
#[unsafe(no_mangle)]
pub extern "C" fn __errno_location() -> *mut c_int {
    ERRNO.get()
}

pub fn set_errno(number: c_int) {
    // SAFETY: the calling thread's own.
    unsafe { ERRNO.get().write(number) };
}

/// A function to be called at the end, with its argument.
struct AtExit {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    next: *mut AtExit,
}

static AT_EXIT: AtomicPtr<AtExit> = AtomicPtr::new(ptr::null_mut());

/// Has a function called at the end (Itanium C++ ABI, 3.3.6.3): the last one first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_atexit(
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    _: *mut c_void,
) -> c_int {
    let entry = malloc(size_of::<AtExit>()).cast::<AtExit>();
    if entry.is_null() {
        return -1;
    }
    let link = |first| {
        // SAFETY: just allocated, and nobody else's yet.
        unsafe { entry.write(AtExit { function, argument, next: first }) };
        Some(entry)
    };
    let _ = AT_EXIT.fetch_update(Ordering::AcqRel, Ordering::Acquire, link);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atexit(function: unsafe extern "C" fn()) -> c_int {
    // SAFETY: a function without parameters may be called with one: the caller keeps the stack (System V ABI).
    let function =
        unsafe { core::mem::transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut c_void)>(function) };
    // SAFETY: the caller's function.
    unsafe { __cxa_atexit(function, ptr::null_mut(), ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub static mut __dso_handle: *mut c_void = ptr::null_mut();

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_finalize(_: *mut c_void) {
    loop {
        let take = |first: *mut AtExit| {
            // SAFETY: entries live until they are taken, which the exiting thread does alone.
            unsafe { first.as_ref() }.map(|entry| entry.next)
        };
        let Ok(taken) = AT_EXIT.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return };
        // SAFETY: taken, so ours; the function is the program's.
        unsafe {
            let AtExit { function, argument, .. } = taken.read();
            crate::memory::free(taken.cast());
            function(argument);
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn exit(status: c_int) -> ! {
    // SAFETY: the program's own functions, at its end.
    unsafe {
        thread_local::destroy_objects();
        __cxa_finalize(ptr::null_mut());
        call_destructors();
        aero_exit(status)
    }
}

unsafe extern "C" {
    /// The functions that are to be called at the end (ELF, DT_FINI_ARRAY): the linker says where they are.
    #[link_name = "__fini_array_start"]
    static FIRST_DESTRUCTOR: [Option<unsafe extern "C" fn()>; 0];
    #[link_name = "__fini_array_end"]
    static LAST_DESTRUCTOR: [Option<unsafe extern "C" fn()>; 0];
}

/// Calls them, the last one first.
///
/// # Safety
/// At the program's end.
unsafe fn call_destructors() {
    let (first, mut at) = (
        &raw const FIRST_DESTRUCTOR as *const Option<unsafe extern "C" fn()>,
        &raw const LAST_DESTRUCTOR as *const Option<unsafe extern "C" fn()>,
    );
    while at > first {
        at = at.wrapping_sub(1);
        // SAFETY: between the two are functions of the program.
        unsafe {
            if let Some(destructor) = *at {
                destructor();
            }
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: ends the program.
    unsafe { aero_exit(status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    // SAFETY: ends the program.
    unsafe { aero_exit(status) }
}

/// Ends the program as failed, with a reason.
pub fn fail(reason: &[u8]) -> ! {
    // SAFETY: a text.
    unsafe { aero_panic(reason.as_ptr(), reason.len()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn abort() -> ! {
    fail(b"abort was called")
}

/// What a function calls whose frame was overwritten, in code that was compiled with stack protectors.
#[unsafe(no_mangle)]
pub extern "C" fn __stack_chk_fail() -> ! {
    fail(b"a function's frame was overwritten (stack protector)")
}

/// What glibc's `assert` calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __assert_fail(
    what: *const c_char,
    file: *const c_char,
    line: c_uint,
    function: *const c_char,
) -> ! {
    let text = |text: *const c_char| {
        if text.is_null() {
            return "?";
        }
        // SAFETY: the compiler's texts.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?")
    };
    let mut buffer = crate::output::Buffer::<256>::new();
    let _ = core::fmt::write(
        &mut buffer,
        format_args!("{}:{line}: {}: the assertion `{}` does not hold", text(file), text(function), text(what)),
    );
    fail(buffer.bytes())
}

/// Where libstdc++ looks whether it can do without atomic operations: it cannot.
#[unsafe(no_mangle)]
pub static __libc_single_threaded: c_char = 0;

/// The environment is empty.
#[unsafe(no_mangle)]
pub extern "C" fn getenv(_: *const c_char) -> *mut c_char {
    ptr::null_mut()
}

#[unsafe(no_mangle)]
pub extern "C" fn secure_getenv(_: *const c_char) -> *mut c_char {
    ptr::null_mut()
}

/// An array of pointers, of which the first is null.
#[repr(transparent)]
pub struct Environment([*mut c_char; 1]);

// SAFETY: never written by this library.
unsafe impl Sync for Environment {}

static NOTHING: Environment = Environment([ptr::null_mut()]);

#[unsafe(no_mangle)]
pub static mut environ: *const Environment = &raw const NOTHING;

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TimeSpec {
    pub seconds: i64,
    pub nanoseconds: c_long,
}

impl TimeSpec {
    /// In nanoseconds; `None` if its parts are out of range.
    pub fn nanoseconds(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanoseconds = u64::try_from(self.nanoseconds).ok().filter(|&part| part < 1_000_000_000)?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }
}

/// Nanoseconds since the kernel was entered.
pub fn now() -> u64 {
    // SAFETY: no condition.
    unsafe { aero_time_ns() }
}

/// All clocks are the kernel's, which begins with its start: it knows no date.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(_: c_int, time: *mut TimeSpec) -> c_int {
    let now = now();
    // SAFETY: the caller's place for it.
    unsafe {
        time.write(TimeSpec { seconds: (now / 1_000_000_000) as i64, nanoseconds: (now % 1_000_000_000) as c_long });
    }
    0
}

/// In seconds and nanoseconds since the kernel was entered; the base, which must be TIME_UTC, 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timespec_get(time: *mut TimeSpec, base: c_int) -> c_int {
    if base != 1 {
        return 0;
    }
    // SAFETY: the caller's place for it.
    unsafe { clock_gettime(0, time) };
    base
}

#[unsafe(no_mangle)]
pub extern "C" fn difftime(end: i64, start: i64) -> f64 {
    (end - start) as f64
}

/// `struct timeval`.
#[repr(C)]
pub struct TimeVal {
    seconds: i64,
    microseconds: c_long,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut TimeVal, _: *mut c_void) -> c_int {
    let now = now() / 1000;
    // SAFETY: the caller's place for it.
    unsafe { time.write(TimeVal { seconds: (now / 1_000_000) as i64, microseconds: (now % 1_000_000) as c_long }) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(place: *mut i64) -> i64 {
    let seconds = (now() / 1_000_000_000) as i64;
    if !place.is_null() {
        // SAFETY: the caller's place for it.
        unsafe { place.write(seconds) };
    }
    seconds
}

/// In units of `CLOCKS_PER_SEC`, which POSIX makes a million.
#[unsafe(no_mangle)]
pub extern "C" fn clock() -> c_long {
    (now() / 1000) as c_long
}

fn sleep_for(nanoseconds: u64) {
    // SAFETY: no condition.
    unsafe { aero_thread_sleep(now().saturating_add(nanoseconds)) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(wanted: *const TimeSpec, left: *mut TimeSpec) -> c_int {
    // SAFETY: the caller's times.
    let Some(nanoseconds) = unsafe { *wanted }.nanoseconds() else {
        set_errno(EINVAL);
        return -1;
    };
    sleep_for(nanoseconds);
    if !left.is_null() {
        // SAFETY: the caller's place for it.
        unsafe { left.write(TimeSpec { seconds: 0, nanoseconds: 0 }) };
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn usleep(microseconds: c_uint) -> c_int {
    sleep_for(u64::from(microseconds) * 1000);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn sleep(seconds: c_uint) -> c_uint {
    sleep_for(u64::from(seconds) * 1_000_000_000);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn sched_yield() -> c_int {
    // SAFETY: no condition.
    unsafe { aero_thread_yield() };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn sched_getcpu() -> c_int {
    // SAFETY: no condition.
    unsafe { aero_cpu_this() as c_int }
}

/// Number of CPUs.
pub fn cpus() -> u32 {
    // SAFETY: no condition.
    unsafe { aero_cpu_count() }.max(1)
}

#[unsafe(no_mangle)]
pub extern "C" fn get_nprocs() -> c_int {
    cpus() as c_int
}

// Numbers of glibc's <bits/confname.h>.
const PAGE_SIZE: c_int = 30;
const CPUS_CONFIGURED: c_int = 83;
const CPUS_ONLINE: c_int = 84;

#[unsafe(no_mangle)]
pub extern "C" fn sysconf(name: c_int) -> c_long {
    match name {
        PAGE_SIZE => 4096,
        CPUS_CONFIGURED | CPUS_ONLINE => c_long::from(cpus()),
        _ => {
            set_errno(EINVAL);
            -1
        }
    }
}

/// Next CPU for a thread that does not care.
pub fn next_cpu() -> u32 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    (NEXT.fetch_add(1, Ordering::Relaxed) % cpus() as usize) as u32
}
