//! COM2: the line to a debugger. What comes on it while the kernel runs is a non-maskable interrupt of CPU 0, so that a CPU
//! which spins with interrupts off can be stopped too.

use super::io_apic;
use super::uart::{Polled, RECEIVED_DATA_INTERRUPT};

/// ISA interrupt of COM2.
const ISA_INTERRUPT: u8 = 3;
/// CPU that looks when something comes.
const LISTENER: usize = 0;

/// The line.
pub static LINE: Polled = Polled::at(0x2f8);

/// Readies it; false if there is no such line. Its interrupt's way is set once: while a debugger has all CPUs stopped, one of them may
/// be in the middle of setting another's.
pub fn init() -> bool {
    let is_there = LINE.init();
    if is_there {
        // Without an I/O APIC nobody is told; a breakpoint or a fault still gets to the debugger.
        let _ = io_apic::route_non_maskable(io_apic::line_of_isa(ISA_INTERRUPT), LISTENER);
    }
    is_there
}

/// Interrupts the listener when a byte comes, or no longer.
pub fn watch(watch: bool) {
    LINE.enable_interrupts(if watch { RECEIVED_DATA_INTERRUPT } else { 0 });
}
