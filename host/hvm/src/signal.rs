//! A signal of the HRT's to the process.

use std::arch::asm;

use protocol::call::{MARK, PORT, SECOND_MARK, number};

/// Has the function called in the ROS that `Hvm::on_signal` set, with a code. Returns whether
/// there is one. Only functions in the HRT can do this; elsewhere it returns false.
pub fn signal_ros(code: u64) -> bool {
    let (selector, result): (u64, u64);
    // SAFETY: the first instruction only reads a register.
    unsafe { asm!("mov {}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    // The privilege level (SDM Vol. 3A, 5.5): in a process the next instruction is forbidden.
    if selector & 3 != 0 {
        return false;
    }
    // SAFETY: the instruction asks the monitor, which changes RAX alone and whose function the ROS
    // answers for. LLVM reserves RBX.
    unsafe {
        asm!(
            "xchg {mark}, rbx",
            "out {port}, eax",
            "xchg {mark}, rbx",
            port = const PORT,
            mark = inout(reg) SECOND_MARK => _,
            inout("rax") MARK => result,
            in("rcx") number::SIGNAL_ROS,
            in("rdx") code,
        );
    }
    result == 0
}
