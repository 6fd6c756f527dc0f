//! The SYSCALL instruction, executed in ring 0.
//!
//! SYSCALL loads RIP from IA32_LSTAR, CS and SS from IA32_STAR, saves RIP in RCX and RFLAGS in R11,
//! and clears the flags in IA32_FMASK; it switches no stack and requires no privilege (SDM Vol. 3,
//! 5.8.8). SYSRET would leave ring 0, so the return is a jump. The kernel has no system calls:
//! every call fails as an unknown system call does on Linux.

use core::arch::{asm, naked_asm};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::gdt::SegmentSelector;

use super::naked;

/// Result of an unknown system call: Linux's ENOSYS, negative.
pub const UNKNOWN: isize = -38;

/// Bytes below the stack pointer that leaf functions use without reserving them (System V ABI for
/// AMD64, 3.2.2).
const RED_ZONE: usize = 128;

/// Enables SYSCALL on this CPU. `code` is the kernel's code segment; its data segment is the next
/// descriptor.
pub fn init(code: SegmentSelector) {
    // SAFETY: the entry returns to its caller with only RAX, RCX and R11 changed; SYSRET is never
    // executed, so its selectors do not matter.
    unsafe {
        Star::write_raw(0, code.0);
        set_usual_entry();
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
}

/// Flags that SYSCALL clears on its way to [`entry`].
const MASKED: RFlags =
    RFlags::INTERRUPT_FLAG.union(RFlags::TRAP_FLAG).union(RFlags::DIRECTION_FLAG).union(RFlags::ALIGNMENT_CHECK);

/// Makes this CPU's SYSCALL fail again, as [`init`] does.
pub fn set_usual_entry() {
    LStar::write(VirtAddr::from_ptr(entry as *const ()));
    SFMask::write(MASKED);
}

/// Makes this CPU's SYSCALL lead to other code, with the flags as they are.
///
/// # Safety
/// The code returns to the address in RCX with only RAX, RCX and R11 changed. It may use no stack
/// without regard to the red zone.
pub unsafe fn set_entry(code: *const ()) {
    LStar::write(VirtAddr::from_ptr(code));
    SFMask::write(RFlags::empty());
}

#[unsafe(naked)]
extern "C" fn entry() {
    naked_asm!(
        naked::begin!("arch::cpu::system_call::entry"),
        // SYSCALL leaves the return address in RCX, not on the stack.
        ".cfi_register rip, rcx",
        ".cfi_def_cfa rsp, 0",
        "lea rsp, [rsp - {red_zone}]",
        ".cfi_adjust_cfa_offset {red_zone}",
        "push r11",
        ".cfi_adjust_cfa_offset 8",
        "mov rax, {unknown}",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "lea rsp, [rsp + {red_zone}]",
        ".cfi_adjust_cfa_offset -{red_zone}",
        "jmp rcx",
        naked::end!(),
        red_zone = const RED_ZONE,
        unknown = const UNKNOWN,
    )
}

/// Executes SYSCALL with a number, in ring 0, and returns its result.
#[inline(always)]
pub fn execute(number: usize) -> isize {
    let result;
    // SAFETY: `entry` preserves all other registers, the stack above the pointer, and the red zone.
    unsafe { asm!("syscall", inlateout("rax") number as isize => result, out("rcx") _, out("r11") _) };
    result
}
