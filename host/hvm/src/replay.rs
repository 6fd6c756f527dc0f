//! Executing one instruction of a function in the HRT natively, in its partner thread: an access
//! that Linux refuses in the HRT then has the effect that it has in a process. Linux lets a stack
//! grow, or sends the process a signal with the right address, whose handler may mend what is
//! wrong.
//!
//! The way there and back is a SIGTRAP. The first one is raised; its handler puts the context's
//! registers, with the flag for a single step, in place of those it interrupted. The second one
//! comes after the step; its handler takes the registers and puts the first ones back.

use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;

use kvm_bindings::{kvm_regs, kvm_xsave};

use crate::memory::Mapping;
use crate::vcpu::Vcpu;

/// Size of the legacy area and of the header behind it, and where its part for software begins,
/// which Linux uses (SDM Vol. 1, 13.4).
const LEGACY: usize = 512;
const HEADER: usize = 64;
const SOFTWARE: usize = 464;
/// What begins that part if more than the legacy area is there (Linux,
/// arch/x86/include/uapi/asm/sigcontext.h).
const HAS_MORE: u32 = 0x4650_5853;
/// Components that an HRT has: x87, SSE, AVX, and the three of AVX-512 (SDM Vol. 1, 13.1).
const COMPONENTS: u64 = 0xe7;
/// Those behind the header.
const BEHIND_HEADER: [u32; 4] = [2, 5, 6, 7];
/// RFLAGS' bit for single steps, and the bits that belong to the code (SDM Vol. 1, 3.4.3).
const STEP: u64 = 1 << 8;
const CODE_FLAGS: u64 = 0xcd5;
/// Most bytes of vector state that Linux and KVM exchange here.
const MOST_STATE: usize = 4096;
/// Stack of the handler, if the thread has none of its own for signals.
const STACK: usize = 64 << 10;

/// A step of a thread that is under way.
pub struct Step {
    /// The context's registers, before and after.
    registers: kvm_regs,
    vectors: Box<kvm_xsave>,
    /// What the first signal interrupted.
    general: [i64; 23],
    state: Box<[u8; MOST_STATE]>,
    has_begun: bool,
    has_ended: bool,
}

thread_local! {
    static STEP_HERE: Cell<*mut Step> = const { Cell::new(null_mut()) };
}

impl Step {
    /// Prepares a step of the code that a CPU runs; `None` if KVM does not give its state.
    pub fn of(cpu: &mut Vcpu) -> Option<Self> {
        let vectors = cpu.fd.get_xsave().ok()?;
        Some(Self {
            registers: *cpu.registers(),
            vectors: Box::new(vectors),
            general: [0; 23],
            state: Box::new([0; MOST_STATE]),
            has_begun: false,
            has_ended: false,
        })
    }

    /// Gives the CPU the state after the step. Returns false if the step was not made.
    pub fn finish(&self, cpu: &mut Vcpu) -> bool {
        if !self.has_ended {
            return false;
        }
        *cpu.registers() = self.registers;
        cpu.use_registers();
        // SAFETY: the state has the size that KVM gave it.
        unsafe { cpu.fd.set_xsave(&self.vectors) }.is_ok()
    }

    /// Whether the context's code is being executed.
    pub fn is_under_way(&self) -> bool {
        self.has_begun && !self.has_ended
    }

    /// Whether the instruction was executed, or has caused a signal.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Begins or ends the step, in the handler of its SIGTRAP, or of a signal that the instruction
    /// caused.
    ///
    /// # Safety
    /// The context is the one that Linux gave the handler.
    pub unsafe fn on_trap(&mut self, context: &mut libc::ucontext_t) {
        // SAFETY: the caller answers for it.
        let state = unsafe { state_of(context.uc_mcontext.fpregs.cast()) };
        let general = &mut context.uc_mcontext.gregs;
        // SAFETY: the structure consists of so many bytes at least.
        let vectors = unsafe { std::slice::from_raw_parts_mut((&raw mut *self.vectors).cast::<u8>(), MOST_STATE) };
        if !self.has_begun {
            self.has_begun = true;
            self.general = *general;
            self.state[..state.len()].copy_from_slice(state);
            put(general, &self.registers);
            exchange(state, vectors);
        } else {
            self.has_ended = true;
            take(general, &mut self.registers);
            exchange(vectors, state);
            *general = self.general;
            state.copy_from_slice(&self.state[..state.len()]);
        }
    }
}

/// Executes the instruction at which a CPU stands, natively. Returns false if that cannot be.
pub fn instruction(cpu: &mut Vcpu) -> bool {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    let Some(mut step) = Step::of(cpu) else { return false };
    let Some(_stack) = SignalStack::ensure() else { return false };
    STEP_HERE.set(&raw mut step);
    // SAFETY: the handler is this module's, which comes back here once the step is done.
    unsafe { libc::raise(libc::SIGTRAP) };
    STEP_HERE.set(null_mut());
    step.finish(cpu)
}

