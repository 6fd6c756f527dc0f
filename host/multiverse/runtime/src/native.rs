//! Going on outside of the HRT: the program's code runs in user mode as ever, from the state that
//! it had. A child process has to, because a VM is not inherited.

use std::arch::naked_asm;
use std::mem::offset_of;

use hvm::program::Start;
use kvm_bindings::{kvm_regs, kvm_xsave};

use crate::linux::{ARCH_SET_FS, Mask};
use crate::signals;
use crate::thread::SignalStack;

/// A state to go on with, aligned as XRSTOR wants it (SDM Vol. 1, 13.4).
#[repr(C, align(64))]
struct State {
    vectors: kvm_xsave,
    registers: kvm_regs,
    fs_base: u64,
    mask: Mask,
    has_vectors: u64,
}

/// Goes on outside of the HRT for good. All signals are blocked; they are the program's own from
/// now on, with a mask.
pub fn go_on(start: &Start, mask: Mask, stack: &SignalStack) -> ! {
    signals::let_go();
    // SAFETY: the stack is the program's.
    unsafe { crate::linux::call(libc::SYS_sigaltstack, [&raw const *stack as u64, 0, 0, 0, 0, 0]) };
    // SAFETY: the structure consists of words.
    let mut state: State = unsafe { std::mem::zeroed() };
    state.registers = start.registers;
    state.fs_base = start.fs_base;
    state.mask = mask;
    if let Some(vectors) = &start.vectors {
        state.vectors.region = vectors.region;
        state.has_vectors = 1;
    }
    // SAFETY: the state is the thread's.
    unsafe { restore(&state) }
}

/// RFLAGS are those of a system call's end, but for its caller's arithmetic flags.
#[unsafe(naked)]
unsafe extern "C" fn restore(state: &State) -> ! {
    naked_asm!(
        "mov rbx, rdi",
        "cmp qword ptr [rbx + {has_vectors}], 0",
        "je 2f",
        "mov eax, -1",
        "mov edx, -1",
        "xrstor64 [rbx]",
        "2: mov eax, {arch_prctl}",
        "mov edi, {set_fs}",
        "mov rsi, [rbx + {fs_base}]",
        "syscall",
        "mov eax, {set_mask}",
        "mov edi, {how}",
        "lea rsi, [rbx + {mask}]",
        "xor edx, edx",
        "mov r10d, 8",
        "syscall",
        "push qword ptr [rbx + {registers} + {rflags}]",
        "popfq",
        "mov rax, [rbx + {registers} + {rax}]",
        "mov rdx, [rbx + {registers} + {rdx}]",
        "mov rsi, [rbx + {registers} + {rsi}]",
        "mov rdi, [rbx + {registers} + {rdi}]",
        "mov rbp, [rbx + {registers} + {rbp}]",
        "mov r8, [rbx + {registers} + {r8}]",
        "mov r9, [rbx + {registers} + {r9}]",
        "mov r10, [rbx + {registers} + {r10}]",
        "mov r11, [rbx + {registers} + {rflags}]",
        "mov r12, [rbx + {registers} + {r12}]",
        "mov r13, [rbx + {registers} + {r13}]",
        "mov r14, [rbx + {registers} + {r14}]",
        "mov r15, [rbx + {registers} + {r15}]",
        // As SYSCALL leaves it: where the code goes on.
        "mov rcx, [rbx + {registers} + {rip}]",
        "mov rsp, [rbx + {registers} + {rsp}]",
        "mov rbx, [rbx + {registers} + {rbx}]",
        "jmp rcx",
        has_vectors = const offset_of!(State, has_vectors),
        arch_prctl = const libc::SYS_arch_prctl,
        set_fs = const ARCH_SET_FS,
        fs_base = const offset_of!(State, fs_base),
        set_mask = const libc::SYS_rt_sigprocmask,
        how = const libc::SIG_SETMASK,
        mask = const offset_of!(State, mask),
        registers = const offset_of!(State, registers),
        rax = const offset_of!(kvm_regs, rax),
        rbx = const offset_of!(kvm_regs, rbx),
        rdx = const offset_of!(kvm_regs, rdx),
        rsi = const offset_of!(kvm_regs, rsi),
        rdi = const offset_of!(kvm_regs, rdi),
        rbp = const offset_of!(kvm_regs, rbp),
        rsp = const offset_of!(kvm_regs, rsp),
        r8 = const offset_of!(kvm_regs, r8),
        r9 = const offset_of!(kvm_regs, r9),
        r10 = const offset_of!(kvm_regs, r10),
        r12 = const offset_of!(kvm_regs, r12),
        r13 = const offset_of!(kvm_regs, r13),
        r14 = const offset_of!(kvm_regs, r14),
        r15 = const offset_of!(kvm_regs, r15),
        rip = const offset_of!(kvm_regs, rip),
        rflags = const offset_of!(kvm_regs, rflags),
    )
}
