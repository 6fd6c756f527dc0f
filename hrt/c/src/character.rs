//! `<ctype.h>` in the C locale: the functions, and the tables that glibc's macros read.

use core::ffi::{c_int, c_ushort};

// Bits of glibc's tables (its <ctype.h>, `_ISbit`, on little-endian machines), named by their
// character class.
const BLANK: u16 = 1 << 0;
const CONTROL: u16 = 1 << 1;
const PUNCTUATION: u16 = 1 << 2;
const ALPHANUMERIC: u16 = 1 << 3;
const UPPER: u16 = 1 << 8;
const LOWER: u16 = 1 << 9;
const ALPHABETIC: u16 = 1 << 10;
const DIGIT: u16 = 1 << 11;
const HEXADECIMAL: u16 = 1 << 12;
const SPACE: u16 = 1 << 13;
const PRINTABLE: u16 = 1 << 14;
const GRAPHIC: u16 = 1 << 15;

const fn classes_of(byte: u8) -> u16 {
    let is = [
        (BLANK, matches!(byte, b' ' | b'\t')),
        (CONTROL, byte.is_ascii_control()),
        (PUNCTUATION, byte.is_ascii_punctuation()),
        (ALPHANUMERIC, byte.is_ascii_alphanumeric()),
        (UPPER, byte.is_ascii_uppercase()),
        (LOWER, byte.is_ascii_lowercase()),
        (ALPHABETIC, byte.is_ascii_alphabetic()),
        (DIGIT, byte.is_ascii_digit()),
        (HEXADECIMAL, byte.is_ascii_hexdigit()),
        (SPACE, matches!(byte, b' ' | b'\t'..=b'\r')),
        (PRINTABLE, matches!(byte, b' '..=b'~')),
        (GRAPHIC, matches!(byte, b'!'..=b'~')),
    ];
    let (mut classes, mut index) = (0, 0);
    while index < is.len() {
        if is[index].1 {
            classes |= is[index].0;
        }
        index += 1;
    }
    classes
}

/// Number of entries before that of character 0: those of EOF and of negative characters.
const BEFORE: usize = 128;
const ENTRIES: usize = BEFORE + 256;

const fn byte_of(entry: usize) -> Option<u8> {
    if entry < BEFORE { None } else { Some((entry - BEFORE) as u8) }
}

static CLASSES: [u16; ENTRIES] = {
    let (mut table, mut entry) = ([0; ENTRIES], 0);
    while entry < ENTRIES {
        if let Some(byte) = byte_of(entry) {
            table[entry] = classes_of(byte);
        }
        entry += 1;
    }
    table
};

const fn converted(upper: bool) -> [i32; ENTRIES] {
    let (mut table, mut entry) = ([0; ENTRIES], 0);
    while entry < ENTRIES {
        table[entry] = match byte_of(entry) {
            Some(byte) if upper => byte.to_ascii_uppercase() as i32,
            Some(byte) => byte.to_ascii_lowercase() as i32,
            None => entry as i32 - BEFORE as i32,
        };
        entry += 1;
    }
    table
}

static TO_UPPER: [i32; ENTRIES] = converted(true);
static TO_LOWER: [i32; ENTRIES] = converted(false);

/// A pointer to the entry of character 0, whose address glibc's macros take.
#[repr(transparent)]
struct Middle<T>(*const T);

// SAFETY: the pointer leads to a static that is never written.
unsafe impl<T> Sync for Middle<T> {}

static CLASSES_MIDDLE: Middle<c_ushort> = Middle(&raw const CLASSES[BEFORE]);
static TO_UPPER_MIDDLE: Middle<i32> = Middle(&raw const TO_UPPER[BEFORE]);
static TO_LOWER_MIDDLE: Middle<i32> = Middle(&raw const TO_LOWER[BEFORE]);

#[unsafe(no_mangle)]
pub extern "C" fn __ctype_b_loc() -> *const *const c_ushort {
    &raw const CLASSES_MIDDLE.0
}

#[unsafe(no_mangle)]
pub extern "C" fn __ctype_toupper_loc() -> *const *const i32 {
    &raw const TO_UPPER_MIDDLE.0
}

#[unsafe(no_mangle)]
pub extern "C" fn __ctype_tolower_loc() -> *const *const i32 {
    &raw const TO_LOWER_MIDDLE.0
}

fn has(character: c_int, class: u16) -> c_int {
    c_int::from(u8::try_from(character).is_ok_and(|byte| classes_of(byte) & class != 0))
}

macro_rules! tests {
    ($($name:ident $class:ident),*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name(character: c_int) -> c_int {
            has(character, $class)
        })*
    };
}
tests!(
    isalnum ALPHANUMERIC, isalpha ALPHABETIC, isblank BLANK, iscntrl CONTROL, isdigit DIGIT, isgraph GRAPHIC, islower LOWER,
    isprint PRINTABLE, ispunct PUNCTUATION, isspace SPACE, isupper UPPER, isxdigit HEXADECIMAL
);

#[unsafe(no_mangle)]
pub extern "C" fn toupper(character: c_int) -> c_int {
    u8::try_from(character).map_or(character, |byte| c_int::from(byte.to_ascii_uppercase()))
}

#[unsafe(no_mangle)]
pub extern "C" fn tolower(character: c_int) -> c_int {
    u8::try_from(character).map_or(character, |byte| c_int::from(byte.to_ascii_lowercase()))
}
