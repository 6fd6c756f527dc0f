//! The formatting behind `printf`. Arguments are read as the System V ABI lays them out, rather
//! than by Rust's own variadic functions: those are not stable, and each version of the crates
//! built on them (printf-compat) fits only one version of the compiler.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;

use crate::output::Buffer;

/// A destination for text.
pub trait Sink {
    fn put(&mut self, byte: u8);
}

/// `va_list` (System V ABI, AMD64 supplement, 3.5.7).
#[repr(C)]
#[derive(Clone)]
pub struct Arguments {
    /// Offsets of the next integer and the next floating-point argument in the save area.
    integer: u32,
    float: u32,
    /// The next argument on the stack.
    stack: *mut u8,
    saved: *mut u8,
}

/// Sizes in bytes of the save area for the six integer registers, and of the whole area with the
/// eight vector registers.
const INTEGERS_END: u32 = 6 * 8;
const FLOATS_END: u32 = INTEGERS_END + 8 * 16;

impl Arguments {
    /// Returns the next integer argument.
    ///
    /// # Safety
    /// The next argument must exist and be an integer or a pointer.
    unsafe fn word(&mut self) -> u64 {
        // SAFETY: the caller guarantees such an argument, which is in the save area or on the
        // stack.
        unsafe {
            if self.integer < INTEGERS_END {
                let at = self.saved.add(self.integer as usize);
                self.integer += 8;
                return at.cast::<u64>().read();
            }
            self.on_stack(8, 8).cast::<u64>().read()
        }
    }

    /// Returns the next floating-point argument.
    ///
    /// # Safety
    /// The next argument must exist and be a `double`.
    unsafe fn double(&mut self) -> f64 {
        // SAFETY: the caller guarantees such an argument, which is in the save area or on the
        // stack.
        unsafe {
            if self.float < FLOATS_END {
                let at = self.saved.add(self.float as usize);
                self.float += 16;
                return at.cast::<f64>().read();
            }
            self.on_stack(8, 8).cast::<f64>().read()
        }
    }

    /// Returns the next `long double` argument, rounded to a `double`.
    ///
    /// # Safety
    /// The next argument must exist and be a `long double`.
    unsafe fn long_double(&mut self) -> f64 {
        // SAFETY: the caller guarantees such an argument, which the ABI always passes on the stack.
        let (mantissa, head) = unsafe {
            let at = self.on_stack(16, 16);
            (at.cast::<u64>().read(), at.add(8).cast::<u16>().read())
        };
        let exponent = i32::from(head & 0x7fff);
        let size = match (exponent, mantissa << 1) {
            (0x7fff, 0) => f64::INFINITY,
            (0x7fff, _) => f64::NAN,
            // The mantissa is a 64-bit integer without an implied leading bit (SDM Vol. 1, 4.2.2).
            _ => libm::scalbn(mantissa as f64, exponent - 16383 - 63),
        };
        if head & 0x8000 != 0 { -size } else { size }
    }

    /// Returns the address of the next argument on the stack, and moves past it.
    ///
    /// # Safety
    /// The next argument on the stack must have this size and alignment.
    unsafe fn on_stack(&mut self, size: usize, align: usize) -> *mut u8 {
        let at = self.stack.map_addr(|address| address.next_multiple_of(align));
        self.stack = at.wrapping_add(size);
        at
    }
}

/// The flags, width and precision between `%` and the conversion letter.
#[derive(Clone, Copy, Default)]
struct Flags {
    left: bool,
    plus: bool,
    space: bool,
    alternative: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

/// The size of the argument, from the length modifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Char,
    Short,
    Int,
    Long,
    LongDouble,
}

/// A sink that counts the bytes written.
struct Counted<'a> {
    sink: &'a mut dyn Sink,
    written: usize,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.sink.put(byte));
        self.written += bytes.len();
    }

    fn fill(&mut self, byte: u8, count: usize) {
        (0..count).for_each(|_| self.put(&[byte]));
    }

    /// Writes a field: a prefix (sign, `0x`), zeros, and the rest, padded to the width.
    fn field(&mut self, flags: &Flags, prefix: &[u8], zeros: usize, body: &[u8]) {
        let length = prefix.len() + zeros + body.len();
        let padding = flags.width.saturating_sub(length);
        let zero_padding = flags.zeros && !flags.left;
        if !flags.left && !zero_padding {
            self.fill(b' ', padding);
        }
        self.put(prefix);
        self.fill(b'0', if zero_padding { zeros + padding } else { zeros });
        self.put(body);
        if flags.left {
            self.fill(b' ', padding);
        }
    }
}

