//! 16550 UARTs (National Semiconductor PC16550D data sheet, table II): registers by their offsets, their bits, and lines that
//! are polled.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

/// Received and sent bytes; with [`LINE_DIVISOR_ACCESS`] the divisor's low byte.
pub const DATA: u16 = 0;
/// Which events interrupt; with [`LINE_DIVISOR_ACCESS`] the divisor's high byte.
pub const INTERRUPT_ENABLE: u16 = 1;
/// Read at the address where FIFO control is written.
pub const INTERRUPT_IDENTIFICATION: u16 = 2;
/// See [`FIFO_ENABLE_AND_CLEAR`].
pub const FIFO_CONTROL: u16 = 2;
/// Format of a byte.
pub const LINE_CONTROL: u16 = 3;
/// Outputs beside the data.
pub const MODEM_CONTROL: u16 = 4;
/// See the `STATUS_` bits.
pub const LINE_STATUS: u16 = 5;

/// Eight bits, no parity, one stop bit.
pub const LINE_8N1: u8 = 0x03;
/// The divisor is at the first two addresses.
pub const LINE_DIVISOR_ACCESS: u8 = 0x80;
/// FIFOs on and empty, an interrupt at the first byte.
pub const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
/// Data terminal ready, request to send, and OUT2, which gates the interrupt on PCs.
pub const MODEM_READY: u8 = 0x0b;
/// Interrupt when there is a byte to read.
pub const RECEIVED_DATA_INTERRUPT: u8 = 0x01;
/// Interrupt when the transmit FIFO is empty.
pub const TRANSMIT_EMPTY_INTERRUPT: u8 = 0x02;
/// In the interrupt identification: nothing to serve.
pub const NONE_PENDING: u8 = 0x01;
/// There is a byte to read.
pub const STATUS_DATA_READY: u8 = 0x01;
/// The transmit FIFO is empty.
pub const STATUS_TRANSMIT_EMPTY: u8 = 0x20;
/// Transmit FIFO and shift register empty.
pub const STATUS_IDLE: u8 = 0x40;
/// What an absent UART reads as: always ready to transmit, into nothing.
pub const ABSENT: u8 = 0xff;
/// Bytes the transmit FIFO takes once it is empty.
pub const FIFO_SIZE: usize = 16;

/// Polls for room to transmit before the other end counts as stuck: over 10 ms even where a port access takes 100 ns.
pub const TRANSMIT_POLLS: u32 = 200_000;

/// A UART that is polled.
pub struct Polled {
    base: u16,
    /// Set while the other end takes nothing: what is sent is dropped then rather than waited for.
    is_stuck: AtomicBool,
}

impl Polled {
    /// The one whose registers begin at a port.
    pub const fn at(base: u16) -> Self {
        Self { base, is_stuck: AtomicBool::new(false) }
    }

    fn read(&self, register: u16) -> u8 {
        // SAFETY: reading the UART's registers at most takes a received byte, which only the line's owner does.
        unsafe { Port::new(self.base + register).read() }
    }

    fn write(&self, register: u16, value: u8) {
        // SAFETY: the UART does nothing to memory.
        unsafe { Port::new(self.base + register).write(value) }
    }

    /// Sets 115,200 baud, 8N1, FIFOs on, interrupts off; false if there is no UART.
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

    /// Takes a byte that came.
    pub fn receive(&self) -> Option<u8> {
        (self.read(LINE_STATUS) & STATUS_DATA_READY != 0).then(|| self.read(DATA))
    }

    /// Sends a byte, polling. Only the first wait for an end that is stuck is a long one.
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

    /// Interrupts for these events.
    pub fn enable_interrupts(&self, events: u8) {
        self.write(INTERRUPT_ENABLE, events);
    }
}
