//! The crash state the rest of the kernel asks for: whether there has been a crash, and what
//! follows one.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::command_line::AfterCrash;

const NO_CPU: usize = usize::MAX;

static CRASHED_CPU: AtomicUsize = AtomicUsize::new(NO_CPU);
static AFTER: AtomicU8 = AtomicU8::new(AfterCrash::Halt as u8);

/// Sets what happens after a crash.
pub(crate) fn set_after_crash(after: AfterCrash) {
    AFTER.store(after as u8, Ordering::Relaxed);
}

/// Returns what happens after a crash.
pub(super) fn after_crash() -> AfterCrash {
    let after = AFTER.load(Ordering::Relaxed);
    [AfterCrash::Exit, AfterCrash::Reboot].into_iter().find(|&it| it as u8 == after).unwrap_or(AfterCrash::Halt)
}

/// Returns whether a person may be at the console after a crash.
pub(crate) fn halts_after_crash() -> bool {
    after_crash() == AfterCrash::Halt
}

/// Returns whether a crash is being or has been reported.
pub(crate) fn has_crashed() -> bool {
    CRASHED_CPU.load(Ordering::Relaxed) != NO_CPU
}

/// Makes `cpu` the CPU that reports the crash.
///
/// # Errors
/// The index of the CPU that already reports one, which may be `cpu` itself.
pub(super) fn begin(cpu: usize) -> Result<(), usize> {
    CRASHED_CPU.compare_exchange(NO_CPU, cpu, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
}
