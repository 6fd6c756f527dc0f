//! Conversion of text to numbers.

use core::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_ulong, c_ulonglong};

use crate::process::{EINVAL, ERANGE, set_errno};

/// Parses a number at the beginning of a text. Returns its sign, its magnitude and the number of
/// characters read; `None` if there is no number. The magnitude is `None` if it is too large for
/// any type.
fn parse(text: &[u8], base: c_int) -> Option<(bool, Option<u64>, usize)> {
    let mut at = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let is_negative = text.get(at) == Some(&b'-');
    at += usize::from(matches!(text.get(at), Some(b'-' | b'+')));
    let digit = |byte: u8, base: u32| char::from(byte).to_digit(base.max(2));
    let has_prefix = |letter: u8, base: u32| matches!(text.get(at..at + 3), Some([b'0', kind, first]) if kind.to_ascii_lowercase() == letter && digit(*first, base).is_some());
    let mut base = base as u32;
    if matches!(base, 0 | 16) && has_prefix(b'x', 16) {
        (base, at) = (16, at + 2);
    } else if base == 0 {
        base = if text.get(at) == Some(&b'0') { 8 } else { 10 };
    }
    let mut digits = text[at..].iter().map_while(|&byte| digit(byte, base));
    let count = digits.clone().count();
    if count == 0 {
        return None;
    }
    let size = digits.try_fold(0u64, |size, digit| size.checked_mul(u64::from(base))?.checked_add(u64::from(digit)));
    Some((is_negative, size, at + count))
}

