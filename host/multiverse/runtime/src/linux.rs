//! Linux's system calls as the runtime makes them: without errno, which needs thread-local storage.

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
