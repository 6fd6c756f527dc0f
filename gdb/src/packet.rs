//! Packets that the stub writes itself because gdbstub does not: output while the CPUs run, and the
//! thread list as one document.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use gdbstub::conn::Connection;
use kernel::arch::*;

/// Bytes of output per packet.
const CHUNK: usize = 512;
/// Features offered in addition to gdbstub's.
const OFFERS: &[u8] = b";qXfer:threads:read+";
/// Acknowledges a packet received intact.
pub const ACKNOWLEDGEMENT: u8 = b'+';
/// Precedes a byte with a special meaning in packets; that byte is sent with the bit `ESCAPED`
/// inverted (gdb manual, "Overview").
const ESCAPE: u8 = b'}';
const ESCAPED: u8 = 0x20;

/// Set while gdbstub's next reply is the one to `qSupported`.
static ADDS_OFFERS: AtomicBool = AtomicBool::new(false);

/// Announces that gdbstub's next reply lists the supported features, so that ours are appended.
pub fn add_offers() {
    ADDS_OFFERS.store(true, Ordering::Relaxed);
}

/// The debugger's line, as gdbstub writes it: byte by byte.
pub struct Line {
    sum: u8,
    /// Digits still to come of gdbstub's checksum, which is wrong once features were appended.
    digits: u8,
}

impl Line {
    /// Creates a line between packets.
    pub const fn new() -> Self {
        Self { sum: 0, digits: 0 }
    }
}

impl Connection for Line {
    type Error = core::convert::Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Self::Error> {
        if self.digits > 0 {
            self.digits -= 1;
            if self.digits == 0 {
                end(self.sum);
            }
            return Ok(());
        }
        match byte {
            b'$' => self.sum = 0,
            b'#' if ADDS_OFFERS.swap(false, Ordering::Relaxed) => {
                for &byte in OFFERS {
                    self.sum = self.sum.wrapping_add(byte);
                    DebugLine::write(byte);
                }
                // `end` writes `#` and the corrected checksum instead.
                self.digits = 2;
                return Ok(());
            }
            _ => self.sum = self.sum.wrapping_add(byte),
        }
        DebugLine::write(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value)]
}

fn end(sum: u8) {
    [b'#', digit(sum >> 4), digit(sum & 0xf)].into_iter().for_each(DebugLine::write);
}

/// Sends `text` as a packet.
fn send(text: impl Iterator<Item = u8>) {
    let mut sum = 0u8;
    DebugLine::write(b'$');
    for byte in text {
        sum = sum.wrapping_add(byte);
        DebugLine::write(byte);
    }
    end(sum);
}

/// Sends text to a gdb that waits for a stop (gdb manual, "Stop Reply Packets").
pub fn say(text: &[u8]) {
    for chunk in text.chunks(CHUNK) {
        let digits = chunk.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 0xf)]);
        send(core::iter::once(b'O').chain(digits));
    }
}

/// Answers gdb's request for part of a document (gdb manual, "General Query Packets", qXfer).
/// `is_last` means that the document ends with this part.
pub fn send_part(part: &[u8], is_last: bool) {
    let escaped = part.iter().flat_map(|&byte| {
        let is_special = matches!(byte, b'#' | b'$' | b'*' | ESCAPE);
        let bytes = if is_special { [Some(ESCAPE), Some(byte ^ ESCAPED)] } else { [Some(byte), None] };
        bytes.into_iter().flatten()
    });
    send(core::iter::once(if is_last { b'l' } else { b'm' }).chain(escaped));
}

/// A writer that escapes text for XML.
pub struct Xml<'a>(pub &'a mut dyn Write);

impl Write for Xml<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '&' => self.0.write_str("&amp;"),
            '<' => self.0.write_str("&lt;"),
            '"' => self.0.write_str("&quot;"),
            control if control.is_control() => self.0.write_char('?'),
            other => self.0.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_an_attribute() {
        let mut text = String::new();
        write!(Xml(&mut text), "a\"<&>\nb").unwrap();
        assert_eq!(text, "a&quot;&lt;&amp;>?b");
    }
}
