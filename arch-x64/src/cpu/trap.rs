//! Entry and exit of interrupts and exceptions.
//!
//! An interrupt saves the registers a function call may change and calls the kernel on the
//! interrupt stack. To preempt the interrupted thread, the stub first moves the frame to that
//! thread's own stack, below its red zone, because the interrupt stack is needed for the next
//! interrupt. Exceptions save all registers, because a debugger reads and changes them.

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use arch_contract::debug::DebugEvent;
use arch_contract::fault::{Access, Fault, FaultKind, Registers, TrapFrame};
use arch_contract::{Callbacks, MAX_CPUS};
use x86_64::registers::control::Cr2;

use super::descriptors::FaultStack;
use super::naked::{restore as pop, save as push};
use super::{apic, block, debug, descriptors, interrupts, machine_check, probe};

/// Bytes below the stack pointer that compiled code may use (System V ABI AMD64, 3.2.2). Programs
/// are compiled to use them, the kernel is not.
const RED_ZONE: usize = 128;
/// Words of an interrupt's frame: 10 registers, the vector, and the CPU's 5.
const INTERRUPT_WORDS: usize = 16;
/// Indices of words in an interrupt's frame.
const FRAME_RBP: usize = 9;
const FRAME_RIP: usize = 11;
const FRAME_RFLAGS: usize = 13;
const FRAME_RSP: usize = 14;

/// Call frame information of a trap's frame: it begins at the stack's top and holds the interrupted
/// RIP and RSP. `$pushed` is the number of bytes the CPU has pushed.
macro_rules! trap_frame {
    ($pushed:literal) => {
        concat!(
            ".cfi_startproc simple\n.cfi_signal_frame\n.cfi_def_cfa rsp, ",
            $pushed,
            "\n.cfi_offset rip, -40\n.cfi_offset rsp, -16"
        )
    };
}

