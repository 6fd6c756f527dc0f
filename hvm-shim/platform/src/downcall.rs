//! Downcalls over the I/O port that KVM hands to user space; see [`protocol::call`].

use core::arch::asm;

use protocol::call::{CHARACTER_PORT, MARK, PORT, RINGS_PORT, SECOND_MARK};

/// Makes a downcall with two arguments; returns its result.
pub fn call(number: u64, [first, second]: [u64; 2]) -> u64 {
    call_with_three(number, [first, second, 0])
}

/// Makes a downcall with three arguments; returns its result.
pub fn call_with_three(number: u64, arguments: [u64; 3]) -> u64 {
    let result;
    // SAFETY: the instruction only asks the monitor, which changes RAX alone. LLVM reserves RBX, so
    // it is exchanged around the instruction.
    unsafe {
        asm!(
            "xchg {mark}, rbx",
            "out {port}, eax",
            "xchg {mark}, rbx",
            port = const PORT,
            mark = inout(reg) SECOND_MARK => _,
            inout("rax") MARK => result,
            in("rcx") number,
            in("rdx") arguments[0],
            in("rsi") arguments[1],
            in("rdi") arguments[2],
            options(nostack, preserves_flags)
        );
    }
    result
}

/// Writes a character, for the time before there are rings.
pub fn write(byte: u8) {
    // SAFETY: the port only takes characters.
    unsafe { asm!("out dx, al", in("dx") CHARACTER_PORT, in("al") byte, options(nomem, nostack, preserves_flags)) };
}

/// Tells the monitor that there are bytes for it in a ring.
pub fn tell_of_bytes() {
    // SAFETY: the port only wakes a thread of the monitor.
    unsafe { asm!("out {port}, al", port = const RINGS_PORT, options(nomem, nostack, preserves_flags)) };
}
