//! Signals: interrupts, timers, and faults.

use std::ptr;

use arch_contract::fault::{Access, Fault, FaultKind, Registers};

use crate::cpu;

/// Bits of a page fault's error code, as on bare metal.
const PAGE_FAULT_WRITE: i64 = 1 << 1;
const PAGE_FAULT_FETCH: i64 = 1 << 4;

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs the handlers. Once per process.
pub fn install() {
    // Interrupts are taken on the interrupted thread's own stack, nested as the kernel allows it.
    set(cpu::INTERRUPT_SIGNAL, interrupted, libc::SA_NODEFER | libc::SA_RESTART);
    set(cpu::TIMER_SIGNAL, timer_ended, libc::SA_NODEFER | libc::SA_RESTART);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        set(signal, faulted, libc::SA_ONSTACK | libc::SA_NODEFER);
    }
}

fn set(signal: libc::c_int, handler: Handler, flags: libc::c_int) {
    // SAFETY: an all-zero sigaction is a valid value to be filled in.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the handler has the signature SA_SIGINFO asks for.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "signal {signal} cannot be handled");
}

/// Gives the calling pthread a stack for faults, named by its top.
pub fn use_alternate_stack(top: usize, size: usize) {
    let stack = libc::stack_t { ss_sp: (top - size) as *mut _, ss_flags: 0, ss_size: size };
    // SAFETY: the kernel gave the stack for this.
    let result = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(result, 0, "there is no stack for faults");
}

/// Takes interrupts, and leaves `errno` to the interrupted code as it was.
fn take_interrupts() {
    // SAFETY: always a valid address; read again afterwards, because the thread may be on another pthread.
    let errno = unsafe { *libc::__errno_location() };
    if cpu::interrupts_enabled() {
        cpu::take_interrupts();
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if cpu::shall_stop()
        && let Some(callbacks) = cpu::callbacks()
    {
        (callbacks.stopped)(&registers(context.cast()));
    }
    take_interrupts();
}

extern "C" fn timer_ended(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    cpu::timer_ended();
    take_interrupts();
}

extern "C" fn faulted(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: Linux passes valid pointers, the context writable.
    let (address, machine) = unsafe { ((*info).si_addr() as usize, &mut (*context).uc_mcontext) };
    let at = machine.gregs[libc::REG_RIP as usize] as u64;
    if let Some(next) = arch_x64::probe::continuation(at) {
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
        signal => FaultKind::Other { vector: signal as u8, code: code as u64 },
    };
    let name = match signal {
        libc::SIGSEGV => "segmentation fault",
        libc::SIGBUS => "bus error",
        libc::SIGILL => "invalid opcode",
        libc::SIGFPE => "arithmetic error",
        _ => "trap",
    };
    let fault = Fault { kind, name, registers: registers(context) };
    match cpu::callbacks() {
        Some(callbacks) if cpu::this_thread_is_cpu() => (callbacks.fault)(&fault),
        // SAFETY: ends the process.
        _ => unsafe { libc::_exit(128 + signal) },
    }
}

fn registers(context: *const libc::ucontext_t) -> Registers {
    // SAFETY: Linux passes a valid context.
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
