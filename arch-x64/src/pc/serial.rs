//! COM1, a 16550 UART (National Semiconductor PC16550D data sheet, table II).

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use x86_64::instructions::port::Port;

const BASE: u16 = 0x3f8;
/// ISA interrupt of COM1.
pub const ISA_INTERRUPT: u8 = 4;

const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;

const LINE_8N1: u8 = 0x03;
const LINE_DIVISOR_ACCESS: u8 = 0x80;
const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
/// Data terminal ready, request to send, and OUT2, which gates the interrupt on PCs.
const MODEM_READY: u8 = 0x0b;
const RECEIVED_DATA_INTERRUPT: u8 = 0x01;
const STATUS_DATA_READY: u8 = 0x01;
const STATUS_TRANSMIT_EMPTY: u8 = 0x20;
/// What an absent UART reads as.
const ABSENT: u8 = 0xff;

/// Polls for room to transmit before the line counts as dead: over 10 ms even where a port access takes 100 ns.
const TRANSMIT_POLLS: u32 = 200_000;

/// Set once the UART was found absent or stuck: output is dropped then rather than waited for.
static DEAD: AtomicBool = AtomicBool::new(false);

/// Bytes received before the kernel started.
static EARLY: [AtomicU8; EARLY_LIMIT] = [const { AtomicU8::new(0) }; EARLY_LIMIT];
static EARLY_COUNT: AtomicUsize = AtomicUsize::new(0);
static EARLY_TAKEN: AtomicUsize = AtomicUsize::new(0);
const EARLY_LIMIT: usize = 1024;
/// Polls without a byte before the sender counts as waiting for us.
const EARLY_POLLS: u32 = 500;

fn read(port: u16) -> u8 {
    // SAFETY: reading the UART's registers at most takes a received byte, which only the console does.
    unsafe { Port::new(port).read() }
}

fn write(port: u16, value: u8) {
    // SAFETY: the UART does nothing to memory.
    unsafe { Port::new(port).write(value) }
}

/// Sets 115,200 baud, 8N1, FIFOs on, interrupts off.
pub fn init() {
    if read(LINE_STATUS) == ABSENT {
        DEAD.store(true, Ordering::Relaxed);
        return;
    }
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, LINE_DIVISOR_ACCESS);
    write(BASE, 1);
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, LINE_8N1);
    // Bytes that are there already would be lost with the FIFOs' reset.
    let mut quiet = 0;
    while quiet < EARLY_POLLS && EARLY_COUNT.load(Ordering::Relaxed) < EARLY_LIMIT {
        if read(LINE_STATUS) & STATUS_DATA_READY != 0 {
            EARLY[EARLY_COUNT.fetch_add(1, Ordering::Relaxed)].store(read(BASE), Ordering::Relaxed);
            quiet = 0;
        }
        quiet += 1;
    }
    write(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    write(MODEM_CONTROL, MODEM_READY);
}

/// Sends bytes, polling; drops them if the line is dead.
pub fn send(bytes: &[u8]) {
    for &byte in bytes {
        if DEAD.load(Ordering::Relaxed) {
            return;
        }
        let mut polls = 0;
        while read(LINE_STATUS) & STATUS_TRANSMIT_EMPTY == 0 {
            polls += 1;
            if polls > TRANSMIT_POLLS {
                DEAD.store(true, Ordering::Relaxed);
                return;
            }
            core::hint::spin_loop();
        }
        write(BASE, byte);
    }
}

/// Takes a received byte.
pub fn receive() -> Option<u8> {
    let taken = EARLY_TAKEN.load(Ordering::Relaxed);
    if taken < EARLY_COUNT.load(Ordering::Relaxed) {
        EARLY_TAKEN.store(taken + 1, Ordering::Relaxed);
        return Some(EARLY[taken].load(Ordering::Relaxed));
    }
    let status = read(LINE_STATUS);
    (status != ABSENT && status & STATUS_DATA_READY != 0).then(|| read(BASE))
}

/// Raises the interrupt when a byte was received.
pub fn enable_receive_interrupt() {
    write(INTERRUPT_ENABLE, RECEIVED_DATA_INTERRUPT);
}
