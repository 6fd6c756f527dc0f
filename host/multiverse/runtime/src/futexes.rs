//! Futexes: the HRT answers wake-ups itself where nothing waits, as long as all that can wait is
//! counted here.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hvm::program::{FutexWaiters, Member};
use kvm_bindings::kvm_regs;

use crate::process;

static WAITERS: FutexWaiters = [const { AtomicU32::new(0) }; size_of::<FutexWaiters>() / size_of::<AtomicU32>()];
/// Whether all waiters are counted.
static ARE_COUNTED: AtomicBool = AtomicBool::new(true);
/// Whether all threads know that they are not.
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Flag of an operation whose futex is this process's alone, and one that says what clock its time
/// is of (Linux, include/uapi/linux/futex.h).
const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;
const CLOCK: i32 = libc::FUTEX_CLOCK_REALTIME;

/// Has the HRT answer a thread's wake-ups.
pub fn answer(member: &Member) {
    if ARE_COUNTED.load(Ordering::SeqCst) {
        // SAFETY: the calls that wait go through `counted`, and those that do not end this first.
        unsafe { member.answer_futexes(Some(&WAITERS)) };
    }
    // What has ended it meanwhile may have come before this thread had its group.
    if !ARE_COUNTED.load(Ordering::SeqCst) {
        // SAFETY: nothing is answered.
        unsafe { member.answer_futexes(None) };
    }
}

/// Has all wake-ups made by Linux from now on, because something may wait that is not counted.
pub fn end() {
    if !HAS_ENDED.load(Ordering::SeqCst) {
        ARE_COUNTED.store(false, Ordering::SeqCst);
        process::hvm().forward_futexes();
        HAS_ENDED.store(true, Ordering::SeqCst);
    }
}

/// Makes a futex's system call by a function, and counts the thread while it may wait.
pub fn counted(registers: &kvm_regs, call: impl FnOnce() -> u64) -> u64 {
    match registers.rsi as i32 & !CLOCK {
        operation if operation == PRIVATE | libc::FUTEX_WAIT || operation == PRIVATE | libc::FUTEX_WAIT_BITSET => {
            let waiters = &WAITERS[(registers.rdi & 0xffff) as usize / size_of::<AtomicU32>()];
            waiters.fetch_add(1, Ordering::SeqCst);
            let result = call();
            waiters.fetch_sub(1, Ordering::SeqCst);
            return result;
        }
        operation if moves_waiters(operation & !PRIVATE) => end(),
        _ => {}
    }
    call()
}

/// Whether an operation has waiters wait for another futex.
fn moves_waiters(operation: i32) -> bool {
    let moving =
        [libc::FUTEX_REQUEUE, libc::FUTEX_CMP_REQUEUE, libc::FUTEX_WAIT_REQUEUE_PI, libc::FUTEX_CMP_REQUEUE_PI];
    moving.contains(&operation)
}