/// Reads a decimal number from the format.
fn number(text: &[u8], at: &mut usize) -> usize {
    let mut value: usize = 0;
    while let Some(digit) = text.get(*at).filter(|byte| byte.is_ascii_digit()) {
        value = value.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
        *at += 1;
    }
    value
}

/// Writes arguments according to a format. Returns the number of bytes that the full text has, or
/// -1 if that exceeds an `int`.
///
/// # Safety
/// `text` must be a C string, and the arguments must be of the kinds that its conversions name.
pub unsafe fn format(sink: &mut dyn Sink, text: *const c_char, arguments: &mut Arguments) -> c_int {
    // SAFETY: the caller guarantees that `text` is a C string.
    let text = unsafe { CStr::from_ptr(text) }.to_bytes();
    let mut out = Counted { sink, written: 0 };
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte != b'%' {
            out.put(&[byte]);
            continue;
        }
        let start = at - 1;
        // SAFETY: the caller guarantees that the arguments are of the kinds that the format names.
        let done = unsafe { conversion(&mut out, text, &mut at, arguments) };
        if !done {
            // An unknown conversion is written as it stands in the format.
            out.put(&text[start..at.min(text.len())]);
        }
    }
    c_int::try_from(out.written).unwrap_or(-1)
}

/// Parses the flags, the width and the precision of a conversion.
///
/// # Safety
/// As for [`format`].
unsafe fn flags(text: &[u8], at: &mut usize, arguments: &mut Arguments) -> Flags {
    let mut flags = Flags::default();
    while let Some(byte) = text.get(*at) {
        match byte {
            b'-' => flags.left = true,
            b'+' => flags.plus = true,
            b' ' => flags.space = true,
            b'#' => flags.alternative = true,
            b'0' => flags.zeros = true,
            _ => break,
        }
        *at += 1;
    }
    let star = |at: &mut usize, arguments: &mut Arguments| {
        *at += 1;
        // SAFETY: the caller guarantees that the arguments are of the kinds that the format names.
        unsafe { arguments.word() as i32 }
    };
    if text.get(*at) == Some(&b'*') {
        let width = star(at, arguments);
        flags.left |= width < 0;
        flags.width = width.unsigned_abs() as usize;
    } else {
        flags.width = number(text, at);
    }
    if text.get(*at) == Some(&b'.') {
        *at += 1;
        flags.precision = if text.get(*at) == Some(&b'*') {
            usize::try_from(star(at, arguments)).ok()
        } else {
            Some(number(text, at))
        };
    }
    flags
}

/// Parses the length of a conversion's argument.
fn length(text: &[u8], at: &mut usize) -> Length {
    let mut length = Length::Int;
    while let Some(byte) = text.get(*at) {
        length = match byte {
            b'h' if length == Length::Short => Length::Char,
            b'h' => Length::Short,
            b'l' | b'j' | b'z' | b't' | b'q' => Length::Long,
            b'L' => Length::LongDouble,
            _ => break,
        };
        *at += 1;
    }
    length
}

/// Performs the conversion that begins after `%`; returns false if it is unknown.
///
/// # Safety
/// As for [`format`].
unsafe fn conversion(out: &mut Counted<'_>, text: &[u8], at: &mut usize, arguments: &mut Arguments) -> bool {
    // SAFETY: the caller guarantees that the arguments are of the kinds that the format names.
    let mut flags = unsafe { flags(text, at, arguments) };
    let length = length(text, at);
    let Some(&letter) = text.get(*at) else { return false };
    *at += 1;
    // SAFETY: the caller guarantees that the arguments are of the kinds that the format names.
    unsafe {
        match letter {
            b'%' => out.put(b"%"),
            b'd' | b'i' => signed(out, flags, truncate_signed(arguments.word(), length)),
            b'u' | b'x' | b'X' | b'o' | b'b' => unsigned(out, flags, truncate(arguments.word(), length), letter),
            b'p' => {
                flags.alternative = true;
                unsigned(out, flags, arguments.word(), b'x');
            }
            b'c' => {
                let byte = arguments.word() as u8;
                out.field(&Flags { zeros: false, ..flags }, &[], 0, &[byte]);
            }
            b's' => {
                let text = arguments.word() as *const c_char;
                let most = flags.precision.unwrap_or(usize::MAX);
                let text = if text.is_null() { c"(null)".as_ptr() } else { text };
                let length = crate::string::strnlen(text, most);
                let bytes = core::slice::from_raw_parts(text.cast::<u8>(), length);
                out.field(&Flags { zeros: false, ..flags }, &[], 0, bytes);
            }
            b'n' => {
                let place = arguments.word() as *mut c_void;
                match length {
                    Length::Long => place.cast::<i64>().write(out.written as i64),
                    Length::Short => place.cast::<i16>().write(out.written as i16),
                    Length::Char => place.cast::<i8>().write(out.written as i8),
                    _ => place.cast::<i32>().write(out.written as i32),
                }
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = if length == Length::LongDouble { arguments.long_double() } else { arguments.double() };
                float(out, flags, value, letter);
            }
            _ => return false,
        }
    }
    true
}