/// Parses a C string and stores where the number ends. Returns the sign and the magnitude.
///
/// # Safety
/// `text` must be a C string, and `end` null or a place for a pointer.
unsafe fn number(text: *const c_char, end: *mut *const c_char, base: c_int) -> Option<(bool, Option<u64>)> {
    // SAFETY: the caller guarantees that `text` is a C string.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    let is_base = base == 0 || (2..=36).contains(&base);
    if !is_base {
        set_errno(EINVAL);
    }
    let found = if is_base { parse(bytes, base) } else { None };
    if !end.is_null() {
        // SAFETY: the caller guarantees a place for the pointer, and the length read lies within
        // the text.
        unsafe { end.write(text.add(found.map_or(0, |(_, _, length)| length))) };
    }
    found.map(|(is_negative, size, _)| (is_negative, size))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtol(text: *const c_char, end: *mut *const c_char, base: c_int) -> c_long {
    // SAFETY: the caller passes a C string, and null or a place for the end, as the C standard
    // requires.
    let Some((is_negative, size)) = (unsafe { number(text, end, base) }) else { return 0 };
    let signed =
        size.and_then(|size| if is_negative { 0i64.checked_sub_unsigned(size) } else { i64::try_from(size).ok() });
    signed.unwrap_or_else(|| {
        set_errno(ERANGE);
        if is_negative { i64::MIN } else { i64::MAX }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtoul(text: *const c_char, end: *mut *const c_char, base: c_int) -> c_ulong {
    // SAFETY: the caller passes a C string, and null or a place for the end, as the C standard
    // requires.
    let Some((is_negative, size)) = (unsafe { number(text, end, base) }) else { return 0 };
    match size {
        Some(size) if is_negative => size.wrapping_neg(),
        Some(size) => size,
        None => {
            set_errno(ERANGE);
            u64::MAX
        }
    }
}

macro_rules! same {
    ($($name:ident is $other:ident giving $kind:ty;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(text: *const c_char, end: *mut *const c_char, base: c_int) -> $kind {
            // SAFETY: the caller's arguments meet the same conditions, those of the C standard for
            // both functions.
            unsafe { $other(text, end, base) as $kind }
        })*
    };
}
// Since version 2.38, glibc's headers redirect the functions to the names with __isoc23.
same! {
    strtoll is strtol giving c_longlong;
    strtoull is strtoul giving c_ulonglong;
    strtoimax is strtol giving i64;
    strtoumax is strtoul giving u64;
    __isoc23_strtol is strtol giving c_long;
    __isoc23_strtoul is strtoul giving c_ulong;
    __isoc23_strtoll is strtol giving c_longlong;
    __isoc23_strtoull is strtoul giving c_ulonglong;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atol(text: *const c_char) -> c_long {
    // SAFETY: the caller passes a C string, as the C standard requires.
    unsafe { strtol(text, core::ptr::null_mut(), 10) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atoll(text: *const c_char) -> c_longlong {
    // SAFETY: the caller passes a C string, as the C standard requires.
    unsafe { atol(text) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atoi(text: *const c_char) -> c_int {
    // SAFETY: the caller passes a C string, as the C standard requires.
    unsafe { atol(text) as c_int }
}

/// Returns the length in bytes of the number at the beginning of a text: decimal, infinite or not a
/// number.
fn float_length(text: &[u8]) -> usize {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    for word in [&b"infinity"[..], b"inf", b"nan"] {
        if text[at..].get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
            return at + word.len();
        }
    }
    let whole = digits(at);
    at += whole;
    let mut parts = 0;
    if text.get(at) == Some(&b'.') {
        parts = digits(at + 1);
        if whole + parts > 0 {
            at += 1 + parts;
        }
    }
    if whole + parts == 0 {
        return 0;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'-' | b'+')));
        let exponent = digits((at + 1 + sign).min(text.len()));
        if exponent > 0 {
            at += 1 + sign + exponent;
        }
    }
    at
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtod(text: *const c_char, end: *mut *const c_char) -> f64 {
    // SAFETY: the caller passes a C string, as the C standard requires.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    let start = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let length = float_length(&bytes[start..]);
    let value = core::str::from_utf8(&bytes[start..start + length]).ok().and_then(|text| text.parse::<f64>().ok());
    if !end.is_null() {
        let read = if value.is_some() { start + length } else { 0 };
        // SAFETY: the pointer is a place for the end, and the length read lies within the text.
        unsafe { end.write(text.add(read)) };
    }
    let has_digits = || {
        bytes[start..start + length]
            .iter()
            .take_while(|byte| !matches!(byte, b'e' | b'E'))
            .any(|byte| (b'1'..=b'9').contains(byte))
    };
    if value == Some(0.0) && has_digits() {
        set_errno(ERANGE);
    }
    if value.is_some_and(f64::is_infinite)
        && !bytes[start..].iter().take(2).any(|byte| byte.eq_ignore_ascii_case(&b'i'))
    {
        set_errno(ERANGE);
    }
    value.unwrap_or(0.0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtof(text: *const c_char, end: *mut *const c_char) -> f32 {
    // SAFETY: the caller passes a C string, and null or a place for the end, as the C standard
    // requires.
    let value = unsafe { strtod(text, end) };
    let single = value as f32;
    if value.is_finite() && single.is_infinite() || value != 0.0 && single == 0.0 {
        set_errno(ERANGE);
    }
    single
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn atof(text: *const c_char) -> f64 {
    // SAFETY: the caller passes a C string, as the C standard requires.
    unsafe { strtod(text, core::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn labs(value: c_long) -> c_long {
    value.wrapping_abs()
}

#[unsafe(no_mangle)]
pub extern "C" fn llabs(value: c_longlong) -> c_longlong {
    value.wrapping_abs()
}

/// `div_t` and its variants.
#[repr(C)]
pub struct Divided<T> {
    quotient: T,
    remainder: T,
}

#[unsafe(no_mangle)]
pub extern "C" fn div(value: c_int, by: c_int) -> Divided<c_int> {
    Divided { quotient: value / by, remainder: value % by }
}

#[unsafe(no_mangle)]
pub extern "C" fn ldiv(value: c_long, by: c_long) -> Divided<c_long> {
    Divided { quotient: value / by, remainder: value % by }
}

#[unsafe(no_mangle)]
pub extern "C" fn lldiv(value: c_longlong, by: c_longlong) -> Divided<c_longlong> {
    Divided { quotient: value / by, remainder: value % by }
}
