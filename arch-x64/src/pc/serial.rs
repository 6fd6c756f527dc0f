//! COM1: the console.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use arch_contract::ConsoleEvent;
use x86_64::instructions::port::Port;

use super::io_apic;
use super::uart::*;

const BASE: u16 = 0x3f8;
/// ISA interrupt of COM1.
const ISA_INTERRUPT: u8 = 4;

/// True while the UART accepts nothing because its other end is held up: output is then dropped
/// instead of waited for.
static STUCK: AtomicBool = AtomicBool::new(false);

/// The enabled interrupts.
static WATCHED: AtomicU8 = AtomicU8::new(0);

/// Bytes received before the kernel started.
static EARLY: [AtomicU8; EARLY_LIMIT] = [const { AtomicU8::new(0) }; EARLY_LIMIT];
static EARLY_COUNT: AtomicUsize = AtomicUsize::new(0);
static EARLY_TAKEN: AtomicUsize = AtomicUsize::new(0);
const EARLY_LIMIT: usize = 1024;
/// Polls without a byte until the sender is taken to be waiting for us.
const EARLY_POLLS: u32 = 500;

fn read(register: u16) -> u8 {
    // SAFETY: reading a UART register has no effect beyond taking a received byte, which only the
    // console does.
    unsafe { Port::new(BASE + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: writes to the UART's registers affect the device but no memory.
    unsafe { Port::new(BASE + register).write(value) }
}

/// Initialises the UART: 115,200 baud, 8N1, FIFOs enabled, interrupts disabled.
pub fn init() {
    if read(LINE_STATUS) == ABSENT {
        return;
    }
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, LINE_DIVISOR_ACCESS);
    write(DATA, 1);
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, LINE_8N1);
    // The FIFO reset would lose bytes that have already arrived.
    let mut quiet = 0;
    while quiet < EARLY_POLLS && EARLY_COUNT.load(Ordering::Relaxed) < EARLY_LIMIT {
        if read(LINE_STATUS) & STATUS_DATA_READY != 0 {
            EARLY[EARLY_COUNT.fetch_add(1, Ordering::Relaxed)].store(read(DATA), Ordering::Relaxed);
            quiet = 0;
        }
        quiet += 1;
    }
    write(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    write(MODEM_CONTROL, MODEM_READY);
}

/// Sends bytes by polling; drops what a stuck line does not accept.
pub fn send(bytes: &[u8]) {
    for &byte in bytes {
        if wait_for_room() {
            write(DATA, byte);
        }
    }
}

/// True once the transmitter accepts a byte. Only the first wait for a stuck line is long.
fn wait_for_room() -> bool {
    let polls = if STUCK.load(Ordering::Relaxed) { 1 } else { TRANSMIT_POLLS };
    for _ in 0..polls {
        if read(LINE_STATUS) & STATUS_TRANSMIT_EMPTY != 0 {
            STUCK.store(false, Ordering::Relaxed);
            return true;
        }
        core::hint::spin_loop();
    }
    STUCK.store(true, Ordering::Relaxed);
    false
}

const fn interrupt_of(event: ConsoleEvent) -> u8 {
    match event {
        ConsoleEvent::Input => RECEIVED_DATA_INTERRUPT,
        ConsoleEvent::Output => TRANSMIT_EMPTY_INTERRUPT,
    }
}

/// Writes the enabled interrupts to the UART. Input and output change their bits on different CPUs;
/// the loop ensures that the last write has the latest bits.
fn write_interrupt_enable() {
    loop {
        let wanted = WATCHED.load(Ordering::SeqCst);
        write(INTERRUPT_ENABLE, wanted);
        if WATCHED.load(Ordering::SeqCst) == wanted {
            return;
        }
    }
}

/// Waits until the last bit is on the line, because the machine may be switched off next.
pub fn wait_until_sent() {
    for _ in 0..TRANSMIT_POLLS {
        if STUCK.load(Ordering::Relaxed) || read(LINE_STATUS) & STATUS_IDLE != 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// COM1 as the first console.
pub struct ConsoleDevice;

impl arch_contract::ConsoleDevice for ConsoleDevice {
    fn write(bytes: &[u8]) {
        send(bytes);
    }

    /// Fills the transmit FIFO if it is empty.
    fn try_write(bytes: &[u8]) -> usize {
        if read(LINE_STATUS) & STATUS_TRANSMIT_EMPTY == 0 {
            return 0;
        }
        let taken = bytes.len().min(FIFO_SIZE);
        for &byte in &bytes[..taken] {
            write(DATA, byte);
        }
        taken
    }

    fn read() -> Option<u8> {
        let taken = EARLY_TAKEN.load(Ordering::Relaxed);
        if taken < EARLY_COUNT.load(Ordering::Relaxed) {
            EARLY_TAKEN.store(taken + 1, Ordering::Relaxed);
            return Some(EARLY[taken].load(Ordering::Relaxed));
        }
        let status = read(LINE_STATUS);
        (status != ABSENT && status & STATUS_DATA_READY != 0).then(|| read(DATA))
    }

    fn line() -> Option<u32> {
        let line = io_apic::line_of_isa(ISA_INTERRUPT);
        (line < io_apic::line_count()).then_some(line)
    }

    fn watch(event: ConsoleEvent) {
        WATCHED.fetch_or(interrupt_of(event), Ordering::SeqCst);
        write_interrupt_enable();
    }

    fn ignore(event: ConsoleEvent) {
        WATCHED.fetch_and(!interrupt_of(event), Ordering::SeqCst);
        write_interrupt_enable();
    }

    /// The read clears the "transmitter empty" request.
    fn is_raised() -> bool {
        read(INTERRUPT_IDENTIFICATION) & NONE_PENDING == 0
    }
}
