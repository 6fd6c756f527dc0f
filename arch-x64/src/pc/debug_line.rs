//! COM2: the line to a debugger. What comes on it while the kernel runs is a non-maskable interrupt of CPU 0, so that a CPU
//! which spins with interrupts off can be stopped too.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

use super::{io_apic, uart};

const BASE: u16 = 0x2f8;
/// ISA interrupt of COM2.
const ISA_INTERRUPT: u8 = 3;
/// CPU that looks when something comes.
const LISTENER: usize = 0;

/// Polls for room to transmit before the other end counts as stuck: over 10 ms even where a port access takes 100 ns.
const TRANSMIT_POLLS: u32 = 200_000;

/// Set while the other end takes nothing: what is sent is dropped then rather than waited for.
static STUCK: AtomicBool = AtomicBool::new(false);

fn read(register: u16) -> u8 {
    // SAFETY: reading the UART's registers at most takes a received byte, which only the debugger does.
    unsafe { Port::new(BASE + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: the UART does nothing to memory.
    unsafe { Port::new(BASE + register).write(value) }
}

/// Sets 115,200 baud, 8N1, FIFOs on, interrupts off; false if there is no UART.
pub fn init() -> bool {
    if read(uart::LINE_STATUS) == uart::ABSENT {
        return false;
    }
    write(uart::INTERRUPT_ENABLE, 0);
    write(uart::LINE_CONTROL, uart::LINE_DIVISOR_ACCESS);
    write(uart::DATA, 1);
    write(uart::INTERRUPT_ENABLE, 0);
    write(uart::LINE_CONTROL, uart::LINE_8N1);
    write(uart::FIFO_CONTROL, uart::FIFO_ENABLE_AND_CLEAR);
    write(uart::MODEM_CONTROL, uart::MODEM_READY);
    true
}

/// Takes a byte that came.
pub fn receive() -> Option<u8> {
    (read(uart::LINE_STATUS) & uart::STATUS_DATA_READY != 0).then(|| read(uart::DATA))
}

/// Sends a byte, polling. Only the first wait for an end that is stuck is a long one.
pub fn send(byte: u8) {
    let polls = if STUCK.load(Ordering::Relaxed) { 1 } else { TRANSMIT_POLLS };
    for _ in 0..polls {
        if read(uart::LINE_STATUS) & uart::STATUS_TRANSMIT_EMPTY != 0 {
            STUCK.store(false, Ordering::Relaxed);
            return write(uart::DATA, byte);
        }
        core::hint::spin_loop();
    }
    STUCK.store(true, Ordering::Relaxed);
}

/// Interrupts the listener when a byte comes, or no longer.
pub fn watch(watch: bool) {
    if watch {
        // Without an I/O APIC nobody is told; a breakpoint or a fault still gets to the debugger.
        let _ = io_apic::route_non_maskable(io_apic::line_of_isa(ISA_INTERRUPT), LISTENER);
    }
    write(uart::INTERRUPT_ENABLE, if watch { uart::RECEIVED_DATA_INTERRUPT } else { 0 });
}
