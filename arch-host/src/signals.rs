//! Signals as interrupts, timers and faults.

use std::ptr;

use arch_contract::fault::{Access, Fault, FaultKind, Registers};

use crate::cpu::{self, Pending};

/// Bits of a page fault's error code, as on bare metal.
const PAGE_FAULT_WRITE: i64 = 1 << 1;
const PAGE_FAULT_FETCH: i64 = 1 << 4;

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs the signal handlers. Called once per process.
pub fn install() {
    // Interrupts are handled on the interrupted thread's own stack.
    set(cpu::INTERRUPT_SIGNAL, interrupted, libc::SA_RESTART);
    set(cpu::TIMER_SIGNAL, timer_ended, libc::SA_RESTART);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        set(signal, faulted, libc::SA_ONSTACK | libc::SA_NODEFER);
    }
}

/// The signals that represent interrupts.
fn interrupt_signals() -> libc::sigset_t {
    // SAFETY: an all-zero signal set is a valid value, which is filled in below.
    let mut set = unsafe { std::mem::zeroed() };
    for signal in [cpu::INTERRUPT_SIGNAL, cpu::TIMER_SIGNAL] {
        // SAFETY: the set is a valid local variable that no other code accesses.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Blocks (`SIG_BLOCK`) or admits (`SIG_UNBLOCK`) the interrupt signals on this pthread.
fn change_mask(how: libc::c_int) {
    let signals = interrupt_signals();
    // SAFETY: the set is valid, and a null pointer is allowed for the old mask.
    unsafe { libc::pthread_sigmask(how, &raw const signals, ptr::null_mut()) };
}

fn set(signal: libc::c_int, handler: Handler, flags: libc::c_int) {
    // SAFETY: an all-zero sigaction is a valid value, which is filled in below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // Block interrupts in every handler: on the fault stack, because that belongs to the pthread
    // and not to the thread that an interrupt may switch away from; and elsewhere, because a storm
    // of signals would nest without limit.
    action.sa_mask = interrupt_signals();
    // SAFETY: the handler has the signature that SA_SIGINFO requires, and the action is fully
    // initialised.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "signal {signal} cannot be handled");
}

/// Gives the calling pthread a fault stack, by its top.
pub fn use_alternate_stack(top: usize, size: usize) {
    let stack = libc::stack_t { ss_sp: (top - size) as *mut _, ss_flags: 0, ss_size: size };
    // SAFETY: the kernel provides this stack for faults only, and it stays mapped.
    let result = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(result, 0, "there is no stack for faults");
    cpu::set_fault_stack(stack.ss_sp as usize, size);
}

/// Takes interrupts and preserves the interrupted code's `errno`.
///
/// Returning from the handler sets the pthread's fault stack to what `context` says. The thread may
/// have moved to another pthread, so `context` is set to this pthread's. The interrupt signals are
/// blocked on entry and on return: returning from the handler unblocks them in the same step that
/// leaves its stack frame.
fn take_interrupts(context: *mut libc::c_void) {
    // SAFETY: the address is always valid. It is determined again below, because the thread may be
    // on another pthread by then.
    let errno = unsafe { *libc::__errno_location() };
    while cpu::interrupts_enabled() {
        cpu::disable_interrupts();
        // A thread that an interrupt switches to must receive signals.
        change_mask(libc::SIG_UNBLOCK);
        cpu::take_pending();
        change_mask(libc::SIG_BLOCK);
        if cpu::allow_interrupts() == Pending::None {
            break;
        }
    }
    let (start, size) = cpu::fault_stack();
    // SAFETY: the address of `errno` is always valid; Linux passes a valid context, which it reads
    // back.
    unsafe {
        *libc::__errno_location() = errno;
        let stack = &mut (*context.cast::<libc::ucontext_t>()).uc_stack;
        (stack.ss_sp, stack.ss_size) = (start as *mut _, size);
    }
}

extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if cpu::shall_stop()
        && let Some(callbacks) = cpu::callbacks()
    {
        (callbacks.stopped)(&registers(context.cast()));
    }
    if cpu::takes_sample()
        && let Some(callbacks) = cpu::callbacks()
    {
        (callbacks.sampled)(&registers(context.cast()));
    }
    take_interrupts(context);
}

extern "C" fn timer_ended(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    cpu::timer_ended();
    take_interrupts(context);
}

extern "C" fn faulted(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: Linux passes valid pointers to SA_SIGINFO handlers, and the context is writable.
    let (address, machine) = unsafe { ((*info).si_addr() as usize, &mut (*context).uc_mcontext) };
    let at = machine.gregs[libc::REG_RIP as usize] as u64;
    if let Some(next) = arch_x64::cpu::probe::continuation(at) {
        machine.gregs[libc::REG_RIP as usize] = next as i64;
        return;
    }
    let code = machine.gregs[libc::REG_ERR as usize];
    let kind = match signal {
        libc::SIGSEGV | libc::SIGBUS => FaultKind::Page {
            address,
            access: match code {
                code if code & PAGE_FAULT_FETCH != 0 => Access::Execute,
                code if code & PAGE_FAULT_WRITE != 0 => Access::Write,
                _ => Access::Read,
            },
        },
        libc::SIGTRAP => FaultKind::Breakpoint,
        libc::SIGILL => FaultKind::InvalidInstruction,
        _ => FaultKind::Other,
    };
    let name = match signal {
        libc::SIGSEGV => "segmentation fault",
        libc::SIGBUS => "bus error",
        libc::SIGILL => "invalid opcode",
        libc::SIGFPE => "arithmetic error",
        _ => "trap",
    };
    let fault = Fault { kind, name, vector: signal as u8, code: code as u64, registers: registers(context) };
    match cpu::callbacks() {
        Some(callbacks) if cpu::this_thread_is_cpu() => (callbacks.fault)(&fault),
        // SAFETY: `_exit` may be called in a signal handler; it ends the process.
        _ => unsafe { libc::_exit(128 + signal) },
    }
}

fn registers(context: *const libc::ucontext_t) -> Registers {
    // SAFETY: Linux passes a valid context to the handler that calls this.
    let gregs = unsafe { &(*context).uc_mcontext.gregs };
    let get = |register: libc::c_int| gregs[register as usize] as u64;
    Registers {
        instruction_pointer: get(libc::REG_RIP) as usize,
        stack_pointer: get(libc::REG_RSP) as usize,
        frame_pointer: get(libc::REG_RBP) as usize,
        general: [
            libc::REG_RAX,
            libc::REG_RBX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_RBP,
            libc::REG_RSP,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ]
        .map(get),
        flags: get(libc::REG_EFL),
    }
}
