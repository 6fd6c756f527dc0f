//! The architecture's description of the machine, kept from the start, and the time the boot took.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use arch_contract::boot::BootInformation;

static INFORMATION: AtomicPtr<BootInformation> = AtomicPtr::new(core::ptr::null_mut());

/// Time at which the first thread was ready to run, in ns since the image was entered.
static READY_AT: AtomicU64 = AtomicU64::new(0);

/// Keeps the architecture's description of the machine. Called once, before anything else in the
/// kernel.
pub(crate) fn keep(boot: &'static BootInformation) {
    INFORMATION.store(core::ptr::from_ref(boot).cast_mut(), Ordering::Release);
}

/// Returns the architecture's description of the machine: CPUs, memory, firmware tables, command
/// line.
pub fn information() -> &'static BootInformation {
    // SAFETY: `kernel_main` calls `keep` with a `&'static` reference before any code that reads it
    // runs.
    unsafe { &*INFORMATION.load(Ordering::Acquire) }
}

/// Records the time at which the first thread was ready to run, in ns since the image was entered.
pub(crate) fn set_ready_at_ns(at: u64) {
    READY_AT.store(at, Ordering::Relaxed);
}

/// Returns the time at which the first thread was ready to run, in ns since the image was entered.
pub fn ready_at_ns() -> u64 {
    READY_AT.load(Ordering::Relaxed)
}
