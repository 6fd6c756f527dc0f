//! What the versions of the C library's functions in the HRT have in common: how they call the
//! kernel, and how they leave a call to the library's own function.
//!
//! They run in the program's threads, in the kernel's mode, with the program's thread-local
//! storage: nothing here may use the runtime's own.

use std::arch::asm;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::available_parallelism;

use hvm::program::{Member, function};

use super::{kernel_function, pthread, sleep};
use crate::{linux, process};

/// What a version returns to leave the call to the library's own function.
pub const TO_ORIGINAL: i32 = i32::MIN;

/// A version of a function.
pub struct Version {
    /// Its address.
    pub function: u64,
    original: &'static AtomicU64,
}

impl Version {
    /// One whose function finds the original's address in a word.
    pub fn new(function: unsafe extern "C" fn(), original: &'static AtomicU64) -> Self {
        Self { function: function as *const () as u64, original }
    }

    /// Keeps where the library's own function is from now on.
    pub fn keep_original(&self, at: u64) {
        self.original.store(at, Ordering::Release);
    }
}

/// Defines `$name`, which calls `$version` with its arguments, up to four, and goes on with the
/// library's own function if that returns [`TO_ORIGINAL`], as if that had been called.
macro_rules! entry {
    ($name:ident, $original:ident, $version:path) => {
        static $original: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "sub rsp, 8",
                "call {version}",
                "add rsp, 8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "cmp eax, {to_original}",
                "je 2f",
                "ret",
                "2: jmp [rip + {original}]",
                version = sym $version,
                to_original = const $crate::overrides::shipped::TO_ORIGINAL,
                original = sym $original,
            )
        }
    };
}
pub(super) use entry;

/// The version of a function.
pub fn version(symbol: &str) -> Option<Version> {
    pthread::version(symbol).or_else(|| sleep::version(symbol))
}

/// Prepares a family's versions for a program, whose functions `find` finds.
///
/// # Errors
/// Says why they do not work for it.
pub fn prepare(family: &str, find: impl Fn(&str) -> Option<u64>) -> Result<(), String> {
    // Functions of a dynamic program, and of a static one.
    let is_glibc = find("gnu_get_libc_version").is_some() || find("__libc_setup_tls").is_some();
    match family {
        "pthread" if !is_glibc => Err("the versions here are for glibc".into()),
        "nanosleep" => find("__errno_location").map(sleep::keep_errno).ok_or("the program has no errno".into()),
        _ => Ok(()),
    }
}

/// Functions of the kernel.
struct Kernel {
    gate: AtomicU64,
    wait_begin: AtomicU64,
    wait_end: AtomicU64,
    wake: AtomicU64,
    look_again: AtomicU64,
    time: AtomicU64,
}

static KERNEL: Kernel = Kernel {
    gate: AtomicU64::new(0),
    wait_begin: AtomicU64::new(0),
    wait_end: AtomicU64::new(0),
    wake: AtomicU64::new(0),
    look_again: AtomicU64::new(0),
    time: AtomicU64::new(0),
};

/// CPUs that Linux has for the process.
static CPUS: AtomicU64 = AtomicU64::new(1);

/// For how long a waiting thread's CPU polls, in microseconds.
static POLL_US: AtomicU64 = AtomicU64::new(0);

/// Looks up the kernel's functions.
///
/// # Errors
/// Says which is missing.
pub fn start(poll_us: u64) -> Result<(), String> {
    for (name, place) in [
        (function::GATE, &KERNEL.gate),
        (function::WAIT_BEGIN, &KERNEL.wait_begin),
        (function::WAIT_END, &KERNEL.wait_end),
        (function::WAKE, &KERNEL.wake),
        (function::LOOK_AGAIN, &KERNEL.look_again),
        ("aero_time_ns", &KERNEL.time),
    ] {
        place.store(kernel_function(name)?, Ordering::Release);
    }
    POLL_US.store(poll_us, Ordering::Relaxed);
    CPUS.store(available_parallelism().map_or(1, |count| count.get() as u64), Ordering::Relaxed);
    Ok(())
}

/// Has a thread's CPU poll where it waits, if another one may end the wait meanwhile.
pub fn poll(member: &Member) {
    if gate() != 0 {
        let cycles = process::hvm().cycle_khz() * POLL_US.load(Ordering::Relaxed) / 1000;
        member.poll_for(cycles, CPUS.load(Ordering::Relaxed));
    }
}

/// Where functions of the kernel are called.
pub fn gate() -> u64 {
    KERNEL.gate.load(Ordering::Relaxed)
}

/// Whether there are more threads than CPUs, so that one that waits for another may have to make
/// room.
pub fn is_crowded() -> bool {
    process::threads() > CPUS.load(Ordering::Relaxed)
}

