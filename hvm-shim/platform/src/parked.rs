//! The CPUs that wait, at the image's entry, until the kernel sends them to their landing.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use arch_contract::StartCpuError;
use arch_x64::boot::landing::{self, Landing};

/// No CPU has this APIC id.
const NONE: u32 = u32::MAX;
/// The APIC id of the CPU that is sent to its landing.
pub static SENT_ID: AtomicU32 = AtomicU32::new(NONE);

/// A landing that the boot CPU writes and the CPU that is sent there reads.
pub struct Sent(pub(crate) UnsafeCell<Landing>);

// SAFETY: it is written while no CPU's id is in `SENT_ID`, and read only by the CPU whose id is
// there.
unsafe impl Sync for Sent {}

/// The landing.
pub static SENT: Sent = Sent(UnsafeCell::new(Landing::NOWHERE));

/// Sends a waiting CPU to its landing. `wait` waits briefly and returns false once the time is up.
///
/// # Errors
/// [`StartCpuError::NoAnswer`]; the CPU then waits on.
pub fn send_cpu(id: u32, landing: &Landing, wait: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
    // SAFETY: no CPU reads it, because `SENT_ID` names none and CPUs are sent one at a time.
    unsafe { *SENT.0.get() = *landing };
    landing::expect_answer();
    SENT_ID.store(id, Ordering::Release);
    while !landing::has_answered() {
        if !wait() && SENT_ID.compare_exchange(id, NONE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Err(StartCpuError::NoAnswer);
        }
    }
    SENT_ID.store(NONE, Ordering::Release);
    Ok(())
}
