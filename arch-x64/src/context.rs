//! The context switch: what the calling convention preserves goes to the stack, the stack pointer into the context.

use core::arch::naked_asm;

use arch_contract::fault::Registers;

/// A suspended flow: its stack pointer. On its stack, from the top: r15, r14, r13, r12, rbx, rbp, return address.
#[repr(C)]
#[derive(Default)]
pub struct Context {
    stack_pointer: usize,
}

/// Words a suspended context has on its stack.
const SAVED_WORDS: usize = 7;
const SAVED_RBP: usize = 5;
const SAVED_RETURN: usize = 6;

/// Prepares `context` so that the first switch to it calls `entry(argument)` on `stack_top`.
pub fn prepare(context: &mut Context, stack_top: usize, entry: extern "C" fn(usize) -> !, argument: usize) {
    let top = stack_top & !15;
    // Two more words than are popped: `start` begins 16-byte aligned, and the frame chain ends in zeros.
    let words = [0, 0, 0, argument, entry as usize, 0, start as *const () as usize, 0, 0];
    let frame = (top - size_of_val(&words)) as *mut usize;
    // SAFETY: the caller gives a stack that nothing uses, with at least a page.
    unsafe { frame.cast::<[usize; SAVED_WORDS + 2]>().write(words) };
    context.stack_pointer = frame as usize;
}

/// First code of a new context: r12 = argument, rbx = entry.
#[unsafe(naked)]
extern "C" fn start() -> ! {
    naked_asm!("mov rdi, r12", "call rbx", "ud2")
}

/// Suspends the running flow into `from` and resumes `to`.
///
/// # Safety
/// As `arch_contract::Architecture::switch`.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: *mut Context, to: *const Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, [rsi]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Suspends the running flow into `from`, then calls `next(argument)` on `stack_top`.
///
/// # Safety
/// As `arch_contract::Architecture::switch_through`.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_through(
    from: *mut Context,
    stack_top: usize,
    next: extern "C" fn(usize) -> !,
    argument: usize,
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "xor ebp, ebp",
        "mov rdi, rcx",
        "call rdx",
        "ud2",
    )
}

/// Resumes `to`, giving up the running flow.
///
/// # Safety
/// As `arch_contract::Architecture::resume`.
#[unsafe(naked)]
pub unsafe extern "C" fn resume(to: *const Context) -> ! {
    naked_asm!("mov rsp, [rdi]", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret",)
}

/// Where a suspended context goes on.
pub fn suspended_at(context: &Context) -> Registers {
    let frame = context.stack_pointer as *const usize;
    if frame.is_null() {
        return Registers::default();
    }
    // SAFETY: the context is suspended, so these words are on its stack, which stays mapped.
    let (frame_pointer, instruction_pointer) = unsafe { (*frame.add(SAVED_RBP), *frame.add(SAVED_RETURN)) };
    Registers {
        instruction_pointer,
        stack_pointer: context.stack_pointer + SAVED_WORDS * size_of::<usize>(),
        frame_pointer,
        ..Registers::default()
    }
}

/// Registers of the caller of the function this is inlined into, as far as a backtrace needs them.
#[inline(always)]
pub fn registers_here() -> Registers {
    let (instruction_pointer, stack_pointer, frame_pointer);
    // SAFETY: only reads registers.
    unsafe {
        core::arch::asm!(
            "lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
            out(reg) instruction_pointer, out(reg) stack_pointer, out(reg) frame_pointer,
            options(nomem, nostack, preserves_flags)
        );
    }
    Registers { instruction_pointer, stack_pointer, frame_pointer, ..Registers::default() }
}