global_asm!(
    // For gdb only; nothing in the image reads it.
    ".cfi_sections .debug_frame",
    // Interrupts: one 16-byte stub per vector from 32. All have one size, so that an address
    // follows from its vector (`stub_address`); PUSH and JMP take at most 10 bytes of it. The
    // padding is INT3, so that a stray jump into it does not go on into a stub.
    ".globl interrupt_stubs",
    ".balign 16, 0xcc",
    "interrupt_stubs:",
    ".set vector, 32",
    ".rept 224",
    ".balign 16, 0xcc",
    trap_frame!(40),
    "push vector",
    ".cfi_adjust_cfa_offset 8",
    "jmp interrupt_common",
    ".cfi_endproc",
    ".set vector, vector + 1",
    ".endr",
    ".globl interrupt_common",
    ".type interrupt_common, @function",
    "interrupt_common:",
    trap_frame!(48),
    // RBP is saved although a callee preserves it: `Traps::interrupted` reads it from the frame for
    // backtraces, and the link for a preempted thread changes it. Vector registers are not saved,
    // because the kernel uses none, and `Vectors::keep` surrounds whatever else runs.
    push!("rbp"),
    push!("rax"),
    push!("rcx"),
    push!("rdx"),
    push!("rsi"),
    push!("rdi"),
    push!("r8"),
    push!("r9"),
    push!("r10"),
    push!("r11"),
    // The ABI demands a clear direction flag at a call, and the interrupted code may have set it.
    "cld",
    "mov edi, [rsp + 80]",
    // GS base is this CPU's block whatever code was interrupted, because there is no user mode.
    "mov gs:[{frame}], rsp",
    // The 16 words of the frame leave the stack aligned for a call, since the CPU begins at an
    // aligned top.
    "call {interrupt}",
    "test al, al",
    "jnz 3f",
    "2:",
    ".cfi_remember_state",
    pop!("r11"),
    pop!("r10"),
    pop!("r9"),
    pop!("r8"),
    pop!("rdi"),
    pop!("rsi"),
    pop!("rdx"),
    pop!("rcx"),
    pop!("rax"),
    pop!("rbp"),
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "iretq",
    // Preempt the interrupted thread: move its frame to its own stack.
    "3:",
    ".cfi_restore_state",
    // LLVM's CFA adjustments do not account for the restored state.
    ".cfi_def_cfa_offset {words} * 8",
    "mov rdi, [rsp + {words} * 8 - 16]",
    "sub rdi, {red_zone} + {words} * 8",
    // The interrupted RSP has any alignment, and the call below needs 16; IRET takes RSP from the
    // frame, so nothing is lost by rounding.
    "and rdi, -16",
    "mov rdx, rdi",
    "mov rsi, rsp",
    "mov ecx, {words}",
    "rep movsq",
    "mov rsp, rdx",
    // A link in the chain of frames, so that a backtrace shows where the thread was interrupted.
    // Its two words keep the stack aligned for the call.
    "push [rsp + {rip} * 8]",
    ".cfi_adjust_cfa_offset 8",
    "push rbp",
    ".cfi_adjust_cfa_offset 8",
    "mov rbp, rsp",
    "call {preempt}",
    // The thread may have resumed on another CPU. Its frame came along on its stack, and nothing
    // from here on refers to the CPU that took the interrupt.
    "add rsp, 16",
    ".cfi_adjust_cfa_offset -16",
    "jmp 2b",
    ".cfi_endproc",
    ".globl interrupt_common_end",
    "interrupt_common_end:",
    ".size interrupt_common, . - interrupt_common",
    // Exceptions: one 16-byte stub per vector below 32; those without an error code push a zero.
    // All frames are then one structure, `ExceptionFrame`, whose 22 words leave the stack aligned
    // for the call.
    ".globl exception_stubs",
    ".balign 16, 0xcc",
    "exception_stubs:",
    ".set vector, 0",
    ".rept 32",
    ".balign 16, 0xcc",
    ".if (vector < 8 || vector == 9 || vector == 15 || vector == 16 || vector == 18 || vector == 19 || vector == 20 || (vector > 21 && vector < 29) || vector == 31)",
    trap_frame!(40),
    "push 0",
    ".cfi_adjust_cfa_offset 8",
    ".else",
    trap_frame!(48),
    ".endif",
    "push vector",
    ".cfi_adjust_cfa_offset 8",
    "jmp exception_common",
    ".cfi_endproc",
    ".set vector, vector + 1",
    ".endr",
    ".type exception_common, @function",
    "exception_common:",
    trap_frame!(56),
    push!("rax"),
    push!("rbx"),
    push!("rcx"),
    push!("rdx"),
    push!("rsi"),
    push!("rdi"),
    push!("rbp"),
    push!("r8"),
    push!("r9"),
    push!("r10"),
    push!("r11"),
    push!("r12"),
    push!("r13"),
    push!("r14"),
    push!("r15"),
    "cld",
    "mov rdi, rsp",
    "call {exception}",
    "test al, al",
    "jnz 4f",
    ".cfi_remember_state",
    pop!("r15"),
    pop!("r14"),
    pop!("r13"),
    pop!("r12"),
    pop!("r11"),
    pop!("r10"),
    pop!("r9"),
    pop!("r8"),
    pop!("rbp"),
    pop!("rdi"),
    pop!("rsi"),
    pop!("rdx"),
    pop!("rcx"),
    pop!("rbx"),
    pop!("rax"),
    "add rsp, 16",
    ".cfi_adjust_cfa_offset -16",
    "iretq",
    // Return into an NMI handler without an IRET, which would admit the next NMI onto the stack
    // that handler is using. Flags and address go onto the interrupted stack for POPFQ and RET; the
    // kernel's code has no red zone. An exception runs on a stack of its own, so the interrupted
    // one is whole and free below its pointer.
    "4:",
    ".cfi_restore_state",
    "mov rdi, [rsp + {frame_rsp}]",
    "sub rdi, 16",
    "mov rax, [rsp + {frame_rip}]",
    "mov [rdi + 8], rax",
    "mov rax, [rsp + {frame_rflags}]",
    "mov [rdi], rax",
    "mov [rsp + {frame_rsp}], rdi",
    pop!("r15"),
    pop!("r14"),
    pop!("r13"),
    pop!("r12"),
    pop!("r11"),
    pop!("r10"),
    pop!("r9"),
    pop!("r8"),
    pop!("rbp"),
    pop!("rdi"),
    pop!("rsi"),
    pop!("rdx"),
    pop!("rcx"),
    pop!("rbx"),
    pop!("rax"),
    // Skip vector, code, RIP, CS and RFLAGS. This comes last, because it gives up the frame: POPFQ
    // and RET need no register but RSP.
    "mov rsp, [rsp + 40]",
    ".cfi_def_cfa rsp, 16",
    "popfq",
    ".cfi_adjust_cfa_offset -8",
    "ret",
    ".cfi_endproc",
    ".size exception_common, . - exception_common",
    interrupt = sym interrupt_entry,
    preempt = sym preempt_entry,
    exception = sym exception_entry,
    words = const INTERRUPT_WORDS,
    red_zone = const RED_ZONE,
    rip = const FRAME_RIP,
    frame = const block::INTERRUPT_FRAME,
    frame_rip = const core::mem::offset_of!(ExceptionFrame, rip),
    frame_rflags = const core::mem::offset_of!(ExceptionFrame, rflags),
    frame_rsp = const core::mem::offset_of!(ExceptionFrame, rsp),
);

