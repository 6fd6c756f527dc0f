//! `<stdio.h>` for output: both streams are the console.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt;

use hrt::raw::aero_print;

use crate::format::{Arguments, Sink, format};

/// A text buffer of fixed size; text that does not fit is dropped.
pub struct Buffer<const SIZE: usize> {
    bytes: [u8; SIZE],
    length: usize,
}

impl<const SIZE: usize> Buffer<SIZE> {
    pub const fn new() -> Self {
        Self { bytes: [0; SIZE], length: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Shortens the text to at most this many bytes.
    pub fn cut(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    pub fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

impl<const SIZE: usize> fmt::Write for Buffer<SIZE> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

fn print(bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice.
    unsafe { aero_print(bytes.as_ptr(), bytes.len()) };
}

/// Buffered output to the console: the text of one call is printed in one piece unless it is longer
/// than the buffer.
struct Console {
    buffer: Buffer<512>,
}

impl Sink for Console {
    fn put(&mut self, byte: u8) {
        if self.buffer.length == self.buffer.bytes.len() {
            self.flush();
        }
        self.buffer.push(byte);
    }
}

impl Console {
    fn flush(&mut self) {
        print(self.buffer.bytes());
        self.buffer.length = 0;
    }
}

/// A caller's memory; its last byte is reserved for the terminating zero.
struct Memory {
    at: *mut u8,
    room: usize,
    written: usize,
}

impl Sink for Memory {
    fn put(&mut self, byte: u8) {
        if self.written + 1 < self.room {
            // SAFETY: the caller of `vsnprintf` provides `room` bytes, and the check above keeps
            // the write below that.
            unsafe { self.at.add(self.written).write(byte) };
            self.written += 1;
        }
    }
}

/// A stream. The structure is opaque to programs.
#[repr(C)]
pub struct File {
    number: c_int,
}

static STREAMS: [File; 3] = [File { number: 0 }, File { number: 1 }, File { number: 2 }];

/// A pointer to a stream.
#[repr(transparent)]
pub struct Stream(*const File);

// SAFETY: the pointer leads to a static that is never written.
unsafe impl Sync for Stream {}

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "C's name")]
pub static stdout: Stream = Stream(&raw const STREAMS[1]);
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "C's name")]
pub static stderr: Stream = Stream(&raw const STREAMS[2]);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vprintf(text: *const c_char, arguments: *mut Arguments) -> c_int {
    let mut console = Console { buffer: Buffer::new() };
    // SAFETY: the caller passes a C string, and arguments of the kinds that it names.
    let written = unsafe { format(&mut console, text, &mut *arguments) };
    console.flush();
    written
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfprintf(_: *const File, text: *const c_char, arguments: *mut Arguments) -> c_int {
    // SAFETY: the caller's arguments meet the conditions of `vprintf`, to which they are passed on.
    unsafe { vprintf(text, arguments) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vsnprintf(to: *mut u8, room: usize, text: *const c_char, arguments: *mut Arguments) -> c_int {
    let mut memory = Memory { at: to, room, written: 0 };
    // SAFETY: the caller passes a C string, arguments of the kinds that it names, and memory of
    // `room` bytes.
    unsafe {
        let written = format(&mut memory, text, &mut *arguments);
        if room > 0 {
            to.add(memory.written).write(0);
        }
        written
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vsprintf(to: *mut u8, text: *const c_char, arguments: *mut Arguments) -> c_int {
    // SAFETY: the caller guarantees that `to` has room for the whole text.
    unsafe { vsnprintf(to, isize::MAX as usize, text, arguments) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn vasprintf(to: *mut *mut c_char, text: *const c_char, arguments: *mut Arguments) -> c_int {
    // SAFETY: the caller passes a format, matching arguments and a place for the pointer. The first
    // pass consumes a copy of the arguments.
    unsafe {
        let mut copy = (*arguments).clone();
        let length = vsnprintf(core::ptr::null_mut(), 0, text, &raw mut copy);
        let block = crate::memory::malloc(length.max(0) as usize + 1);
        to.write(block.cast());
        if block.is_null() || length < 0 {
            return -1;
        }
        vsnprintf(block.cast(), length as usize + 1, text, arguments)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn puts(text: *const c_char) -> c_int {
    let mut console = Console { buffer: Buffer::new() };
    // SAFETY: the caller passes a C string, as the standard requires.
    unsafe { CStr::from_ptr(text) }.to_bytes().iter().chain(b"\n").for_each(|&byte| console.put(byte));
    console.flush();
    1
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fputs(text: *const c_char, _: *const File) -> c_int {
    // SAFETY: the caller passes a C string, as the standard requires.
    print(unsafe { CStr::from_ptr(text) }.to_bytes());
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn putchar(character: c_int) -> c_int {
    print(&[character as u8]);
    c_int::from(character as u8)
}

#[unsafe(no_mangle)]
pub extern "C" fn fputc(character: c_int, _: *const File) -> c_int {
    putchar(character)
}

#[unsafe(no_mangle)]
pub extern "C" fn putc(character: c_int, _: *const File) -> c_int {
    putchar(character)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fwrite(from: *const c_void, size: usize, count: usize, _: *const File) -> usize {
    if size == 0 {
        return 0;
    }
    // SAFETY: the caller passes `count` readable elements of `size` bytes.
    print(unsafe { core::slice::from_raw_parts(from.cast(), size.saturating_mul(count)) });
    count
}

/// Does nothing: no output is held back between calls.
#[unsafe(no_mangle)]
pub extern "C" fn fflush(_: *const File) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn setvbuf(_: *const File, _: *mut c_char, _: c_int, _: usize) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn perror(text: *const c_char) {
    let mut console = Console { buffer: Buffer::new() };
    // SAFETY: the caller passes null or a C string; `errno` is the calling thread's own; `strerror`
    // returns a static C string.
    let (text, reason) = unsafe {
        let reason = CStr::from_ptr(crate::string::strerror(*crate::process::__errno_location()));
        (if text.is_null() { c"" } else { CStr::from_ptr(text) }.to_bytes(), reason)
    };
    let separator: &[u8] = if text.is_empty() { b"" } else { b": " };
    let parts = [text, separator, reason.to_bytes(), b"\n"];
    parts.into_iter().flatten().for_each(|&byte| console.put(byte));
    console.flush();
}
