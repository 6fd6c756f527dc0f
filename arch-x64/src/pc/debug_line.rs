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

/// Interrupts the listener when a byte comes, or no longer.
pub fn watch(watch: bool) {
    if watch {
        // Without an I/O APIC nobody is told; a breakpoint or a fault still gets to the debugger.
        let _ = io_apic::route_non_maskable(io_apic::line_of_isa(ISA_INTERRUPT), LISTENER);
    }
    LINE.enable_interrupts(if watch { RECEIVED_DATA_INTERRUPT } else { 0 });
}
