//! Linux's system calls as the runtime makes them: without errno, which needs thread-local storage.

use std::arch::asm;

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
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result;
    // SAFETY: Linux preserves all registers but RAX, RCX and R11 (System V ABI AMD64, A.2.1).
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
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

/// The calling thread's FS base.
pub fn fs_base() -> u64 {
    let mut base = 0;
    // SAFETY: Linux writes the word.
    unsafe { call(libc::SYS_arch_prctl, [ARCH_GET_FS, &raw mut base as u64, 0, 0, 0, 0]) };
    base
}

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
