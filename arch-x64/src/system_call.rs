//! The SYSCALL instruction, taken in ring 0.
//!
//! SYSCALL loads RIP from IA32_LSTAR, CS and SS from IA32_STAR, saves RIP in RCX and RFLAGS in R11, and clears the flags
//! of IA32_FMASK; it changes no stack and asks for no privilege (SDM Vol. 3, 5.8.8). SYSRET would leave ring 0, so the
//! way back is a jump. The kernel has no system calls: who makes one is told so, as Linux tells of numbers it does not know.

use core::arch::{asm, naked_asm};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::gdt::SegmentSelector;

use crate::naked;

/// What a system call returns that does not exist: Linux's ENOSYS, negative.
pub const UNKNOWN: isize = -38;

/// Below the stack pointer, what leaf functions use without reserving it (System V ABI for AMD64, 3.2.2).
const RED_ZONE: usize = 128;

/// Lets this CPU execute SYSCALL. `code` is the kernel's code segment; its data segment stands behind it.
pub fn init(code: SegmentSelector) {
    // SAFETY: the entry returns to its caller with all but RAX, RCX and R11 unchanged; SYSRET is never executed, so its
    // selectors do not matter.
    unsafe {
        Star::write_raw(0, code.0);
        LStar::write(VirtAddr::from_ptr(entry as *const ()));
        SFMask::write(RFlags::INTERRUPT_FLAG | RFlags::TRAP_FLAG | RFlags::DIRECTION_FLAG | RFlags::ALIGNMENT_CHECK);
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
}

#[unsafe(naked)]
extern "C" fn entry() {
    naked_asm!(
        naked::begin!("arch::system_call::entry"),
        // Where it comes from is not on the stack.
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

/// Executes SYSCALL with a number, here in ring 0; what it returns.
#[inline(always)]
pub fn execute(number: usize) -> isize {
    let result;
    // SAFETY: `entry` preserves all other registers and the stack above the pointer, and the red zone.
    unsafe { asm!("syscall", inlateout("rax") number as isize => result, out("rcx") _, out("r11") _) };
    result
}
