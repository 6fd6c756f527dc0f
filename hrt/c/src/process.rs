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

// Linux's error numbers (asm-generic/errno-base.h, asm-generic/errno.h).
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

/// The function behind `errno` in glibc's header.
#[unsafe(no_mangle)]
pub extern "C" fn __errno_location() -> *mut c_int {
    ERRNO.get()
}

pub fn set_errno(number: c_int) {
    // SAFETY: `ERRNO` is thread-local, so only the calling thread accesses it.
    unsafe { ERRNO.get().write(number) };
}

/// A function to call at the program's end, with its argument.
struct AtExit {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    next: *mut AtExit,
}

static AT_EXIT: AtomicPtr<AtExit> = AtomicPtr::new(ptr::null_mut());

/// Registers a function to call at the program's end (Itanium C++ ABI, 3.3.6.3). The functions run
/// in reverse order of registration.
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
        // SAFETY: the entry was just allocated and is not in the list yet, so no other thread
        // accesses it.
        unsafe { entry.write(AtExit { function, argument, next: first }) };
        Some(entry)
    };
    let _ = AT_EXIT.fetch_update(Ordering::AcqRel, Ordering::Acquire, link);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atexit(function: unsafe extern "C" fn()) -> c_int {
    // SAFETY: a function without parameters may be called with an argument, because the caller
    // cleans up the stack (System V ABI).
    let function =
        unsafe { core::mem::transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut c_void)>(function) };
    // SAFETY: the caller of `atexit` passes a function that may run at the program's end.
    unsafe { __cxa_atexit(function, ptr::null_mut(), ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub static mut __dso_handle: *mut c_void = ptr::null_mut();

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_finalize(_: *mut c_void) {
    loop {
        // Functions are taken one at a time, because each may register others.
        let take = |first: *mut AtExit| {
            // SAFETY: entries live until they are taken, and only the exiting thread takes them.
            unsafe { first.as_ref() }.map(|entry| entry.next)
        };
        let Ok(taken) = AT_EXIT.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return };
        // SAFETY: the entry was taken off the list, so this thread owns it, and its function was
        // registered for the program's end.
        unsafe {
            let AtExit { function, argument, .. } = taken.read();
            crate::memory::free(taken.cast());
            function(argument);
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn exit(status: c_int) -> ! {
    // SAFETY: the program ends here, which is when its registered functions and destructors are to
    // run.
    unsafe {
        thread_local::destroy_objects();
        __cxa_finalize(ptr::null_mut());
        call_destructors();
        aero_exit(status)
    }
}

unsafe extern "C" {
    /// The functions to call at the program's end (ELF, DT_FINI_ARRAY); the linker defines the
    /// bounds.
    #[link_name = "__fini_array_start"]
    static FIRST_DESTRUCTOR: [Option<unsafe extern "C" fn()>; 0];
    #[link_name = "__fini_array_end"]
    static LAST_DESTRUCTOR: [Option<unsafe extern "C" fn()>; 0];
}

/// Calls the program's destructor functions, the last one first.
///
/// # Safety
/// The program must be ending, because the functions destroy its static objects.
unsafe fn call_destructors() {
    let (first, mut at) = (
        &raw const FIRST_DESTRUCTOR as *const Option<unsafe extern "C" fn()>,
        &raw const LAST_DESTRUCTOR as *const Option<unsafe extern "C" fn()>,
    );
    while at > first {
        at = at.wrapping_sub(1);
        // SAFETY: the linker places only functions of the program between the two symbols, and the
        // caller guarantees that it ends.
        unsafe {
            if let Some(destructor) = *at {
                destructor();
            }
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the call ends the whole program, so nothing it holds is used afterwards.
    unsafe { aero_exit(status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    // SAFETY: the call ends the whole program, so nothing it holds is used afterwards.
    unsafe { aero_exit(status) }
}

/// Ends the program as failed, with a reason.
pub fn fail(reason: &[u8]) -> ! {
    // SAFETY: the pointer and length are those of a live slice.
    unsafe { aero_panic(reason.as_ptr(), reason.len()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn abort() -> ! {
    fail(b"abort was called")
}

/// Called by functions compiled with stack protectors when their frame was overwritten.
#[unsafe(no_mangle)]
pub extern "C" fn __stack_chk_fail() -> ! {
    fail(b"a function's frame was overwritten (stack protector)")
}

/// Called by glibc's `assert` on failure.
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
        // SAFETY: the pointer is not null, and the compiler passes C strings with static lifetime.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?")
    };
    let mut buffer = crate::output::Buffer::<256>::new();
    let _ = core::fmt::write(
        &mut buffer,
        format_args!("{}:{line}: {}: the assertion `{}` does not hold", text(file), text(function), text(what)),
    );
    fail(buffer.bytes())
}

/// libstdc++ reads this to decide whether it may omit atomic operations; it may not.
#[unsafe(no_mangle)]
pub static __libc_single_threaded: c_char = 0;

/// Returns null: the environment is empty.
#[unsafe(no_mangle)]
pub extern "C" fn getenv(_: *const c_char) -> *mut c_char {
    ptr::null_mut()
}

#[unsafe(no_mangle)]
pub extern "C" fn secure_getenv(_: *const c_char) -> *mut c_char {
    ptr::null_mut()
}

/// An array of pointers with only its terminating null.
#[repr(transparent)]
pub struct Environment([*mut c_char; 1]);

// SAFETY: the library never writes to it, so threads may share it.
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
    /// Returns the time in nanoseconds; `None` if a part is out of range.
    pub fn nanoseconds(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanoseconds = u64::try_from(self.nanoseconds).ok().filter(|&part| part < 1_000_000_000)?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }
}

/// Returns the nanoseconds since the kernel was entered.
pub fn now() -> u64 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { aero_time_ns() }
}

/// Returns the kernel's time for every clock. It begins with the kernel's start: the kernel does
/// not know the date.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(_: c_int, time: *mut TimeSpec) -> c_int {
    let now = now();
    // SAFETY: the caller passes a place for the time that is valid for writes.
    unsafe {
        time.write(TimeSpec { seconds: (now / 1_000_000_000) as i64, nanoseconds: (now % 1_000_000_000) as c_long });
    }
    0
}

/// Returns the time since the kernel was entered. The only supported base is TIME_UTC, 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timespec_get(time: *mut TimeSpec, base: c_int) -> c_int {
    if base != 1 {
        return 0;
    }
    // SAFETY: the caller passes a place for the time that is valid for writes.
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
    // SAFETY: the caller passes a place for the time that is valid for writes.
    unsafe { time.write(TimeVal { seconds: (now / 1_000_000) as i64, microseconds: (now % 1_000_000) as c_long }) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(place: *mut i64) -> i64 {
    let seconds = (now() / 1_000_000_000) as i64;
    if !place.is_null() {
        // SAFETY: the pointer is not null, so the caller passes a place that is valid for writes.
        unsafe { place.write(seconds) };
    }
    seconds
}

/// Returns the time in units of `CLOCKS_PER_SEC`, which POSIX defines as one million.
#[unsafe(no_mangle)]
pub extern "C" fn clock() -> c_long {
    (now() / 1000) as c_long
}

fn sleep_for(nanoseconds: u64) {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { aero_thread_sleep(now().saturating_add(nanoseconds)) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(wanted: *const TimeSpec, left: *mut TimeSpec) -> c_int {
    // SAFETY: the caller passes a readable `timespec`, as POSIX requires for the requested time.
    let Some(nanoseconds) = unsafe { *wanted }.nanoseconds() else {
        set_errno(EINVAL);
        return -1;
    };
    sleep_for(nanoseconds);
    if !left.is_null() {
        // SAFETY: the pointer is not null, so the caller passes a place that is valid for writes.
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
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { aero_thread_yield() };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn sched_getcpu() -> c_int {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { aero_cpu_this() as c_int }
}

/// Returns the number of CPUs.
pub fn cpus() -> u32 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { aero_cpu_count() }.max(1)
}

#[unsafe(no_mangle)]
pub extern "C" fn get_nprocs() -> c_int {
    cpus() as c_int
}

// Numbers from glibc's <bits/confname.h>.
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

/// Returns the next CPU for a thread that does not choose one.
pub fn next_cpu() -> u32 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    (NEXT.fetch_add(1, Ordering::Relaxed) % cpus() as usize) as u32
}
