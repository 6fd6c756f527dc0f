//! `setjmp` and `longjmp`: the registers that a callee preserves (System V ABI, AMD64 supplement,
//! 3.2.1). There are no signals, so no signal mask is saved.

use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setjmp(_: *mut c_void) -> c_int {
    naked_asm!(
        "mov [rdi], rbx",
        "mov [rdi + 8], rbp",
        "mov [rdi + 16], r12",
        "mov [rdi + 24], r13",
        "mov [rdi + 32], r14",
        "mov [rdi + 40], r15",
        "lea rax, [rsp + 8]",
        "mov [rdi + 48], rax",
        "mov rax, [rsp]",
        "mov [rdi + 56], rax",
        "stmxcsr [rdi + 64]",
        "fnstcw [rdi + 68]",
        "xor eax, eax",
        "ret",
    )
}

/// The name that glibc's header uses for `setjmp`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _setjmp(_: *mut c_void) -> c_int {
    naked_asm!("jmp {}", sym setjmp)
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sigsetjmp(_: *mut c_void, _: c_int) -> c_int {
    naked_asm!("jmp {}", sym setjmp)
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn longjmp(_: *mut c_void, _: c_int) -> ! {
    naked_asm!(
        "mov eax, esi",
        // A value of 0 is returned as 1.
        "cmp eax, 1",
        "adc eax, 0",
        "mov rbx, [rdi]",
        "mov rbp, [rdi + 8]",
        "mov r12, [rdi + 16]",
        "mov r13, [rdi + 24]",
        "mov r14, [rdi + 32]",
        "mov r15, [rdi + 40]",
        "mov rsp, [rdi + 48]",
        "ldmxcsr [rdi + 64]",
        "fldcw [rdi + 68]",
        "jmp [rdi + 56]",
    )
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _longjmp(_: *mut c_void, _: c_int) -> ! {
    naked_asm!("jmp {}", sym longjmp)
}

#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn siglongjmp(_: *mut c_void, _: c_int) -> ! {
    naked_asm!("jmp {}", sym longjmp)
}

/// Returns the address of a thread-local variable, given by module and offset, for code that was
/// not compiled for programs. The word after the thread pointer holds the start of the thread's
/// block.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tls_get_addr(_: *const [usize; 2]) -> *mut c_void {
    naked_asm!("mov rax, fs:[8]", "add rax, [rdi + 8]", "ret")
}
