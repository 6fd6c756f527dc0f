//! Signals. Every handler that Linux knows is the runtime's: it only notes the signal, with all
//! others blocked, and has the thread leave what it does. The thread then delivers it: it writes
//! the frame that Linux would write, and the program's handler runs in the HRT.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hvm::program::{self, ProgramCpu};
use kvm_bindings::kvm_xsave;

use crate::block::head_here;
use crate::linux::{self, Mask};
use crate::thread::{NO_STACK, Pending, SignalStack, Thread};
use crate::{gate, process, statistics};

/// Signals by number, from 1 on.
const SIGNALS: usize = 64;
/// Dispositions that are no handlers.
const DEFAULT: u64 = libc::SIG_DFL as u64;
const IGNORE: u64 = libc::SIG_IGN as u64;
/// Flag of an action that has a restorer (Linux, arch/x86/include/uapi/asm/signal.h).
const SA_RESTORER: u64 = 0x0400_0000;
/// Flags that Linux itself acts upon.
const LINUXS_FLAGS: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_RESTART) as u64;
/// Flag of a stack that is given up when a handler begins on it.
const SS_AUTODISARM: i32 = 1 << 31;
/// Bytes below the stack pointer that belong to a function (System V ABI AMD64, 3.2.2).
const RED_ZONE: u64 = 128;
/// Flags of a handler's context that are cleared: direction, resume, single step.
const CLEARED: u64 = 1 << 10 | 1 << 16 | 1 << 8;
/// Flags that a context may set (Linux, arch/x86/kernel/signal.c, FIX_EFLAGS).
const SETTABLE: u64 = 0x0005_0cd5 | 1 << 18;
/// Selectors of user mode, which a program expects to see (Linux, arch/x86/include/asm/segment.h).
const USER_SEGMENTS: u64 = 0x33 | 0x2b << 48;

/// What a program asked for, as rt_sigaction has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: Mask,
}

/// The program's actions, by signal.
struct Actions(UnsafeCell<[Action; SIGNALS + 1]>);

// SAFETY: they are changed with `CHANGING` held; a reader that sees half a change sees what a
// program that changes an action while its signal comes may see.
unsafe impl Sync for Actions {}

static ACTIONS: Actions = Actions(UnsafeCell::new([Action { handler: DEFAULT, flags: 0, restorer: 0, mask: 0 }; 65]));
static CHANGING: Mutex<()> = Mutex::new(());

fn action(signal: u32) -> Action {
    // SAFETY: see `Actions`.
    unsafe { (*ACTIONS.0.get())[signal as usize % (SIGNALS + 1)] }
}

fn keep(signal: u32, action: Action) {
    // SAFETY: see `Actions`.
    unsafe { (*ACTIONS.0.get())[signal as usize % (SIGNALS + 1)] = action };
}

/// Takes over what the process was started with: ignored signals stay so. Takes SIGTRAP, by which
/// instructions are executed here.
pub fn start() {
    for signal in 1..=SIGNALS as u32 {
        let mut present = Action::default();
        if act(signal, None, Some(&mut present)) == 0 {
            keep(signal, present);
        }
    }
    act(libc::SIGTRAP as u32, Some(&ours(Action::default())), None);
}