unsafe extern "C" {
    static interrupt_stubs: u8;
    static exception_stubs: u8;
    static interrupt_common: u8;
    static interrupt_common_end: u8;
}

/// Bytes between two stubs.
const STUB_SIZE: usize = 16;
/// First vector that is not an exception.
const FIRST_INTERRUPT: usize = 32;

/// Address of a vector's stub.
pub(super) fn stub_address(vector: usize) -> u64 {
    let address = match vector.checked_sub(FIRST_INTERRUPT) {
        Some(index) => (&raw const interrupt_stubs).wrapping_add(index * STUB_SIZE),
        None => (&raw const exception_stubs).wrapping_add(vector * STUB_SIZE),
    };
    address as u64
}

/// Vector of [`arch_contract::Traps::interrupt_self`]. It is the first one above those that the
/// kernel hands out (`FREE_VECTORS`), so no handler is ever registered for it.
const SELF_VECTOR: u8 = 0xe0;

/// Interrupts and exceptions by the stubs of this module.
pub struct Traps;

impl arch_contract::Traps for Traps {
    const STACKS: usize = descriptors::INTERRUPT_STACKS;
    /// The frame the CPU pushes first on a trap's stack: SS, RSP, RFLAGS, CS, RIP (SDM Vol. 3A,
    /// 6.14.2).
    const FRAME: Option<TrapFrame> = Some(TrapFrame { instruction_pointer: 40, stack_pointer: 16 });
    const SELF_VECTOR: u8 = SELF_VECTOR;

    fn install(callbacks: &'static Callbacks) {
        CALLBACKS.store(core::ptr::from_ref(callbacks).cast_mut(), Ordering::Release);
    }

    fn set_stacks(tops: &[usize]) {
        descriptors::set_interrupt_stacks(tops);
    }

    /// Takes an interrupt by INT n. The acknowledgement that follows finds no interrupt in service
    /// and has no effect (SDM Vol. 3A, 11.8.5).
    #[inline(always)]
    fn interrupt_self() {
        // SAFETY: the interrupt's stub preserves all registers and uses a stack of its own.
        unsafe { core::arch::asm!("int {}", const SELF_VECTOR, options(nostack)) };
    }

    fn interrupted() -> Registers {
        let frame = block::interrupt_frame() as *const usize;
        // SAFETY: the stub stored the address of its frame, which stays until the handler returns;
        // interrupts do not nest.
        let word = |index: usize| unsafe { frame.add(index).read() };
        Registers {
            instruction_pointer: word(FRAME_RIP),
            stack_pointer: word(FRAME_RSP),
            frame_pointer: word(FRAME_RBP),
            flags: word(FRAME_RFLAGS) as u64,
            ..Registers::default()
        }
    }

    fn is_interrupt_entry(address: usize) -> bool {
        (&raw const interrupt_common as usize..&raw const interrupt_common_end as usize).contains(&address)
    }

    fn fault_contained() {
        descriptors::restore_fault_stack();
    }

    fn describe(fault: &Fault, write: &mut dyn fmt::Write) -> fmt::Result {
        if u64::from(fault.vector) == MACHINE_CHECK { machine_check::describe(write) } else { Ok(()) }
    }
}

