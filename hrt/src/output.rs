//! Text to the console.

use alloc::format;
use core::fmt::{self, Write};
use core::panic::PanicInfo;

use crate::raw;

/// The console.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the text's own bytes.
        unsafe { raw::aero_print(text.as_ptr(), text.len()) };
        Ok(())
    }
}

/// What [`crate::println!`] calls: the text goes out in one piece where memory allows.
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    let _ = Console.write_str(&format!("{arguments}"));
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

/// The panic handler of [`crate::program!`].
#[doc(hidden)]
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    let text = match info.location() {
        Some(location) => format!("{} at {}:{}", info.message(), location.file(), location.line()),
        None => format!("{}", info.message()),
    };
    // SAFETY: the text's own bytes.
    unsafe { raw::aero_panic(text.as_ptr(), text.len()) }
}
