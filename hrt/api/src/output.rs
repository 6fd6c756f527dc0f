//! Text output to the console.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use crate::raw;

/// The console.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the pointer and length are those of a live string slice.
        unsafe { raw::aero_print(text.as_ptr(), text.len()) };
        Ok(())
    }
}

/// Number of bytes that are printed in one piece.
const PIECE: usize = 256;

/// A text buffer on the caller's stack. Printing does not allocate, so interrupt handlers and
/// programs that are out of memory can print.
struct Piece {
    bytes: [u8; PIECE],
    length: usize,
}

impl Piece {
    const fn new() -> Self {
        Self { bytes: [0; PIECE], length: 0 }
    }

    /// Appends as many whole characters as fit, and returns the rest.
    fn fill<'a>(&mut self, text: &'a str) -> &'a str {
        let (fits, rest) = text.split_at(text.floor_char_boundary(PIECE - self.length));
        self.bytes[self.length..self.length + fits.len()].copy_from_slice(fits.as_bytes());
        self.length += fits.len();
        rest
    }

    fn flush(&mut self) {
        // SAFETY: the first `length` bytes of the buffer are initialised and live during the call.
        unsafe { raw::aero_print(self.bytes.as_ptr(), self.length) };
        self.length = 0;
    }
}

/// Prints each piece once it is full.
impl Write for Piece {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = self.fill(text);
        while !rest.is_empty() {
            self.flush();
            rest = self.fill(rest);
        }
        Ok(())
    }
}

/// A piece that truncates the text once it is full.
struct Cut(Piece);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.fill(text).is_empty() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Implements [`crate::println!`]. Up to 256 bytes are printed in one piece.
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut piece = Piece::new();
    let _ = piece.write_fmt(arguments);
    piece.flush();
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::output::print(format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::output::print(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Implements the panic handler of [`crate::program!`].
#[doc(hidden)]
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    let mut text = Cut(Piece::new());
    // Text that does not fit is cut off.
    let _ = match info.location() {
        Some(location) => write!(text, "{} at {}:{}", info.message(), location.file(), location.line()),
        None => write!(text, "{}", info.message()),
    };
    // SAFETY: the first `length` bytes of the buffer are initialised and live during the call.
    unsafe { raw::aero_panic(text.0.bytes.as_ptr(), text.0.length) }
}