/// The action that Linux has for an action of the program with a handler.
fn ours(action: Action) -> Action {
    let flags = action.flags & LINUXS_FLAGS | (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER;
    Action { handler: on_signal as *const () as u64, flags, restorer: restore as *const () as u64, mask: linux::ALL }
}

/// Linux's rt_sigaction.
fn act(signal: u32, new: Option<&Action>, old: Option<&mut Action>) -> i64 {
    let address = |action: Option<*const Action>| action.map_or(0, |action| action as u64);
    let arguments =
        [signal.into(), address(new.map(|new| &raw const *new)), address(old.map(|old| &raw const *old)), 8, 0, 0];
    // SAFETY: the structures are valid, and the handlers are the program's or the runtime's.
    unsafe { linux::call(libc::SYS_rt_sigaction, arguments) }
}

/// The program's rt_sigaction.
///
/// # Safety
/// The addresses are those that the program gave.
pub unsafe fn set_action(signal: u64, new: u64, old: u64, size: u64) -> i64 {
    if size != 8 {
        return -i64::from(libc::EINVAL);
    }
    if !(1..=SIGNALS as u64).contains(&signal) {
        return -i64::from(libc::EINVAL);
    }
    let number = signal as u32;
    let before = action(number);
    if new != 0 {
        // SAFETY: an action consists of words.
        let wanted: Action = match unsafe { linux::read_memory(new) } {
            Ok(wanted) => wanted,
            Err(error) => return -i64::from(error),
        };
        let is_handled = wanted.handler != DEFAULT && wanted.handler != IGNORE;
        let _changing = CHANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept = Action { mask: wanted.mask & !(bit(libc::SIGKILL as u32) | bit(libc::SIGSTOP as u32)), ..wanted };
        let linuxs = if is_handled || number == libc::SIGTRAP as u32 { ours(wanted) } else { wanted };
        let result = act(number, Some(&linuxs), None);
        if result < 0 {
            return result;
        }
        keep(number, kept);
    }
    // SAFETY: the caller answers for the address.
    if old != 0 && unsafe { linux::write_memory(old, &before) }.is_err() {
        return -i64::from(libc::EFAULT);
    }
    0
}

/// Gives Linux the program's own handlers, in a process that goes on outside of the HRT.
pub fn let_go() {
    for signal in 1..=SIGNALS as u32 {
        let action = action(signal);
        if (action.handler != DEFAULT && action.handler != IGNORE) || signal == libc::SIGTRAP as u32 {
            act(signal, Some(&action), None);
        }
    }
}

const fn bit(signal: u32) -> Mask {
    1 << (signal - 1)
}

/// Signals that instructions cause.
const SYNCHRONOUS: Mask = bit(libc::SIGSEGV as u32)
    | bit(libc::SIGBUS as u32)
    | bit(libc::SIGFPE as u32)
    | bit(libc::SIGILL as u32)
    | bit(libc::SIGTRAP as u32);

/// The mask while an instruction is executed here, under a mask of the program: nothing comes but
/// what it causes.
pub fn mask_for_step(mask: Mask) -> Mask {
    mask & SYNCHRONOUS & !bit(libc::SIGTRAP as u32) | !SYNCHRONOUS
}

/// Ends a handler of the runtime.
#[unsafe(naked)]
extern "C" fn restore() {
    std::arch::naked_asm!("mov eax, {number}", "syscall", "ud2", number = const libc::SYS_rt_sigreturn)
}

/// Linux calls this for every signal that the program handles, on the thread's stack for signals.
/// FS may be the program's.
extern "C" fn on_signal(signal: i32, information: *const libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the runtime has set the stack up, and Linux gives valid structures; the thread is the
    // one that runs here, and its pending signal is none as long as it has signals unblocked.
    unsafe {
        let head = &*head_here();
        let (thread, context) = (&*head.thread, &mut *context);
        let step = thread.step.load(Ordering::Relaxed);
        let general = &mut context.uc_mcontext.gregs;
        if signal == libc::SIGTRAP && program::is_nudge(&*information) {
            // A call that only this has interrupted is made again.
            let at = general[libc::REG_RIP as usize] as u64;
            let was_interrupted = general[libc::REG_RAX as usize] == -i64::from(libc::EINTR);
            if let Some(again) = gate::is_behind(at).filter(|_| was_interrupted) {
                general[libc::REG_RIP as usize] = again as i64;
            }
            thread.immediate_exit.load(Ordering::Relaxed).as_mut().into_iter().for_each(|exit| *exit = 1);
            return;
        }
        if let Some(step) = step.as_mut() {
            let is_step =
                signal == libc::SIGTRAP && matches!((*information).si_code, libc::SI_TKILL | libc::TRAP_TRACE);
            if is_step {
                let begins = !step.is_under_way();
                step.on_trap(context);
                let base = if begins { thread.program_fs_base.load(Ordering::Relaxed) } else { head.fs_base };
                return linux::set_fs_base(base);
            }
            if step.is_under_way() {
                note(thread, signal, information, context);
                step.on_trap(context);
                return linux::set_fs_base(head.fs_base);
            }
        } else if let Some(at) = gate::leave(general[libc::REG_RIP as usize] as u64) {
            general[libc::REG_RIP as usize] = at as i64;
        } else if (*information).si_code > 0 && bit(signal as u32) & SYNCHRONOUS != 0 {
            if let Some(at) = linux::leave_copy(general[libc::REG_RIP as usize] as u64) {
                general[libc::REG_RIP as usize] = at as i64;
                return;
            }
            // The runtime's own mistake: the same again ends the process, at the instruction.
            act(signal as u32, Some(&Action::default()), None);
            return;
        }
        note(thread, signal, information, context);
    }
}

/// Notes a signal for its thread, and blocks all others until it is delivered.
///
/// # Safety
/// As in [`on_signal`].
unsafe fn note(thread: &Thread, signal: i32, information: *const libc::siginfo_t, context: &mut libc::ucontext_t) {
    let general = &context.uc_mcontext.gregs;
    let exception = [libc::REG_ERR, libc::REG_TRAPNO, libc::REG_CR2].map(|register| general[register as usize] as u64);
    let mask = (&raw mut context.uc_sigmask).cast::<Mask>();
    // SAFETY: the caller answers for it.
    unsafe {
        *thread.pending.get() = Some(Pending { information: *information, mask: *mask, exception });
        *mask = linux::ALL;
        thread.signal.store(signal as u32, Ordering::Release);
        thread.immediate_exit.load(Ordering::Relaxed).as_mut().into_iter().for_each(|exit| *exit = 1);
    }
}

/// The content of a signal's frame on the program's stack (Linux,
/// arch/x86/include/asm/sigframe.h).
#[repr(C)]
struct Frame {
    restorer: u64,
    context: Context,
    information: libc::siginfo_t,
}

/// A context as Linux has it (include/uapi/asm-generic/ucontext.h and
/// arch/x86/include/uapi/asm/sigcontext.h).
#[repr(C)]
struct Context {
    flags: u64,
    link: u64,
    stack: SignalStack,
    /// R8 to R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, RFLAGS.
    registers: [u64; 18],
    segments: u64,
    error: u64,
    vector: u64,
    old_mask: u64,
    address: u64,
    vectors: u64,
    reserved: [u64; 8],
    mask: Mask,
}

/// Flags of a context: it has extended vector state, and SS is to be restored as it is.
const CONTEXT_FLAGS: u64 = 1 | 2 | 4;
/// What Linux adds to the vector state, and where (arch/x86/include/uapi/asm/sigcontext.h): a mark,
/// the size with the second mark, the components, the size; the second mark.
const SOFTWARE: usize = 464;
const FIRST_MARK: u32 = 0x4650_5853;
const SECOND_MARK: u32 = 0x4650_5845;
/// Alignment of the vector state (SDM Vol. 1, 13.4).
const VECTORS_ALIGNMENT: u64 = 64;

/// Size of the vector state that Linux saves, and its components.
fn vector_layout() -> (usize, u64) {
    static LAYOUT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let known = LAYOUT[0].load(Ordering::Acquire);
    if known != 0 {
        return (known as usize, LAYOUT[1].load(Ordering::Relaxed));
    }
    // The state that is enabled (SDM Vol. 2A, CPUID 0Dh), at most what KVM exchanges.
    let size = (__cpuid_count(0xd, 0).ebx as usize).min(size_of::<kvm_xsave>());
    // SAFETY: Linux saves extended state, so XGETBV is there.
    let components = unsafe { extended_components() };
    LAYOUT[1].store(components, Ordering::Relaxed);
    LAYOUT[0].store(size as u64, Ordering::Release);
    (size, components)
}

#[target_feature(enable = "xsave")]
fn extended_components() -> u64 {
    // SAFETY: the register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Delivers the thread's pending signals. Its CPU runs the program's code.
pub fn deliver(thread: &Thread, stack: &mut SignalStack, cpu: &mut ProgramCpu<'_>) {
    loop {
        let signal = thread.signal.load(Ordering::Acquire);
        if signal == 0 {
            return;
        }
        // SAFETY: the handler has written it, and writes no other one until the mask is changed.
        let pending = unsafe { (*thread.pending.get()).take() };
        thread.signal.store(0, Ordering::Release);
        if let Some(pending) = pending {
            statistics::signal();
            deliver_one(signal, &pending, stack, cpu);
        }
    }
}

fn deliver_one(signal: u32, pending: &Pending, stack: &mut SignalStack, cpu: &mut ProgramCpu<'_>) {
    let action = action(signal);
    if action.handler == DEFAULT || action.handler == IGNORE {
        // The program has changed its mind meanwhile, or the signal was taken for the runtime.
        if action.handler == DEFAULT {
            act(signal, Some(&Action::default()), None);
            linux::raise(signal);
        }
        linux::set_mask(pending.mask);
        return;
    }
    if action.flags as i32 & libc::SA_RESETHAND != 0 {
        keep(signal, Action::default());
        if signal != libc::SIGTRAP as u32 {
            act(signal, Some(&Action::default()), None);
        }
    }
    let Ok(vectors) = cpu.vectors() else { process::fail("KVM does not give the vector state") };
    let registers = *cpu.registers();
    let is_on_stack = stack.holds(registers.rsp);
    let own = action.flags as i32 & libc::SA_ONSTACK != 0 && stack.size != 0 && !is_on_stack;
    let top = if own { stack.start + stack.size } else { registers.rsp - RED_ZONE };
    let (size, components) = vector_layout();
    let vectors_at = (top - (size as u64 + 4)) & !(VECTORS_ALIGNMENT - 1);
    // A function finds its return address so that what is above is aligned (System V ABI AMD64,
    // 3.2.2).
    let frame_at = ((vectors_at - size_of::<Frame>() as u64) & !15) - 8;
    let r = registers;
    let frame = Frame {
        restorer: action.restorer,
        context: Context {
            flags: CONTEXT_FLAGS,
            link: 0,
            stack: SignalStack { flags: stack.flags_at(registers.rsp), ..*stack },
            registers: [
                r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx,
                r.rsp, r.rip, r.rflags,
            ],
            segments: USER_SEGMENTS,
            error: pending.exception[0],
            vector: pending.exception[1],
            old_mask: pending.mask,
            address: pending.exception[2],
            vectors: vectors_at,
            reserved: [0; 8],
            mask: pending.mask,
        },
        information: pending.information,
    };
    // SAFETY: the memory is the program's stack, which Linux would write as well; where there is
    // none, the process ends by SIGSEGV, as it does then.
    unsafe {
        let to = vectors_at as *mut u8;
        std::ptr::copy_nonoverlapping((&raw const vectors).cast::<u8>(), to, size);
        let software = to.add(SOFTWARE);
        std::ptr::write_bytes(software, 0, 512 - SOFTWARE);
        software.cast::<u32>().write_unaligned(FIRST_MARK);
        software.add(4).cast::<u32>().write_unaligned(size as u32 + 4);
        software.add(8).cast::<u64>().write_unaligned(components);
        software.add(16).cast::<u32>().write_unaligned(size as u32);
        to.add(size).cast::<u32>().write_unaligned(SECOND_MARK);
        (frame_at as *mut Frame).write_unaligned(frame);
    }
    let registers = cpu.registers();
    registers.rdi = signal.into();
    registers.rsi = frame_at + std::mem::offset_of!(Frame, information) as u64;
    registers.rdx = frame_at + std::mem::offset_of!(Frame, context) as u64;
    registers.rax = 0;
    registers.rsp = frame_at;
    registers.rip = action.handler;
    registers.rflags &= !CLEARED;
    cpu.use_registers();
    if stack.flags & SS_AUTODISARM != 0 {
        *stack = NO_STACK;
    }
    let own = if action.flags as i32 & libc::SA_NODEFER != 0 { 0 } else { bit(signal) };
    linux::set_mask(pending.mask | action.mask | own);
}

/// The program's rt_sigreturn: the thread goes on as its handler's context says.
///
/// # Safety
/// The program wants it.
pub unsafe fn give_back(thread: &Thread, stack: &mut SignalStack, cpu: &mut ProgramCpu<'_>) {
    // A signal that has come is delivered with the mask that is given back.
    linux::set_mask(linux::ALL);
    let frame_at = cpu.registers().rsp - 8;
    // SAFETY: the caller answers for it; what is not there has the effect that it has in a process.
    let context = unsafe { (&raw const (*(frame_at as *const Frame)).context).read_unaligned() };
    let flags = cpu.registers().rflags;
    let registers = cpu.registers();
    let saved = &context.registers;
    [registers.r8, registers.r9, registers.r10, registers.r11] = [saved[0], saved[1], saved[2], saved[3]];
    [registers.r12, registers.r13, registers.r14, registers.r15] = [saved[4], saved[5], saved[6], saved[7]];
    [registers.rdi, registers.rsi, registers.rbp, registers.rbx] = [saved[8], saved[9], saved[10], saved[11]];
    [registers.rdx, registers.rax, registers.rcx, registers.rsp] = [saved[12], saved[13], saved[14], saved[15]];
    registers.rip = saved[16];
    registers.rflags = flags & !SETTABLE | saved[17] & SETTABLE;
    if context.vectors != 0 {
        let mut vectors = MaybeUninit::<kvm_xsave>::zeroed();
        let (size, _) = vector_layout();
        // SAFETY: as above; the structure consists of words.
        let vectors = unsafe {
            std::ptr::copy_nonoverlapping(context.vectors as *const u8, vectors.as_mut_ptr().cast(), size);
            // What Linux added is not the processor's.
            std::ptr::write_bytes(vectors.as_mut_ptr().cast::<u8>().add(SOFTWARE), 0, 512 - SOFTWARE);
            vectors.assume_init()
        };
        // A state that the processor refuses ends a program on Linux.
        if cpu.set_vectors(&vectors).is_err() {
            act(libc::SIGSEGV as u32, Some(&Action::default()), None);
            linux::raise(libc::SIGSEGV as u32);
        }
    }
    let SignalStack { start, flags, size } = context.stack;
    *stack = if flags & libc::SS_DISABLE != 0 {
        NO_STACK
    } else {
        SignalStack { start, flags: flags & SS_AUTODISARM, size }
    };
    // SAFETY: no handler runs while all signals are blocked.
    match unsafe { &mut *thread.pending.get() } {
        Some(pending) if thread.signal.load(Ordering::Acquire) != 0 => pending.mask = context.mask,
        _ => {
            linux::set_mask(context.mask);
        }
    }
}

impl SignalStack {
    /// Whether a stack pointer is on it.
    fn holds(&self, pointer: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && pointer > self.start && pointer - self.start <= self.size
    }

    /// The flags that a program sees.
    fn flags_at(&self, pointer: u64) -> i32 {
        match (self.size, self.holds(pointer)) {
            (0, _) => libc::SS_DISABLE,
            (_, true) => self.flags | libc::SS_ONSTACK,
            _ => self.flags,
        }
    }

    /// The program's sigaltstack.
    ///
    /// # Safety
    /// The addresses are those that the program gave.
    pub unsafe fn change(&mut self, new: u64, old: u64, pointer: u64) -> i64 {
        let before = Self { flags: self.flags_at(pointer), ..*self };
        if new != 0 {
            // SAFETY: the structure consists of words.
            let wanted: Self = match unsafe { linux::read_memory(new) } {
                Ok(wanted) => wanted,
                Err(error) => return -i64::from(error),
            };
            let mode = wanted.flags & !SS_AUTODISARM;
            if self.holds(pointer) {
                return -i64::from(libc::EPERM);
            } else if ![libc::SS_DISABLE, libc::SS_ONSTACK, 0].contains(&mode) {
                return -i64::from(libc::EINVAL);
            } else if mode == libc::SS_DISABLE {
                *self = NO_STACK;
            } else if wanted.size < libc::MINSIGSTKSZ as u64 {
                return -i64::from(libc::ENOMEM);
            } else {
                *self = Self { flags: wanted.flags & SS_AUTODISARM, ..wanted };
            }
        }
        // SAFETY: the caller answers for the address.
        if old != 0 && unsafe { linux::write_memory(old, &before) }.is_err() {
            return -i64::from(libc::EFAULT);
        }
        0
    }
}
