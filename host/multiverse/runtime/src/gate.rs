//! The only place where system calls of the program are made, so that a signal's handler can tell
//! whether one was made, and whether it is over.

use std::arch::global_asm;
use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use kvm_bindings::kvm_regs;

/// The result of a call that was not made, or that is to be made again, because a signal comes
/// first. Linux uses the number likewise, and shows it to no program (include/linux/errno.h,
/// ERESTARTSYS).
pub const AGAIN: u64 = -512_i64 as u64;

global_asm!(
    ".globl multiverse_gate",
    "multiverse_gate:",
    "mov r11, rsi",
    "mov rax, [rdi + {rax}]",
    "mov rsi, [rdi + {rsi}]",
    "mov rdx, [rdi + {rdx}]",
    "mov r10, [rdi + {r10}]",
    "mov r8, [rdi + {r8}]",
    "mov r9, [rdi + {r9}]",
    "mov rdi, [rdi + {rdi}]",
    ".globl multiverse_gate_begin, multiverse_gate_call, multiverse_gate_again",
    "multiverse_gate_begin:",
    "cmp dword ptr [r11], 0",
    "jne multiverse_gate_again",
    "multiverse_gate_call:",
    "syscall",
    "ret",
    "multiverse_gate_again:",
    "mov rax, {again}",
    "ret",
    rax = const offset_of!(kvm_regs, rax),
    rsi = const offset_of!(kvm_regs, rsi),
    rdx = const offset_of!(kvm_regs, rdx),
    r10 = const offset_of!(kvm_regs, r10),
    r8 = const offset_of!(kvm_regs, r8),
    r9 = const offset_of!(kvm_regs, r9),
    rdi = const offset_of!(kvm_regs, rdi),
    again = const AGAIN as i64,
);

unsafe extern "C" {
    fn multiverse_gate(registers: *const kvm_regs, pending: *const AtomicU32) -> u64;
    static multiverse_gate_begin: u8;
    static multiverse_gate_call: u8;
    static multiverse_gate_again: u8;
}

/// Makes the system call of these registers, unless a signal is pending, and returns its result or
/// [`AGAIN`].
///
/// # Safety
/// The call is the program's own, and has no effect on this thread's registers or flow.
pub unsafe fn forward(registers: &kvm_regs, pending: &AtomicU32) -> u64 {
    // SAFETY: the caller answers for the call; the code changes only registers that a function may.
    unsafe { multiverse_gate(registers, pending) }
}

/// If a signal came at this instruction pointer before a call was made, or one is to be made again:
/// where the thread goes on instead, without making it.
pub fn leave(at: u64) -> Option<u64> {
    let [begin, call, again] =
        [&raw const multiverse_gate_begin, &raw const multiverse_gate_call, &raw const multiverse_gate_again]
            .map(|label| label as u64);
    (begin..=call).contains(&at).then_some(again)
}

/// If a signal came at this instruction pointer just behind a call: where the thread goes on to
/// have it made again.
pub fn is_behind(at: u64) -> Option<u64> {
    let [call, again] = [&raw const multiverse_gate_call, &raw const multiverse_gate_again].map(|label| label as u64);
    (at == call + SYSTEM_CALL).then_some(again)
}

/// Length of the instruction `syscall`.
pub const SYSTEM_CALL: u64 = 2;