fn truncate_signed(word: u64, length: Length) -> i64 {
    match length {
        Length::Char => i64::from(word as i8),
        Length::Short => i64::from(word as i16),
        Length::Int => i64::from(word as i32),
        Length::Long | Length::LongDouble => word as i64,
    }
}

fn truncate(word: u64, length: Length) -> u64 {
    match length {
        Length::Char => u64::from(word as u8),
        Length::Short => u64::from(word as u16),
        Length::Int => u64::from(word as u32),
        Length::Long | Length::LongDouble => word,
    }
}

fn sign(flags: &Flags, is_negative: bool) -> &'static [u8] {
    match (is_negative, flags.plus, flags.space) {
        (true, _, _) => b"-",
        (_, true, _) => b"+",
        (_, _, true) => b" ",
        _ => b"",
    }
}

/// Writes a number's digits, preceded by the zeros that its precision requires.
fn integer(out: &mut Counted<'_>, mut flags: Flags, prefix: &[u8], digits: &[u8]) {
    // A precision disables the `0` flag.
    flags.zeros &= flags.precision.is_none();
    let zeros = flags.precision.unwrap_or(1).saturating_sub(digits.len());
    out.field(&flags, prefix, zeros, digits);
}

fn signed(out: &mut Counted<'_>, flags: Flags, value: i64) {
    let mut digits = Buffer::<24>::new();
    if value != 0 {
        let _ = write!(digits, "{}", value.unsigned_abs());
    }
    integer(out, flags, sign(&flags, value < 0), digits.bytes());
}

fn unsigned(out: &mut Counted<'_>, flags: Flags, value: u64, letter: u8) {
    let mut digits = Buffer::<72>::new();
    let _ = match letter {
        _ if value == 0 => Ok(()),
        b'x' => write!(digits, "{value:x}"),
        b'X' => write!(digits, "{value:X}"),
        b'o' => write!(digits, "{value:o}"),
        b'b' => write!(digits, "{value:b}"),
        _ => write!(digits, "{value}"),
    };
    let mut prefix: &[u8] = b"";
    if flags.alternative && (value != 0 || letter == b'o') {
        match letter {
            b'x' => prefix = b"0x",
            b'X' => prefix = b"0X",
            b'b' => prefix = b"0b",
            b'o' if flags.precision.unwrap_or(0) <= digits.bytes().len() => prefix = b"0",
            b'o' => {}
            _ => {}
        }
    }
    integer(out, flags, prefix, digits.bytes());
}

/// Largest precision that is computed exactly; digits beyond it are written as zeros.
const MOST_PRECISION: usize = 350;
/// Room for any output: the largest `double` has 309 digits before the point.
type Digits = Buffer<{ 310 + 1 + MOST_PRECISION + 8 }>;

fn float(out: &mut Counted<'_>, mut flags: Flags, value: f64, letter: u8) {
    let prefix = sign(&flags, value.is_sign_negative());
    let mut body = Digits::new();
    let size = value.abs();
    let upper = letter.is_ascii_uppercase();
    if !size.is_finite() {
        let word: &[u8] = match (size.is_nan(), upper) {
            (true, false) => b"nan",
            (true, true) => b"NAN",
            (false, false) => b"inf",
            (false, true) => b"INF",
        };
        flags.zeros = false;
        return out.field(&flags, prefix, 0, word);
    }
    let wanted = flags.precision.unwrap_or(6);
    let precision = wanted.min(MOST_PRECISION);
    match letter.to_ascii_lowercase() {
        b'f' => {
            fixed(&mut body, size, precision, flags.alternative);
            // Digits beyond the limit are written as zeros, even for a small `double` that has
            // more.
            let zeros = wanted - precision;
            flags.width = flags.width.saturating_sub(zeros);
            out.field(&flags, prefix, 0, body.bytes());
            return out.fill(b'0', zeros);
        }
        b'e' => exponential(&mut body, size, precision, flags.alternative, upper),
        b'g' => general(&mut body, size, precision.max(1), flags.alternative, upper),
        _ => {
            let mut with_prefix = Buffer::<3>::new();
            prefix.iter().chain(if upper { b"0X" } else { b"0x" }).for_each(|&byte| with_prefix.push(byte));
            hexadecimal(&mut body, size, flags.precision, flags.alternative, upper);
            return out.field(&flags, with_prefix.bytes(), 0, body.bytes());
        }
    }
    out.field(&flags, prefix, 0, body.bytes());
}

