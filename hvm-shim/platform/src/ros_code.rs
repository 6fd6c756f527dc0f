//! Running functions of the ROS on a CPU that a partner thread runs: on the ROS's stack, with the
//! ROS's system calls.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use arch_x64::cpu::block;
use arch_x64::cpu::naked;
use arch_x64::cpu::paging::{PHYSICAL_OFFSET, physical_to_virtual};
use arch_x64::cpu::system_call;
use protocol::boot::Extension;
use protocol::group::{COMES_BACK, Group, SIZE, Synchronous, port};

/// Physical address of the groups' pages, 0 if there are none.
static PAGES: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Keeps where the groups' pages are.
pub(crate) fn keep(extension: &Extension) {
    PAGES.store(extension.groups, Ordering::Relaxed);
    COUNT.store(if extension.groups == 0 { 0 } else { extension.pages }, Ordering::Relaxed);
}

/// Returns the pages of the execution groups that there can be.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    let start = PAGES.load(Ordering::Relaxed);
    // SAFETY: the pages are mapped like all memory that the monitor shares, and consist of atomics
    // only, as both sides agree.
    (0..COUNT.load(Ordering::Relaxed))
        .map(move |number| unsafe { &*physical_to_virtual(start + number * SIZE as u64).cast::<Group>() })
}

/// Whether an address lies in the half that belongs to the ROS.
pub fn is_of_ros(address: u64) -> bool {
    address < PHYSICAL_OFFSET as u64
}

/// The group whose CPU this is, and its number; `None` on the HRT's own CPUs.
pub fn group_here() -> Option<(&'static Group, usize)> {
    let at = block::platform_word();
    // SAFETY: the word is 0 or comes from `forward_system_calls`.
    let group = unsafe { (at as *const Group).as_ref() }?;
    let start = physical_to_virtual(PAGES.load(Ordering::Relaxed)) as usize;
    Some((group, (at - start) / SIZE))
}

/// Makes this CPU's system calls leave the HRT, to the partner thread of its group, but for those
/// that can be answered here.
pub fn forward_system_calls(group: &'static Group) {
    block::set_platform_word(core::ptr::from_ref(group) as usize);
    // SAFETY: the code below returns to its caller with only RAX, RCX and R11 changed.
    unsafe { system_call::set_entry(forward as *const ()) };
}

/// Numbers of system calls (Linux, arch/x86/entry/syscalls/syscall_64.tbl), and the operation
/// FUTEX_WAKE of a private futex (include/uapi/linux/futex.h).
const GETPID: i32 = 39;
const GETTID: i32 = 186;
const FUTEX: i32 = 202;
const WAKE_PRIVATE: i32 = 1 | 128;

/// The partner sees the registers as SYSCALL left them but for R11, and sets RAX. No instruction
/// here changes a flag and no stack is used, so that the ROS's code may use both as it likes; RCX
/// and R11 are free, as after SYSCALL (SDM Vol. 2B).
#[unsafe(naked)]
extern "C" fn forward() {
    naked_asm!(
        "mov r11, rcx",
        "lea rcx, [rax - {getpid}]",
        "jrcxz 3f",
        "lea rcx, [rax - {gettid}]",
        "jrcxz 4f",
        "lea rcx, [rax - {futex}]",
        "jrcxz 6f",
        "2: mov rcx, r11",
        "out {port}, al",
        "jmp rcx",
        // The process's id, and the thread's.
        "3: mov rcx, gs:[{group}]",
        "mov rcx, [rcx + {process}]",
        "jrcxz 2b",
        "jmp 5f",
        "4: mov rcx, gs:[{group}]",
        "mov rcx, [rcx + {thread}]",
        "jrcxz 2b",
        "5: mov rax, rcx",
        "mov rcx, r11",
        "jmp rcx",
        // A futex: of whose address are as many waiters as the table says.
        "6: lea ecx, [rsi - {wake}]",
        "jrcxz 7f",
        "jmp 2b",
        // The word has been written before the table, and its address, are looked at.
        "7: mfence",
        "mov rcx, gs:[{group}]",
        "mov rcx, [rcx + {waiters}]",
        "jrcxz 2b",
        "movzx eax, di",
        "mov ecx, [rcx + rax]",
        "mov eax, 0",
        "jrcxz 8f",
        "mov eax, {futex}",
        "jmp 2b",
        "8: mov rcx, r11",
        "jmp rcx",
        getpid = const GETPID,
        gettid = const GETTID,
        futex = const FUTEX,
        wake = const WAKE_PRIVATE,
        port = const port::SYSTEM_CALL,
        group = const block::PLATFORM_WORD,
        process = const offset_of!(Group, process),
        thread = const offset_of!(Group, partner),
        waiters = const offset_of!(Group, futex_waiters),
    )
}