/// Calls a function of the kernel. Returns 0 outside of the HRT, where a child may be that a
/// signal's handler has forked within a version.
fn kernel(function: &AtomicU64, arguments: [u64; 3]) -> u64 {
    let code: u64;
    // SAFETY: the instruction only reads the register, whose lowest bits are the privilege level.
    unsafe { asm!("mov {}, cs", out(reg) code, options(nomem, nostack, preserves_flags)) };
    if code & 3 != 0 {
        return 0;
    }
    let [first, second, third] = arguments;
    let result;
    // SAFETY: the function follows the C convention by way of the gate, and is one of those above,
    // whose arguments its callers answer for.
    unsafe {
        asm!(
            "call {gate}",
            gate = in(reg) gate(),
            inlateout("rdi") first => _,
            inlateout("rsi") second => _,
            inlateout("rdx") third => _,
            inlateout("r11") function.load(Ordering::Relaxed) => _,
            lateout("rax") result,
            clobber_abi("C"),
        );
    }
    result
}

/// A word that stops nothing.
pub static NOTHING: AtomicU32 = AtomicU32::new(0);

/// Begins to wait for a word that has this value; `None` if it has another.
pub fn wait_begin(word: &AtomicU32, value: u32) -> Option<u64> {
    let number = kernel(&KERNEL.wait_begin, [word.as_ptr() as u64, value.into(), 0]);
    (number != 0).then_some(number)
}

/// Waits until the word is woken; returns one of [`hvm::program::waited`].
pub fn wait_end(number: u64, deadline_ns: u64, stop: &AtomicU32) -> u64 {
    kernel(&KERNEL.wait_end, [number, deadline_ns, stop.as_ptr() as u64])
}

/// Wakes threads that wait for a word in the HRT, at most so many. Returns their number.
pub fn wake_here(word: &AtomicU32, most: u32) -> u64 {
    kernel(&KERNEL.wake, [word.as_ptr() as u64, most.into(), 0])
}

/// Wakes threads that wait for a word, in the HRT or, if there are none, in Linux.
pub fn wake(word: &AtomicU32, most: u32) {
    if wake_here(word, most) == 0 {
        wake_in_linux(word, most);
    }
}

/// Wakes threads that wait for a word in Linux.
pub fn wake_in_linux(word: &AtomicU32, most: u32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the call only wakes. Without waiters it does not leave the HRT.
    unsafe { call(libc::SYS_futex, [word.as_ptr() as u64, operation as u64, most.into(), 0]) };
}

/// Waits for a word in Linux, if it has this value. Returns Linux's result.
pub fn wait_in_linux(word: &AtomicU32, value: u32, deadline_ns: u64) -> i64 {
    let left = deadline_ns.saturating_sub(time_ns()) as i64;
    let time = libc::timespec { tv_sec: left / SECOND, tv_nsec: left % SECOND };
    let limit = if deadline_ns == u64::MAX { std::ptr::null() } else { &raw const time };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the call only waits.
    unsafe { call(libc::SYS_futex, [word.as_ptr() as u64, operation as u64, value.into(), limit as u64]) }
}

/// Has all waits look again at the words that stop them.
pub fn look_again() {
    kernel(&KERNEL.look_again, [0; 3]);
}

/// The kernel's clock, in nanoseconds.
pub fn time_ns() -> u64 {
    kernel(&KERNEL.time, [0; 3])
}

/// Makes a system call from the HRT.
///
/// # Safety
/// As for the call.
pub unsafe fn call(number: i64, arguments: [u64; 4]) -> i64 {
    let [first, second, third, fourth] = arguments;
    // SAFETY: the caller answers for it.
    unsafe { linux::call(number, [first, second, third, fourth, 0, 0]) }
}

/// The calling thread's id in Linux, without leaving the HRT.
pub fn thread_id() -> u32 {
    // SAFETY: the call only returns a number.
    unsafe { call(libc::SYS_gettid, [0; 4]) as u32 }
}

/// Nanoseconds of a second.
pub const SECOND: i64 = 1_000_000_000;

/// Reads one of Linux's clocks that the vDSO has.
pub fn now(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the time. It needs no thread-local storage where it succeeds,
    // and these clocks are always there.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}

/// Nanoseconds until a point in time of such a clock; negative if it has passed.
pub fn time_left(clock: libc::clockid_t, time: &libc::timespec) -> i64 {
    let now = now(clock);
    let seconds = time.tv_sec.saturating_sub(now.tv_sec);
    seconds.saturating_mul(SECOND).saturating_add(time.tv_nsec - now.tv_nsec)
}

/// Converts a point in time of such a clock to the kernel's clock; 0 if it has passed.
///
/// # Errors
/// EINVAL for a time that is none.
pub fn deadline(clock: libc::clockid_t, time: &libc::timespec) -> Result<u64, i32> {
    if !(0..SECOND).contains(&time.tv_nsec) {
        return Err(libc::EINVAL);
    }
    let left = time_left(clock, time);
    Ok(if left <= 0 { 0 } else { time_ns().saturating_add(left as u64) })
}