fn fixed(body: &mut Digits, size: f64, precision: usize, keep_point: bool) {
    let _ = write!(body, "{size:.precision$}");
    if precision == 0 && keep_point {
        body.push(b'.');
    }
}

/// Returns the digits and the exponent of a number, with `precision` digits after the point.
fn scientific(size: f64, precision: usize) -> (Digits, i32) {
    let mut text = Digits::new();
    let _ = write!(text, "{size:.precision$e}");
    let mark = text.bytes().iter().position(|&byte| byte == b'e').unwrap_or(text.bytes().len());
    let exponent = core::str::from_utf8(&text.bytes()[mark..]).ok().and_then(|rest| rest.get(1..)?.parse().ok());
    let mut digits = Digits::new();
    text.bytes()[..mark].iter().for_each(|&byte| digits.push(byte));
    (digits, exponent.unwrap_or(0))
}

fn exponent(body: &mut Digits, exponent: i32, letter: char) {
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(body, "{letter}{sign}{:02}", exponent.unsigned_abs());
}

fn exponential(body: &mut Digits, size: f64, precision: usize, keep_point: bool, upper: bool) {
    let (digits, power) = scientific(size, precision);
    digits.bytes().iter().for_each(|&byte| body.push(byte));
    if precision == 0 && keep_point {
        body.push(b'.');
    }
    exponent(body, power, if upper { 'E' } else { 'e' });
}

fn general(body: &mut Digits, size: f64, precision: usize, keep_zeros: bool, upper: bool) {
    let (digits, power) = scientific(size, precision - 1);
    let is_fixed = (-4..precision as i32).contains(&power);
    let mut text = if is_fixed {
        let mut text = Digits::new();
        fixed(&mut text, size, (precision as i32 - 1 - power) as usize, keep_zeros);
        text
    } else {
        digits
    };
    if !keep_zeros && text.bytes().contains(&b'.') {
        let kept = text.bytes().iter().rposition(|&byte| byte != b'0').map_or(0, |last| last + 1);
        let end = if text.bytes().get(kept - 1) == Some(&b'.') { kept - 1 } else { kept };
        text.cut(end);
    }
    text.bytes().iter().for_each(|&byte| body.push(byte));
    if !is_fixed && keep_zeros && !text.bytes().contains(&b'.') {
        body.push(b'.');
    }
    if !is_fixed {
        exponent(body, power, if upper { 'E' } else { 'e' });
    }
}

/// Number of bits in a `double`'s fraction.
const FRACTION_BITS: u32 = 52;

fn hexadecimal(body: &mut Digits, size: f64, precision: Option<usize>, keep_point: bool, upper: bool) {
    let bits = size.to_bits();
    let (mut fraction, biased) = (bits & ((1 << FRACTION_BITS) - 1), (bits >> FRACTION_BITS) as i32);
    let mut whole = u64::from(biased != 0);
    let power = if bits == 0 { 0 } else { biased.max(1) - 1023 };
    let mut count = FRACTION_BITS as usize / 4;
    if let Some(precision) = precision.filter(|&precision| precision < count) {
        // Rounds to nearest, ties to even.
        let cut = FRACTION_BITS as usize - 4 * precision;
        let all = whole << FRACTION_BITS | fraction;
        let (kept, rest, half) = (all >> cut, all & ((1 << cut) - 1), 1 << (cut - 1));
        let kept = kept + u64::from(rest > half || rest == half && kept & 1 != 0);
        whole = kept >> (4 * precision);
        fraction = kept & ((1 << (4 * precision)) - 1);
        count = precision;
    } else if precision.is_none() {
        while count > 0 && fraction & 0xf == 0 {
            fraction >>= 4;
            count -= 1;
        }
    }
    let _ = write!(body, "{whole}");
    if count > 0 || keep_point || precision.is_some_and(|precision| precision > 0) {
        body.push(b'.');
    }
    for digit in (0..count).rev() {
        let value = (fraction >> (4 * digit) & 0xf) as u32;
        let character = char::from_digit(value, 16).unwrap_or('0');
        body.push(if upper { character.to_ascii_uppercase() } else { character } as u8);
    }
    (count..precision.unwrap_or(0)).for_each(|_| body.push(b'0'));
    let sign = if power < 0 { '-' } else { '+' };
    let _ = write!(body, "{}{sign}{}", if upper { 'P' } else { 'p' }, power.unsigned_abs());
}
