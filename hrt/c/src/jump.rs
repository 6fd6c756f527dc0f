//! `setjmp` and `longjmp`: the registers a callee keeps (System V ABI, AMD64 supplement, 3.2.1). There are no signals whose mask
//! would have to be kept.

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

/// The name in glibc's header.
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
        // 0 comes back as 1.
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

/// Where a thread-local variable of the program is, by module and offset: for code that was not compiled for programs. The
/// word behind the thread pointer has where the thread's block begins.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __tls_get_addr(_: *const [usize; 2]) -> *mut c_void {
    naked_asm!("mov rax, fs:[8]", "add rax, [rdi + 8]", "ret")
}
