//! The context switch: pushes the registers that the calling convention preserves onto the stack
//! and stores the stack pointer in the context.

use core::arch::naked_asm;

use arch_contract::fault::Registers;

use super::naked;

/// A suspended flow: its stack pointer. From there upwards its stack holds r15, r14, r13, r12, rbx,
/// rbp and the return address.
#[repr(C)]
#[derive(Default)]
pub struct Context {
    stack_pointer: usize,
}

/// Number of words that a suspended context has on its stack.
const SAVED_WORDS: usize = 7;
/// Frame words of r12 to r15, in that order; the register pushed last is the first word.
const SAVED_R12_TO_R15: [usize; 4] = [3, 2, 1, 0];
const SAVED_RBX: usize = 4;
const SAVED_RBP: usize = 5;
const SAVED_RETURN: usize = 6;

/// First code of a new context: r12 holds the argument, rbx the entry.
#[unsafe(naked)]
extern "C" fn start() -> ! {
    naked_asm!(
        naked::begin!("arch::cpu::context::start"),
        // There is no caller; the chain of frames ends here.
        ".cfi_undefined rip",
        "mov rdi, r12",
        "call rbx",
        "ud2",
        naked::end!(),
    )
}

/// Suspends the running flow into `from` and resumes `to`.
///
/// # Safety
/// As for `arch_contract::Contexts::switch`.
#[unsafe(naked)]
unsafe extern "C" fn switch(from: *mut Context, to: *const Context) {
    naked_asm!(
        naked::begin!("arch::cpu::context::switch"),
        naked::save_preserved!(),
        "mov [rdi], rsp",
        // The resumed flow's stack holds the same frame, so the call frame information still
        // applies.
        "mov rsp, [rsi]",
        naked::restore!("r15"),
        naked::restore!("r14"),
        naked::restore!("r13"),
        naked::restore!("r12"),
        naked::restore!("rbx"),
        naked::restore!("rbp"),
        "ret",
        naked::end!(),
    )
}

/// Suspends the running flow into `from`, then calls `next(argument)` on `stack_top`.
///
/// # Safety
/// As for `arch_contract::Contexts::switch_through`.
#[unsafe(naked)]
unsafe extern "C" fn switch_through(
    from: *mut Context,
    stack_top: usize,
    next: extern "C" fn(usize) -> !,
    argument: usize,
) {
    naked_asm!(
        naked::begin!("arch::cpu::context::switch_through"),
        naked::save_preserved!(),
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "xor ebp, ebp",
        // A backtrace must end here: the suspended flow is no caller of `next`, and may be resumed
        // before `next` ends.
        ".cfi_undefined rip",
        "mov rdi, rcx",
        "call rdx",
        "ud2",
        naked::end!(),
    )
}

/// Resumes `to` and abandons the running flow.
///
/// # Safety
/// As for `arch_contract::Contexts::resume`.
#[unsafe(naked)]
unsafe extern "C" fn resume(to: *const Context) -> ! {
    naked_asm!(
        naked::begin!("arch::cpu::context::resume"),
        "mov rsp, [rdi]",
        ".cfi_def_cfa rsp, {suspended}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        naked::end!(),
        suspended = const 8 * SAVED_WORDS,
    )
}

/// Contexts whose registers are on their stacks.
pub struct Contexts;

impl arch_contract::Contexts for Contexts {
    type Context = Context;

    fn prepare(context: &mut Context, stack_top: usize, entry: extern "C" fn(usize) -> !, argument: usize) {
        let top = stack_top & !15;
        // Two more words than are popped: `start` begins 16-byte aligned, and the chain of frames
        // ends in zeros.
        let words = [0, 0, 0, argument, entry as usize, 0, start as *const () as usize, 0, 0];
        let frame = (top - size_of_val(&words)) as *mut usize;
        // SAFETY: the caller gives an unused stack of at least a page, so the words below its top
        // are free.
        unsafe { frame.cast::<[usize; SAVED_WORDS + 2]>().write(words) };
        context.stack_pointer = frame as usize;
    }

    #[inline(always)]
    unsafe fn switch(from: *mut Context, to: *const Context) {
        // SAFETY: the caller guarantees what both functions require.
        unsafe { switch(from, to) }
    }

    #[inline(always)]
    unsafe fn switch_through(from: *mut Context, stack_top: usize, next: extern "C" fn(usize) -> !, argument: usize) {
        // SAFETY: the caller guarantees what both functions require.
        unsafe { switch_through(from, stack_top, next, argument) }
    }

    #[inline(always)]
    unsafe fn resume(to: *const Context) -> ! {
        // SAFETY: the caller guarantees what both functions require.
        unsafe { resume(to) }
    }

    fn suspended_at(context: &Context) -> Registers {
        let frame = context.stack_pointer as *const usize;
        if frame.is_null() {
            return Registers::default();
        }
        // SAFETY: the context is suspended, so `switch` or `prepare` wrote these words to its
        // stack, which stays mapped.
        let word = |index: usize| unsafe { *frame.add(index) };
        let (frame_pointer, instruction_pointer) = (word(SAVED_RBP), word(SAVED_RETURN));
        let stack_pointer = context.stack_pointer + SAVED_WORDS * size_of::<usize>();
        let mut general = [0; 16];
        // Indices are those of `Registers::names`; the values of registers that a callee need not
        // preserve are unknown.
        for (register, value) in [(1, word(SAVED_RBX)), (6, frame_pointer), (7, stack_pointer)] {
            general[register] = value as u64;
        }
        for (register, index) in (12..16).zip(SAVED_R12_TO_R15) {
            general[register] = word(index) as u64;
        }
        Registers { instruction_pointer, stack_pointer, frame_pointer, general, flags: 0 }
    }

    /// Those of the function this is inlined into, as far as a backtrace needs them.
    #[inline(always)]
    fn registers_here() -> Registers {
        let (instruction_pointer, stack_pointer, frame_pointer);
        // SAFETY: the instructions only read registers and have no side effects.
        unsafe {
            core::arch::asm!(
                "lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
                out(reg) instruction_pointer, out(reg) stack_pointer, out(reg) frame_pointer,
                options(nomem, nostack, preserves_flags)
            );
        }
        let mut general = [0; 16];
        (general[6], general[7]) = (frame_pointer as u64, stack_pointer as u64);
        Registers { instruction_pointer, stack_pointer, frame_pointer, general, flags: 0 }
    }
}
