//! Where another CPU arrives in the image: it leaves the page tables it came with for the kernel's,
//! takes its stack, and reports.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::{interrupts, naked, paging, trap};

/// What a CPU takes along to its landing. Assembler code loads `cpu` and `local` into rdi and rsi,
/// `stack` into rdx, `tables` into rcx and `entry` into r8, and jumps to `landing`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Landing {
    /// Top of the CPU's stack.
    pub stack: u64,
    /// The CPU's index.
    pub cpu: u64,
    /// The kernel's local pointer.
    pub local: u64,
    /// The function to enter, `extern "C" fn(cpu, local) -> !`.
    pub entry: u64,
    /// Root of the kernel's page tables.
    pub tables: u64,
    /// Where to jump, at the image's usual address.
    pub landing: u64,
}

impl Landing {
    /// No landing.
    pub const NOWHERE: Self = Self { stack: 0, cpu: 0, local: 0, entry: 0, tables: 0, landing: 0 };

    /// Describes the way of a CPU into `entry`.
    pub(super) fn new(stack_top: usize, cpu: usize, local: usize, entry: extern "C" fn(usize, usize) -> !) -> Self {
        Self {
            stack: stack_top as u64,
            cpu: cpu as u64,
            local: local as u64,
            entry: entry as usize as u64,
            tables: paging::root(),
            landing: land as *const () as u64,
        }
    }
}

/// The first code in the image, which switches to the kernel's page tables and stack: only the
/// kernel's tables map that stack, and they do not map where the CPU comes from.
#[unsafe(naked)]
extern "C" fn land() -> ! {
    naked_asm!(
        naked::begin!("arch::boot::landing::land"),
        // There is no caller; the chain of frames ends here.
        ".cfi_undefined rip",
        "mov cr3, rcx",
        "mov rsp, rdx",
        "xor ebp, ebp",
        "call r8",
        "ud2",
        naked::end!(),
    )
}

/// Set by a CPU that has started, cleared by the boot CPU before it starts one.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Expects an answer from the next CPU. CPUs are started one at a time.
pub fn expect_answer() {
    ANSWERED.store(false, Ordering::Release);
}

/// Returns whether the CPU has answered.
pub fn has_answered() -> bool {
    ANSWERED.load(Ordering::Acquire)
}

/// Reports that this CPU has started, then enters the kernel.
pub(super) fn enter_kernel(cpu: usize) -> ! {
    ANSWERED.store(true, Ordering::Release);
    match trap::callbacks() {
        Some(callbacks) => (callbacks.cpu_main)(cpu),
        None => interrupts::halt_forever(),
    }
}
