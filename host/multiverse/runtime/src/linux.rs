//! Linux's system calls as the runtime makes them: without errno, which needs thread-local storage.

use std::arch::global_asm;
use std::ffi::c_void;

use hvm::program;
pub use hvm::program::fs_base;

/// A set of signals, as Linux has it: bit N - 1 is signal N.
pub type Mask = u64;

/// All signals.
pub const ALL: Mask = u64::MAX;

/// Makes a system call.
///
/// # Safety
/// As for the call.
#[inline]
pub unsafe fn call(number: i64, arguments: [u64; 6]) -> i64 {
    // SAFETY: the caller answers for it.
    unsafe { program::system_call(number as u64, arguments) as i64 }
}

/// Sets the calling thread's mask, and returns the one before.
pub fn set_mask(mask: Mask) -> Mask {
    let mut before = 0;
    let arguments = [libc::SIG_SETMASK as u64, &raw const mask as u64, &raw mut before as u64, 8, 0, 0];
    // SAFETY: the call changes only the mask, and the word.
    unsafe { call(libc::SYS_rt_sigprocmask, arguments) };
    before
}

/// Copies `size` bytes within the process. Fails if one of the two places is not there, as Linux's
/// own copies for a system call do.
fn copy(number: i64, own: u64, other: u64, size: usize) -> Result<(), i32> {
    let [own, other] = [own, other].map(|base| libc::iovec { iov_base: base as *mut _, iov_len: size });
    // SAFETY: the call changes only the memory that its callers name.
    let copied = unsafe {
        let process = call(libc::SYS_getpid, [0; 6]) as u64;
        call(number, [process, &raw const own as u64, 1, &raw const other as u64, 1, 0])
    };
    if copied == size as i64 {
        return Ok(());
    }
    // Linux does not let a stack grow by that call, and may forbid it. Otherwise this fails too.
    let (from, to) = if number == libc::SYS_process_vm_readv { (other, own) } else { (own, other) };
    // SAFETY: as above; the handler of signals knows the place.
    let failed = unsafe { multiverse_copy(to.iov_base, from.iov_base, size) };
    if failed == 0 { Ok(()) } else { Err(libc::EFAULT) }
}

global_asm!(
    ".globl multiverse_copy, multiverse_copy_at, multiverse_copy_failed",
    "multiverse_copy:",
    "mov rcx, rdx",
    "multiverse_copy_at:",
    "rep movsb",
    "xor eax, eax",
    "ret",
    "multiverse_copy_failed:",
    "mov eax, 1",
    "ret",
);

unsafe extern "C" {
    /// Copies so many bytes; returns 0, or 1 if Linux refuses an access.
    fn multiverse_copy(to: *mut c_void, from: *const c_void, size: usize) -> u32;
    static multiverse_copy_at: u8;
    static multiverse_copy_failed: u8;
}

/// If a signal came at this instruction pointer because a copy cannot be made: where the thread
/// goes on instead.
pub fn leave_copy(at: u64) -> Option<u64> {
    (at == &raw const multiverse_copy_at as u64).then_some(&raw const multiverse_copy_failed as u64)
}

/// Reads what a program has put at an address for a system call.
///
/// # Errors
/// EFAULT.
///
/// # Safety
/// Every pattern of bits is a valid value.
pub unsafe fn read_memory<T: Default>(at: u64) -> Result<T, i32> {
    // SAFETY: the caller answers for it.
    unsafe { read_start(at, size_of::<T>()) }
}

/// As [`read_memory`], for the first bytes of a value whose others stay as they are by default.
///
/// # Errors
/// EFAULT.
///
/// # Safety
/// As for [`read_memory`].
pub unsafe fn read_start<T: Default>(at: u64, size: usize) -> Result<T, i32> {
    let mut value = T::default();
    copy(libc::SYS_process_vm_readv, &raw mut value as u64, at, size.min(size_of::<T>()))?;
    Ok(value)
}

/// Writes what a system call has for its program.
///
/// # Errors
/// EFAULT.
///
/// # Safety
/// The program has given the address for this.
pub unsafe fn write_memory<T>(at: u64, value: &T) -> Result<(), i32> {
    copy(libc::SYS_process_vm_writev, &raw const *value as u64, at, size_of::<T>())
}

/// Operations of arch_prctl (Linux, arch/x86/include/uapi/asm/prctl.h).
pub const ARCH_SET_FS: u64 = 0x1002;
/// See [`ARCH_SET_FS`].
pub const ARCH_GET_FS: u64 = 0x1003;

/// Sets the calling thread's FS base.
///
/// # Safety
/// Code that uses thread-local storage finds that of the address.
pub unsafe fn set_fs_base(base: u64) {
    // SAFETY: the caller answers for it.
    unsafe { call(libc::SYS_arch_prctl, [ARCH_SET_FS, base, 0, 0, 0, 0]) };
}

/// Sends the calling thread a signal.
pub fn raise(signal: u32) {
    // SAFETY: the calls have no effect on this thread but the signal's.
    unsafe {
        let process = call(libc::SYS_getpid, [0; 6]) as u64;
        let thread = call(libc::SYS_gettid, [0; 6]) as u64;
        call(libc::SYS_tgkill, [process, thread, signal.into(), 0, 0, 0]);
    }
}