/// Where the ROS's code calls a function of the kernel, whose address is in R11, with the C
/// convention (System V ABI AMD64, 3.2.3). The function runs on the stack on which the group's
/// thread called the ROS's code. Its frame here has the ROS's stack pointer in RBX.
#[unsafe(naked)]
pub extern "C" fn enter_kernel() {
    naked_asm!(
        naked::begin!("platform::ros_code::enter_kernel"),
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        "mov rbx, rsp",
        ".cfi_def_cfa_register rbx",
        "mov r10, gs:[{group}]",
        "mov qword ptr [r10 + {in_kernel}], 1",
        "mov rsp, [r10 + {stack}]",
        "and rsp, -16",
        "call r11",
        "mov r10, gs:[{group}]",
        "mov rsp, rbx",
        // From here on, the partner does not wait for the call below.
        "mov qword ptr [r10 + {in_kernel}], 0",
        "cmp qword ptr [r10 + {is_wanted}], 0",
        "pop rbx",
        ".cfi_def_cfa rsp, 8",
        "jne 2f",
        "ret",
        "2: mov rdx, rax",
        "mov rax, {comes_back}",
        "pop rcx",
        "out {port}, al",
        "ud2",
        naked::end!(),
        group = const block::PLATFORM_WORD,
        in_kernel = const offset_of!(Group, in_kernel),
        is_wanted = const offset_of!(Group, is_wanted),
        stack = const offset_of!(Group, way_back) + size_of::<u64>(),
        comes_back = const COMES_BACK as i64,
        port = const port::SYSTEM_CALL,
    )
}

/// Where a program's thread leaves the HRT because of an exception: no register but RIP differs
/// from what it was, and no stack is used.
#[unsafe(naked)]
pub extern "C" fn leave_for_exception() {
    naked_asm!("out {port}, al", "ud2", port = const port::EXCEPTION)
}

/// The words through which the code below asks, by their address.
static WORDS: AtomicU64 = AtomicU64::new(0);

/// Makes this CPU's system calls ask for their results in words that the ROS polls; `None` makes
/// them fail again.
pub fn poll_for_system_calls(words: Option<&'static Synchronous>) {
    match words {
        Some(words) => {
            WORDS.store(core::ptr::from_ref(words) as u64, Ordering::Release);
            // SAFETY: the code below returns to its caller with only RAX, RCX and R11 changed.
            unsafe { system_call::set_entry(ask as *const ()) };
        }
        None => system_call::set_usual_entry(),
    }
}

/// As [`forward`], by the words. No instruction here changes a flag; RCX and R11 are free, as after
/// SYSCALL (SDM Vol. 2B).
#[unsafe(naked)]
extern "C" fn ask() {
    naked_asm!(
        "mov r11, [rip + {words}]",
        "mov [r11 + {return_address}], rcx",
        "mov [r11 + {call}], rax",
        "mov [r11 + {call} + 8], rdi",
        "mov [r11 + {call} + 16], rsi",
        "mov [r11 + {call} + 24], rdx",
        "mov [r11 + {call} + 32], r10",
        "mov [r11 + {call} + 40], r8",
        "mov [r11 + {call} + 48], r9",
        "mov qword ptr [r11 + {is_answered}], 0",
        "mov qword ptr [r11 + {is_asked}], 1",
        "2: pause",
        "mov rcx, [r11 + {is_answered}]",
        "jrcxz 2b",
        "mov rax, [r11 + {answer}]",
        "jmp [r11 + {return_address}]",
        words = sym WORDS,
        return_address = const offset_of!(Synchronous, return_address),
        call = const offset_of!(Synchronous, call),
        is_answered = const offset_of!(Synchronous, is_answered),
        is_asked = const offset_of!(Synchronous, is_asked),
        answer = const offset_of!(Synchronous, answer),
    )
}

/// Tells the partner that the call is done, and returns with the next one.
pub fn done() {
    // SAFETY: the instruction changes no register; the partner changes only the group's page and
    // the ROS's memory.
    unsafe { asm!("out {port}, al", port = const port::DONE, options(nostack, preserves_flags)) };
}

/// Calls a group's function on its stack. Returns its result; nothing is known of that if the call
/// was left by its way back, which the group keeps: a CPU that continues at these two, instruction
/// pointer and stack pointer, leaves the function.
///
/// # Safety
/// The ROS answers for the function and for the stack, whose top is aligned to 16 bytes.
pub unsafe fn call_for(group: &Group) -> u64 {
    let word = |word: &AtomicU64| word.load(Ordering::Acquire);
    let [first, second] = group.arguments.each_ref().map(word);
    // SAFETY: the caller answers for it.
    unsafe { enter(word(&group.function), first, second, word(&group.stack), &group.way_back) }
}

/// As [`call_for`].
///
/// # Safety
/// As for [`call_for`].
#[unsafe(naked)]
unsafe extern "C" fn enter(function: u64, first: u64, second: u64, stack: u64, way_back: &[AtomicU64; 2]) -> u64 {
    naked_asm!(
        naked::begin!("platform::ros_code::enter"),
        naked::save_preserved!(),
        "lea rax, [rip + 2f]",
        "mov [r8], rax",
        "mov [r8 + 8], rsp",
        "mov rbx, r8",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rsp, rcx",
        // The caller's frame is where the way back says: the word at RBX + 8, and the seven words
        // pushed (DW_CFA_def_cfa_expression of DW_OP_breg3 8, DW_OP_deref, DW_OP_plus_uconst 56;
        // DWARF 4, sections 2.5.1 and 6.4.2.2).
        ".cfi_remember_state",
        ".cfi_escape 0x0f, 5, 0x73, 8, 0x06, 0x23, 56",
        // The chain of frame pointers ends here.
        "xor ebp, ebp",
        "call rax",
        "mov rsp, [rbx + 8]",
        ".cfi_restore_state",
        "jmp 3f",
        // The way back: every register but RSP may have any value, and the next function finds the
        // control words of a new thread (SDM Vol. 1, 8.1.5 and 10.2.3).
        "2: cld",
        "fninit",
        "push 0x1f80",
        "ldmxcsr [rsp]",
        "pop rcx",
        "3:",
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