static CALLBACKS: AtomicPtr<Callbacks> = AtomicPtr::new(core::ptr::null_mut());

/// The kernel's callbacks, once installed. The load is relaxed, because what the pointer leads to
/// is a constant and needs no earlier write to be visible.
#[inline(always)]
pub fn callbacks() -> Option<&'static Callbacks> {
    // SAFETY: the pointer is null or comes from the `&'static Callbacks` given to `install`.
    unsafe { CALLBACKS.load(Ordering::Relaxed).as_ref() }
}

extern "C" fn interrupt_entry(vector: u32) -> bool {
    if vector == u32::from(apic::SPURIOUS_VECTOR) {
        // The APIC does not count a spurious interrupt as in service, so there is nothing to
        // acknowledge.
        return false;
    }
    let Some(callbacks) = callbacks() else { return false };
    let give_way = (callbacks.interrupt)(vector as u8);
    // After the handler, because a level-triggered line would interrupt again until its device is
    // served. Before a preemption, because the thread may resume much later and on another CPU,
    // while this one needs further interrupts.
    apic::end_of_interrupt();
    give_way
}

extern "C" fn preempt_entry() {
    if let Some(callbacks) = callbacks() {
        (callbacks.preempt)();
    }
}

/// An exception's frame on its stack, lowest address first.
#[repr(C)]
struct ExceptionFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl ExceptionFrame {
    /// Sets the registers with which the interrupted code resumes. The stack pointer and the frame
    /// pointer come from `general`, which a debugger edits; their copies beside it serve
    /// backtraces.
    fn set_registers(&mut self, registers: &Registers) {
        self.rip = registers.instruction_pointer as u64;
        self.rflags = registers.flags;
        [
            self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.rbp, self.rsp, self.r8, self.r9, self.r10,
            self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = registers.general;
    }

    /// Passes an event to the debugger; returns true if the debugger claims it.
    fn debug(&mut self, event: &DebugEvent<'_>) -> bool {
        let Some(callbacks) = callbacks() else { return false };
        let mut registers = self.registers();
        let taken = (callbacks.debug)(event, &mut registers);
        // Apply the edits even if the debugger does not claim the event: the event ends a step that
        // the debugger began.
        self.set_registers(&registers);
        taken
    }

    fn registers(&self) -> Registers {
        Registers {
            instruction_pointer: self.rip as usize,
            stack_pointer: self.rsp as usize,
            frame_pointer: self.rbp as usize,
            general: [
                self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.rbp, self.rsp, self.r8, self.r9,
                self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
            ],
            flags: self.rflags,
        }
    }
}

/// Exceptions that an access to a bad address raises: stack segment, general protection, page
/// fault, alignment check.
const ACCESS_FAULTS: [u64; 4] = [12, 13, PAGE_FAULT, 17];
const NON_MASKABLE: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const BREAKPOINT: u64 = 3;
const INVALID_OPCODE: u64 = 6;
const MACHINE_CHECK: u64 = 18;
const DEBUG: u64 = 1;
/// RFLAGS bit for single steps.
const TRAP_FLAG: u64 = 1 << 8;
const PAGE_FAULT: u64 = 14;
/// Page fault error code bits (SDM Vol. 3A, 4.7).
const PAGE_FAULT_WRITE: u64 = 1 << 1;
const PAGE_FAULT_FETCH: u64 = 1 << 4;

/// Set once all other CPUs are to stop at their next NMI. It is never cleared, because a crash
/// stops the CPUs for good.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Number of sampling NMIs under way to each CPU. A CPU has at most one NMI in its handler and one
/// pending (SDM Vol. 3A, 6.7.1), so at most two are due: further ones merge with the pending one.
static SAMPLES_DUE: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
const MOST_NMIS_ON_THEIR_WAY: u8 = 2;

/// Makes the next NMI of each other CPU a sampling request. Each CPU has its own count: a CPU that
/// is late with an earlier NMI must not consume another CPU's request, because the other CPU's NMI
/// would then look like one from outside.
pub fn sample_at_next_nmis() {
    let own = block::index();
    let one_more = |due: u8| Some(MOST_NMIS_ON_THEIR_WAY.min(due + 1));
    for (index, due) in SAMPLES_DUE.iter().enumerate() {
        // Only CPUs that `apic::broadcast_nmi` reaches: a CPU that starts later would take an NMI
        // from outside for the request left over.
        if index != own && block::apic_id_of(index).is_some() {
            let _ = due.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        }
    }
}

fn takes_sample() -> bool {
    let one_less = |due: u8| due.checked_sub(1);
    SAMPLES_DUE[block::index()].fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
}

/// Makes every further NMI stop the CPU that takes it.
pub fn stop_at_next_nmi() {
    STOPPING.store(true, Ordering::SeqCst);
}

/// Handles an exception. Returns true if it interrupted an NMI handler, into which the stub returns
/// without an IRET.
extern "C" fn exception_entry(frame: &mut ExceptionFrame) -> bool {
    match frame.vector {
        NON_MASKABLE => {
            // The NMI handler itself returns by IRET, which admits the next NMI. `in_nmi` says
            // nothing here: it is still set if this NMI interrupted a handler that waits.
            handle_nmi(frame);
            // Only now, because the handler may have put another frame in this one's place.
            frame.rip = interrupts::past_halt(frame.rip);
            return false;
        }
        // A debug exception in an NMI handler is not passed on: the debugger's own code runs there
        // and claims none, so that a hardware breakpoint in it would be reported as a crash.
        DEBUG if block::in_nmi() => {
            debug::ignore_in_nmi();
            // A step would otherwise trap again after each instruction of the NMI handler.
            frame.rflags &= !TRAP_FLAG;
        }
        // These two can come at any instruction, also on the first ones of a fault's handler. The
        // faults of the debugger's probes must then not use the fault stack.
        DEBUG | BREAKPOINT => beside_what_was_interrupted(FaultStack::WhileReporting, || handle_exception(frame)),
        _ => handle_exception(frame),
    }
    frame.rip = interrupts::past_halt(frame.rip);
    block::in_nmi()
}

/// Handles an NMI. A handler that waits may admit further NMIs ([`interrupts::wait_for_nmi`]),
/// which leave all work to it.
fn handle_nmi(frame: &mut ExceptionFrame) {
    match block::enter_nmi(frame.rsp) {
        block::InterruptedByNmi::Handler => {
            // At once, because the handler that waits may wait for the very CPU that has crashed.
            stop_if_wanted(frame);
            return;
        }
        // The interrupted handler had only its return left: this one returns in its place, to the
        // code that handler had interrupted. If this handler waited and then returned into that
        // one, an NMI in between would have come onto the other stack and overwritten the frame
        // that is still needed there.
        block::InterruptedByNmi::EndOfHandler => {
            let top = descriptors::other_nmi_stack() as *const ExceptionFrame;
            // SAFETY: the interrupted handler's frame is at the top of its stack, where the CPU and
            // the stub pushed it, and stays there until the next NMI on that stack.
            *frame = unsafe { top.sub(1).read() };
        }
        block::InterruptedByNmi::Other => {}
    }
    loop {
        // An NMI that came while this handler waited has only left a note: its meaning is asked for
        // in another round.
        beside_what_was_interrupted(FaultStack::InNonMaskable, || handle_exception(frame));
        debug::leave_nmi();
        if block::leave_nmi() {
            return;
        }
    }
}

/// Stops this CPU for good if NMIs currently mean that.
fn stop_if_wanted(frame: &ExceptionFrame) {
    if STOPPING.load(Ordering::SeqCst) {
        match callbacks() {
            Some(callbacks) => (callbacks.stopped)(&frame.registers()),
            None => interrupts::halt_forever(),
        }
    }
}

/// Runs a handler that may have interrupted code between any two instructions, other handlers
/// included, and that may probe memory, stop other CPUs and send IPIs. Preserves a page fault's
/// stack frame and address and a half-written interrupt command of the interrupted code.
fn beside_what_was_interrupted(stack: FaultStack, handler: impl FnOnce()) {
    let address = Cr2::read_raw();
    let command = apic::begun_command();
    let fault_stack = descriptors::use_fault_stack(stack);
    handler();
    descriptors::put_fault_stack_back(fault_stack);
    apic::resume_command(command);
    // SAFETY: CR2 only records the address of the last page fault; writing it has no other effect.
    unsafe { core::arch::asm!("mov cr2, {}", in(reg) address, options(nomem, nostack, preserves_flags)) };
}

fn handle_exception(frame: &mut ExceptionFrame) {
    // Probes come first, because they run while a fault is reported and while a debugger is at
    // work, where any other fault is an error. Only faults of an access count: an NMI at a probe's
    // instruction says nothing of the access.
    let is_access_fault = ACCESS_FAULTS.contains(&frame.vector);
    if let Some(next) = probe::continuation(frame.rip).filter(|_| is_access_fault) {
        frame.rip = next;
        return;
    }
    if frame.vector == NON_MASKABLE {
        // A crash goes before a sample: one NMI may stand for both, and answering the sample alone
        // would let this CPU run on.
        stop_if_wanted(frame);
    }
    if frame.vector == NON_MASKABLE && takes_sample() {
        if let Some(callbacks) = callbacks() {
            (callbacks.sampled)(&frame.registers());
        }
        // A single NMI may stand for both a sampling request and a debugger's stop request.
        frame.debug(&DebugEvent::Attention);
        return;
    }
    let taken = match frame.vector {
        NON_MASKABLE => frame.debug(&DebugEvent::Attention),
        BREAKPOINT => frame.debug(&DebugEvent::Breakpoint),
        DEBUG => {
            let (stepped, hit) = debug::take_trap();
            frame.debug(&DebugEvent::Trap { stepped, hit })
        }
        _ => false,
    };
    if taken {
        return;
    }
    let kind = kind_of(frame);
    let mut fault = Fault {
        kind,
        name: exception_name(frame.vector),
        vector: frame.vector as u8,
        code: frame.code,
        registers: frame.registers(),
    };
    if !matches!(kind, FaultKind::NonMaskable | FaultKind::Machine)
        && let Some(callbacks) = callbacks()
    {
        let mut registers = fault.registers;
        if (callbacks.resolve)(&fault, &mut registers) {
            frame.set_registers(&registers);
            return;
        }
    }
    // The debugger and the crash report probe memory: a fault there must not overwrite the stack in
    // use. A double fault is already on the stack that further faults are moved to, so during its
    // report they stay on the fault stack.
    let previous = (frame.vector != DOUBLE_FAULT).then(descriptors::move_fault_stack);
    if frame.debug(&DebugEvent::Fault(&fault)) {
        // Not the fault stack itself: this fault's handler may have interrupted code on it.
        previous.into_iter().for_each(descriptors::put_fault_stack_back);
        return;
    }
    // Read the registers again: a step that ended in this fault ran with interrupts disabled, and
    // the debugger has restored the flags.
    fault.registers = frame.registers();
    match callbacks() {
        Some(callbacks) => (callbacks.fault)(&fault),
        None => interrupts::halt_forever(),
    }
}

/// The kind of fault that an exception is.
fn kind_of(frame: &ExceptionFrame) -> FaultKind {
    match frame.vector {
        PAGE_FAULT => FaultKind::Page {
            // Still this fault's address: a handler that came in between has restored it.
            address: Cr2::read_raw() as usize,
            access: match frame.code {
                code if code & PAGE_FAULT_FETCH != 0 => Access::Execute,
                code if code & PAGE_FAULT_WRITE != 0 => Access::Write,
                _ => Access::Read,
            },
        },
        BREAKPOINT => FaultKind::Breakpoint,
        INVALID_OPCODE => FaultKind::InvalidInstruction,
        NON_MASKABLE => FaultKind::NonMaskable,
        DOUBLE_FAULT | MACHINE_CHECK => FaultKind::Machine,
        _ => FaultKind::Other,
    }
}

/// Names of the exceptions (SDM Vol. 3A, table 6-1).
fn exception_name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug exception",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor segment overrun",
        "invalid TSS",
        "segment not present",
        "stack segment fault",
        "general protection fault",
        "page fault",
        "reserved exception",
        "x87 floating-point error",
        "alignment check",
        "machine check",
        "SIMD floating-point exception",
        "virtualization exception",
        "control protection exception",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("reserved exception")
}
