//! 16550 UARTs (National Semiconductor PC16550D data sheet, table II): register offsets, register
//! bits, and polled lines.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

/// Received and sent bytes; with [`LINE_DIVISOR_ACCESS`] the low byte of the divisor.
pub const DATA: u16 = 0;
/// Events that interrupt; with [`LINE_DIVISOR_ACCESS`] the high byte of the divisor.
pub const INTERRUPT_ENABLE: u16 = 1;
/// Cause of the interrupt. Reads have this register, writes [`FIFO_CONTROL`], at the same offset.
pub const INTERRUPT_IDENTIFICATION: u16 = 2;
/// FIFO control; see [`FIFO_ENABLE_AND_CLEAR`].
pub const FIFO_CONTROL: u16 = 2;
/// Format of a transmitted byte.
pub const LINE_CONTROL: u16 = 3;
/// Modem control outputs.
pub const MODEM_CONTROL: u16 = 4;
/// Line status; see the `STATUS_` bits.
pub const LINE_STATUS: u16 = 5;

/// Eight bits, no parity, one stop bit.
pub const LINE_8N1: u8 = 0x03;
/// Makes the first two offsets access the divisor.
pub const LINE_DIVISOR_ACCESS: u8 = 0x80;
/// Enables and clears the FIFOs, with an interrupt at the first byte.
pub const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
/// Data terminal ready, request to send, and OUT2, which gates the interrupt on PCs.
pub const MODEM_READY: u8 = 0x0b;
/// Interrupt when there is a byte to read.
pub const RECEIVED_DATA_INTERRUPT: u8 = 0x01;
/// Interrupt when the transmit FIFO is empty.
pub const TRANSMIT_EMPTY_INTERRUPT: u8 = 0x02;
/// In the interrupt identification: no interrupt is pending.
pub const NONE_PENDING: u8 = 0x01;
/// There is a byte to read.
pub const STATUS_DATA_READY: u8 = 0x01;
/// The transmit FIFO is empty.
pub const STATUS_TRANSMIT_EMPTY: u8 = 0x20;
/// The transmit FIFO and the shift register are empty.
pub const STATUS_IDLE: u8 = 0x40;
/// Value read from an absent UART: always ready to transmit, into nothing.
pub const ABSENT: u8 = 0xff;
/// Bytes that an empty transmit FIFO accepts.
pub const FIFO_SIZE: usize = 16;

/// Polls for transmit room until the other end counts as stuck: over 10 ms even if a port access
/// takes only 100 ns.
pub const TRANSMIT_POLLS: u32 = 200_000;

/// A polled UART.
pub struct Polled {
    base: u16,
    /// True while the other end accepts nothing: output is then dropped instead of waited for.
    is_stuck: AtomicBool,
}

impl Polled {
    /// Returns the UART whose registers begin at a port.
    pub const fn at(base: u16) -> Self {
        Self { base, is_stuck: AtomicBool::new(false) }
    }

    fn read(&self, register: u16) -> u8 {
        // SAFETY: reading a UART register has no effect beyond taking a received byte, which only
        // the line's owner does.
        unsafe { Port::new(self.base + register).read() }
    }

    fn write(&self, register: u16, value: u8) {
        // SAFETY: writes to the UART's registers affect the device but no memory.
        unsafe { Port::new(self.base + register).write(value) }
    }

    /// Initialises the UART: 115,200 baud, 8N1, FIFOs enabled, interrupts disabled. Returns false
    /// if there is no UART.
    pub fn init(&self) -> bool {
        if self.read(LINE_STATUS) == ABSENT {
            return false;
        }
        self.write(INTERRUPT_ENABLE, 0);
        self.write(LINE_CONTROL, LINE_DIVISOR_ACCESS);
        self.write(DATA, 1);
        self.write(INTERRUPT_ENABLE, 0);
        self.write(LINE_CONTROL, LINE_8N1);
        self.write(FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
        self.write(MODEM_CONTROL, MODEM_READY);
        true
    }

    /// Takes a received byte, if there is one.
    pub fn receive(&self) -> Option<u8> {
        (self.read(LINE_STATUS) & STATUS_DATA_READY != 0).then(|| self.read(DATA))
    }

    /// Sends a byte by polling; drops it if the other end is stuck. Only the first wait for a stuck
    /// end is long.
    pub fn send(&self, byte: u8) {
        let polls = if self.is_stuck.load(Ordering::Relaxed) { 1 } else { TRANSMIT_POLLS };
        for _ in 0..polls {
            if self.read(LINE_STATUS) & STATUS_TRANSMIT_EMPTY != 0 {
                self.is_stuck.store(false, Ordering::Relaxed);
                return self.write(DATA, byte);
            }
            core::hint::spin_loop();
        }
        self.is_stuck.store(true, Ordering::Relaxed);
    }

    /// Enables exactly these interrupts.
    pub fn enable_interrupts(&self, events: u8) {
        self.write(INTERRUPT_ENABLE, events);
    }
}
