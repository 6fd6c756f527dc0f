//! CPUs that had a triple fault: the monitor has them enter the image again, and the kernel reports
//! it as it does a fault.

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU32;

use arch_x64::boot;
use arch_x64::boot::landing::Landing;
use protocol::call::extension;

use crate::board::Hvm;
use crate::downcall;
use crate::parked::Sent;

/// Size of the stack for the report, in bytes.
const STACK_SIZE: usize = 64 << 10;

#[repr(align(4096))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: it is the stack of the CPU that has set `TAKEN`, and nothing else refers to it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));
/// Not 0 once a CPU has the stack.
pub static TAKEN: AtomicU32 = AtomicU32::new(0);
/// Where such a CPU goes.
pub static LANDING: Sent = Sent(UnsafeCell::new(Landing::NOWHERE));

/// Lets the monitor send CPUs back that had a triple fault. Called once.
pub fn offer() {
    let top = STACK.0.get() as usize + STACK_SIZE;
    // SAFETY: no CPU reads it before the monitor knows of the offer.
    unsafe { *LANDING.0.get() = boot::landing_after_reset::<Hvm>(top) };
    // A monitor that does not know the request ends the HRT after a triple fault.
    downcall::call(extension::TAKES_CPUS_AGAIN, [0; 2]);
}
