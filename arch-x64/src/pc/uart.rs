//! Registers of a 16550 UART (National Semiconductor PC16550D data sheet, table II), by their offsets, and their bits.

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