/// Takes SIGTRAP for this module.
fn install() {
    // SAFETY: the structure is valid when zeroed; the handler only handles the steps of its own
    // thread.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGTRAP, &action, null_mut());
    }
}

/// A stack for signals, for a thread that has none.
struct SignalStack(Option<Mapping>);

impl SignalStack {
    fn ensure() -> Option<Self> {
        let mut present = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: Linux writes the description to the structure.
        let present = unsafe {
            libc::sigaltstack(std::ptr::null(), present.as_mut_ptr());
            present.assume_init()
        };
        if present.ss_flags & libc::SS_DISABLE == 0 {
            return Some(Self(None));
        }
        let stack = Mapping::private(STACK).ok()?;
        let wanted = libc::stack_t { ss_sp: stack.address() as *mut libc::c_void, ss_flags: 0, ss_size: STACK };
        // SAFETY: the stack is this value's, which takes it back before it is unmapped.
        (unsafe { libc::sigaltstack(&raw const wanted, null_mut()) } == 0).then_some(Self(Some(stack)))
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        if self.0.is_some() {
            let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: the thread is not on that stack.
            unsafe { libc::sigaltstack(&raw const none, null_mut()) };
        }
    }
}

/// Handles SIGTRAP: begins or ends the thread's step.
extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let step = STEP_HERE.get();
    if step.is_null() {
        return;
    }
    // SAFETY: the pointer is to the step of this thread, which waits for it; the context is the one
    // that Linux gives.
    unsafe { (*step).on_trap(&mut *context.cast()) };
}

/// The vector state of a signal's context.
///
/// # Safety
/// The pointer is one that Linux gave a handler, which has not returned.
unsafe fn state_of<'a>(at: *mut u8) -> &'a mut [u8] {
    // SAFETY: the legacy area is always there, and says whether there is more.
    unsafe {
        let word = |offset: usize| at.add(offset).cast::<u32>().read_unaligned();
        let size = if word(SOFTWARE) == HAS_MORE { word(SOFTWARE + 16) as usize } else { LEGACY };
        std::slice::from_raw_parts_mut(at, size.min(MOST_STATE))
    }
}

/// Copies the vector state that an HRT has. Other components, and what is software's, stay.
fn exchange(to: &mut [u8], from: &[u8]) {
    to[..SOFTWARE].copy_from_slice(&from[..SOFTWARE]);
    if to.len().min(from.len()) < LEGACY + HEADER {
        return;
    }
    let word = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|byte| bytes[LEGACY + byte]));
    let present = word(to) & !COMPONENTS | word(from) & COMPONENTS;
    to[LEGACY..LEGACY + 8].copy_from_slice(&present.to_le_bytes());
    for component in BEHIND_HEADER {
        // CPUID 0Dh gives a component's size in EAX and its offset in EBX (SDM Vol. 2A, CPUID).
        let place = __cpuid_count(0xd, component);
        let (start, end) = (place.ebx as usize, (place.ebx + place.eax) as usize);
        if start >= LEGACY + HEADER && end <= to.len().min(from.len()) {
            to[start..end].copy_from_slice(&from[start..end]);
        }
    }
}

/// The general registers of a signal's context, with KVM's.
macro_rules! pairs {
    ($each:ident) => {
        $each!(
            REG_RAX rax, REG_RBX rbx, REG_RCX rcx, REG_RDX rdx, REG_RSI rsi, REG_RDI rdi, REG_RBP rbp, REG_RSP rsp,
            REG_R8 r8, REG_R9 r9, REG_R10 r10, REG_R11 r11, REG_R12 r12, REG_R13 r13, REG_R14 r14, REG_R15 r15,
            REG_RIP rip
        )
    };
}

fn put(general: &mut [i64; 23], registers: &kvm_regs) {
    macro_rules! put {
        ($($place:ident $register:ident),*) => { $(general[libc::$place as usize] = registers.$register as i64;)* };
    }
    pairs!(put);
    let flags = &mut general[libc::REG_EFL as usize];
    *flags = *flags & !CODE_FLAGS as i64 | (registers.rflags & CODE_FLAGS | STEP) as i64;
}

fn take(general: &[i64; 23], registers: &mut kvm_regs) {
    macro_rules! take {
        ($($place:ident $register:ident),*) => { $(registers.$register = general[libc::$place as usize] as u64;)* };
    }
    pairs!(take);
    let flags = general[libc::REG_EFL as usize] as u64;
    registers.rflags = registers.rflags & !CODE_FLAGS | flags & CODE_FLAGS;
}
