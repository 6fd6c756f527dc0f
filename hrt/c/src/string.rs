//! The functions of `<string.h>` and `<strings.h>` that neither the compiler's library nor
//! `tinyrlibc` has.

use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use crate::memory::malloc;

unsafe extern "C" {
    fn strlen(text: *const c_char) -> usize;
    fn strspn(text: *const c_char, set: *const c_char) -> usize;
    fn strcspn(text: *const c_char, set: *const c_char) -> usize;
    fn strcmp(first: *const c_char, second: *const c_char) -> c_int;
    fn strncasecmp(first: *const c_char, second: *const c_char, length: usize) -> c_int;
}

/// Borrows memory as a slice of bytes.
///
/// # Safety
/// `length` bytes at `at` must be readable and unchanged for the lifetime that the caller chooses.
unsafe fn bytes<'a>(at: *const c_void, length: usize) -> &'a [u8] {
    // SAFETY: the caller guarantees that `length` bytes are readable and unchanged.
    unsafe { core::slice::from_raw_parts(at.cast(), length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strnlen(text: *const c_char, most: usize) -> usize {
    // SAFETY: the caller guarantees that the bytes are readable up to the first zero or up to
    // `most`, where the search stops.
    (0..most).find(|&index| unsafe { *text.add(index) } == 0).unwrap_or(most)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempcpy(to: *mut c_void, from: *const c_void, length: usize) -> *mut c_void {
    // SAFETY: the caller guarantees that both areas have `length` bytes and do not overlap.
    unsafe {
        ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast(), length);
        to.add(length)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn memccpy(to: *mut c_void, from: *const c_void, last: c_int, length: usize) -> *mut c_void {
    for index in 0..length {
        // SAFETY: the caller guarantees that both areas are valid up to the last byte copied.
        unsafe {
            let byte = from.cast::<u8>().add(index).read();
            to.cast::<u8>().add(index).write(byte);
            if byte == last as u8 {
                return to.add(index + 1);
            }
        }
    }
    ptr::null_mut()
}

/// Finds a byte. The wanted character is converted to an unsigned one, as in every search for a
/// character (ISO C23, 7.26.5), because it may be passed as a negative number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memchr(at: *const c_void, wanted: c_int, length: usize) -> *mut c_void {
    for index in 0..length {
        // SAFETY: the caller guarantees that the memory is readable up to the byte that is found.
        if unsafe { at.cast::<u8>().add(index).read() } == wanted as u8 {
            return at.wrapping_add(index).cast_mut();
        }
    }
    ptr::null_mut()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strchr(text: *const c_char, wanted: c_int) -> *mut c_char {
    // SAFETY: the caller passes a C string, and its terminating zero is part of the search.
    unsafe { memchr(text.cast(), wanted, strlen(text) + 1).cast() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strrchr(text: *const c_char, wanted: c_int) -> *mut c_char {
    // SAFETY: the caller passes a C string, and its terminating zero is part of the search.
    unsafe { memrchr(text.cast(), wanted, strlen(text) + 1).cast() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn memrchr(at: *const c_void, wanted: c_int, length: usize) -> *mut c_void {
    // SAFETY: the caller guarantees that `length` bytes are readable.
    let found = unsafe { bytes(at, length) }.iter().rposition(|&byte| byte == wanted as u8);
    found.map_or(ptr::null_mut(), |index| at.wrapping_add(index).cast_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmem(at: *const c_void, length: usize, wanted: *const c_void, size: usize) -> *mut c_void {
    if size == 0 {
        return at.cast_mut();
    }
    // SAFETY: the caller guarantees that both areas are readable for their lengths.
    let (whole, wanted) = unsafe { (bytes(at, length), bytes(wanted, size)) };
    let found = whole.windows(size).position(|window| window == wanted);
    found.map_or(ptr::null_mut(), |index| at.wrapping_add(index).cast_mut())
}

/// Clears memory in a way that the compiler does not optimise away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn explicit_bzero(at: *mut c_void, length: usize) {
    for index in 0..length {
        // SAFETY: the caller guarantees that `length` bytes are writable.
        unsafe { at.cast::<u8>().add(index).write_volatile(0) };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bzero(at: *mut c_void, length: usize) {
    // SAFETY: the caller guarantees that `length` bytes are writable.
    unsafe { at.cast::<u8>().write_bytes(0, length) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    // SAFETY: the caller passes a C string and memory with room for it and its terminating zero.
    unsafe {
        let length = strlen(from);
        ptr::copy_nonoverlapping(from, to, length + 1);
        to.add(length)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn stpncpy(to: *mut c_char, from: *const c_char, length: usize) -> *mut c_char {
    // SAFETY: the caller passes a C string, or at least `length` bytes of text, and memory of
    // `length` bytes.
    unsafe {
        let copied = strnlen(from, length);
        ptr::copy_nonoverlapping(from, to, copied);
        to.add(copied).write_bytes(0, length - copied);
        to.add(copied)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strncat(to: *mut c_char, from: *const c_char, length: usize) -> *mut c_char {
    // SAFETY: the caller passes C strings and memory with room for both texts and a terminating
    // zero.
    unsafe {
        let copied = strnlen(from, length);
        let end = to.add(strlen(to));
        ptr::copy_nonoverlapping(from, end, copied);
        end.add(copied).write(0);
    }
    to
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strcoll(first: *const c_char, second: *const c_char) -> c_int {
    // SAFETY: the caller passes C strings, as the standard requires.
    unsafe { strcmp(first, second) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strxfrm(to: *mut c_char, from: *const c_char, length: usize) -> usize {
    // SAFETY: the caller passes a C string and memory of `length` bytes.
    unsafe {
        let whole = strlen(from);
        if whole < length {
            ptr::copy_nonoverlapping(from, to, whole + 1);
        }
        whole
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strcasecmp(first: *const c_char, second: *const c_char) -> c_int {
    // SAFETY: the caller passes C strings, as the standard requires.
    unsafe { strncasecmp(first, second, usize::MAX) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strpbrk(text: *const c_char, set: *const c_char) -> *mut c_char {
    // SAFETY: the caller passes C strings, as the standard requires.
    let found = unsafe { text.add(strcspn(text, set)) };
    // SAFETY: the pointer leads to a character of the text or to its terminating zero.
    if unsafe { *found } == 0 { ptr::null_mut() } else { found.cast_mut() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtok_r(text: *mut c_char, set: *const c_char, rest: *mut *mut c_char) -> *mut c_char {
    // SAFETY: the caller passes C strings, and `rest` holds what an earlier call left in it.
    unsafe {
        let mut at = if text.is_null() { *rest } else { text };
        if at.is_null() {
            return ptr::null_mut();
        }
        at = at.add(strspn(at, set));
        if *at == 0 {
            *rest = ptr::null_mut();
            return ptr::null_mut();
        }
        let end = at.add(strcspn(at, set));
        *rest = if *end == 0 { ptr::null_mut() } else { end.add(1) };
        *end = 0;
        at
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strtok(text: *mut c_char, set: *const c_char) -> *mut c_char {
    #[thread_local]
    static REST: Cell<*mut c_char> = Cell::new(ptr::null_mut());
    // SAFETY: the caller passes C strings, and `REST` is thread-local.
    unsafe { strtok_r(text, set, REST.as_ptr()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strsep(place: *mut *mut c_char, set: *const c_char) -> *mut c_char {
    // SAFETY: the caller passes C strings, and a place that holds null or the text.
    unsafe {
        let at = *place;
        if at.is_null() {
            return at;
        }
        let end = at.add(strcspn(at, set));
        *place = if *end == 0 { ptr::null_mut() } else { end.add(1) };
        *end = 0;
        at
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strndup(text: *const c_char, most: usize) -> *mut c_char {
    // SAFETY: the caller passes a C string, or at least `most` bytes of text; the copy has room for
    // it and a zero.
    unsafe {
        let length = strnlen(text, most);
        let copy = malloc(length + 1).cast::<c_char>();
        if !copy.is_null() {
            ptr::copy_nonoverlapping(text, copy, length);
            copy.add(length).write(0);
        }
        copy
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn strdup(text: *const c_char) -> *mut c_char {
    // SAFETY: the caller passes a C string, as the standard requires.
    unsafe { strndup(text, usize::MAX) }
}

/// Returns the text of an error number that this library uses, as on Linux.
fn text_of(number: c_int) -> &'static CStr {
    match number {
        0 => c"Success",
        1 => c"Operation not permitted",
        2 => c"No such file or directory",
        11 => c"Resource temporarily unavailable",
        12 => c"Cannot allocate memory",
        16 => c"Device or resource busy",
        22 => c"Invalid argument",
        33 => c"Numerical argument out of domain",
        34 => c"Numerical result out of range",
        35 => c"Resource deadlock avoided",
        38 => c"Function not implemented",
        110 => c"Connection timed out",
        _ => c"Unknown error",
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn strerror(number: c_int) -> *mut c_char {
    text_of(number).as_ptr().cast_mut()
}

/// GNU's variant, which returns the text itself.
#[unsafe(no_mangle)]
pub extern "C" fn strerror_r(number: c_int, _: *mut c_char, _: usize) -> *mut c_char {
    strerror(number)
}

/// POSIX's variant, under glibc's name for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __xpg_strerror_r(number: c_int, buffer: *mut c_char, size: usize) -> c_int {
    let text = text_of(number).to_bytes_with_nul();
    if text.len() > size {
        return crate::process::ERANGE;
    }
    // SAFETY: the caller passes a buffer of `size` bytes, and the text is no longer than that.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len()) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsearch(
    key: *const c_void,
    first: *const c_void,
    count: usize,
    size: usize,
    compare: unsafe extern "C" fn(*const c_void, *const c_void) -> c_int,
) -> *mut c_void {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        let element = first.wrapping_add(middle * size);
        // SAFETY: the caller passes `count` elements of `size` bytes, and `element` is one of them.
        match unsafe { compare(key, element) } {
            0 => return element.cast_mut(),
            1.. => low = middle + 1,
            _ => high = middle,
        }
    }
    ptr::null_mut()
}
