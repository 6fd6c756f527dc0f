//! System calls on behalf of functions in the HRT, by their partner thread. Nothing here touches
//! errno or allocates: the function that was interrupted may be using both.

use std::arch::asm;

/// Linux's ENOSYS, as a result.
const NOT_THERE: u64 = -38_i64 as u64;
/// Operation of arch_prctl that reads FS base (Linux, arch/x86/include/uapi/asm/prctl.h).
const ARCH_GET_FS: u64 = 0x1003;

/// Whether a system call's effect is on the caller's registers or on its very flow of control,
/// which is that of the partner here.
fn is_refused(number: u64) -> bool {
    matches!(
        number as i64,
        libc::SYS_fork
            | libc::SYS_vfork
            | libc::SYS_clone
            | libc::SYS_clone3
            | libc::SYS_rt_sigreturn
            | libc::SYS_arch_prctl
            | libc::SYS_modify_ldt
    )
}

/// Makes a system call for a function in the HRT, and returns its result. The calls that cannot be
/// forwarded fail as unknown ones do.
///
/// # Safety
/// The call is the process's own.
pub unsafe fn forward(number: u64, arguments: [u64; 6]) -> u64 {
    if is_refused(number) {
        return NOT_THERE;
    }
    // SAFETY: the caller answers for it.
    unsafe { make(number, arguments) }
}

/// Makes a system call.
///
/// # Safety
/// The call does no harm to this process.
#[inline]
pub unsafe fn make(number: u64, arguments: [u64; 6]) -> u64 {
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

/// The calling thread's id.
pub fn thread_id() -> u64 {
    // SAFETY: the call only returns a number.
    unsafe { make(libc::SYS_gettid as u64, [0; 6]) }
}

/// The calling thread's FS base.
pub fn fs_base() -> u64 {
    let mut base = 0_u64;
    // SAFETY: Linux writes the base to the word.
    unsafe { make(libc::SYS_arch_prctl as u64, [ARCH_GET_FS, &raw mut base as u64, 0, 0, 0, 0]) };
    base
}

/// Sends a signal to a thread of this process; nothing happens if it has ended.
pub fn kick(thread: u64, signal: i32) {
    let process = u64::from(std::process::id());
    // SAFETY: the signal's handler does nothing.
    unsafe { make(libc::SYS_tgkill as u64, [process, thread, signal as u64, 0, 0, 0]) };
}
