//! Linux's clone3.

use std::arch::naked_asm;

/// Arguments of clone3 (Linux, include/uapi/linux/sched.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CloneArguments {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// Makes a thread or process that begins with a function on a stack of its own. Returns Linux's
/// result.
///
/// # Safety
/// The function never returns, and may use its argument.
pub unsafe fn clone_to(arguments: &CloneArguments, function: extern "C" fn(usize) -> !, argument: usize) -> i64 {
    // SAFETY: the caller answers for it.
    unsafe { clone_with(arguments, size_of::<CloneArguments>(), function, argument) }
}

#[unsafe(naked)]
unsafe extern "C" fn clone_with(
    arguments: *const CloneArguments,
    size: usize,
    function: extern "C" fn(usize) -> !,
    argument: usize,
) -> i64 {
    naked_asm!(
        "mov r8, rdx",
        "mov r9, rcx",
        "mov eax, {clone3}",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "ret",
        "2: xor ebp, ebp",
        "mov rdi, r9",
        "call r8",
        "ud2",
        clone3 = const libc::SYS_clone3,
    )
}
