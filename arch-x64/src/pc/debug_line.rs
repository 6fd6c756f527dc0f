//! COM2: the debugger's line. Input while the kernel runs raises an NMI on CPU 0, so that even a
//! CPU that spins with interrupts disabled can be stopped.

use super::io_apic;
use super::uart::{Polled, RECEIVED_DATA_INTERRUPT};

/// ISA interrupt of COM2.
const ISA_INTERRUPT: u8 = 3;
/// CPU that takes the line's NMI.
const LISTENER: usize = 0;

/// The debugger's UART.
static LINE: Polled = Polled::at(0x2f8);

/// COM2 as the debugger's line.
pub struct DebugLine;

impl arch_contract::DebugLine for DebugLine {
    /// The interrupt is routed only once, here: a CPU that a debugger stops may be in the middle of
    /// routing another line.
    fn init() -> bool {
        let is_there = LINE.init();
        if is_there {
            // Without an I/O APIC, input on the line interrupts no CPU; a breakpoint or a fault
            // still reaches the debugger.
            let _ = io_apic::route_non_maskable(io_apic::line_of_isa(ISA_INTERRUPT), LISTENER);
        }
        is_there
    }

    fn read() -> Option<u8> {
        LINE.receive()
    }

    fn write(byte: u8) {
        LINE.send(byte);
    }

    fn watch(watch: bool) {
        LINE.enable_interrupts(if watch { RECEIVED_DATA_INTERRUPT } else { 0 });
    }
}
