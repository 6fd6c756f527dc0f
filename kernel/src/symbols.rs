//! Names of addresses, from the table `aero build` packs behind the image.
//!
//! The table: u32 count, then for each function, sorted: u32 offset from the image's start, u32 size, u32 offset of
//! its name in what follows, u32 length of its name; then the names. All little endian.

use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::program;

const HEADER: usize = 4;
const ENTRY: usize = 16;

static TABLE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static IMAGE: AtomicUsize = AtomicUsize::new(0);

/// Sets the table and where the image begins. Once.
pub(crate) fn init(table: &'static [u8], image: usize) {
    LENGTH.store(table.len(), Ordering::Relaxed);
    IMAGE.store(image, Ordering::Relaxed);
    TABLE.store(table.as_ptr().cast_mut(), Ordering::Release);
}

fn table() -> &'static [u8] {
    let at = TABLE.load(Ordering::Acquire);
    if at.is_null() {
        return &[];
    }
    // SAFETY: set from a `&'static [u8]`.
    unsafe { core::slice::from_raw_parts(at, LENGTH.load(Ordering::Relaxed)) }
}

/// An address with the function it is in, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The address.
    pub address: usize,
    /// The function's name and the address's offset in it.
    pub function: Option<(&'a str, usize)>,
    /// The program whose function it is, if it is not the kernel's.
    pub program: Option<&'a str>,
}

impl fmt::Display for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x} ", self.address)?;
        if let Some(program) = self.program {
            write!(f, "{program}!")?;
        }
        match self.function {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}"),
            None => f.write_str("?"),
        }
    }
}

/// The function an address is in.
pub fn resolve(address: usize) -> Symbol<'static> {
    let symbol = resolve_in(table(), IMAGE.load(Ordering::Relaxed), address);
    match symbol.function {
        Some(_) => symbol,
        None => program::resolve(address).unwrap_or(symbol),
    }
}

/// Why a name is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// There is no such function.
    Unknown,
    /// The name fits this many functions.
    Ambiguous(usize),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the kernel has no function of that name; an address will do, too"),
            Self::Ambiguous(count) => write!(f, "{count} functions have that name; more of the path tells them apart"),
        }
    }
}

/// Where the kernel's function of a name begins: its whole path, or the end of one.
///
/// # Errors
/// [`NameError`].
pub fn address_of(name: &str) -> Result<usize, NameError> {
    find_name(table(), name).map(|offset| IMAGE.load(Ordering::Relaxed) + offset)
}

fn find_name(table: &[u8], name: &str) -> Result<usize, NameError> {
    let is_end_of = |path: &str| path.strip_suffix(name).is_some_and(|before| before.ends_with("::"));
    let mut found = None;
    let mut count = 0;
    for (offset, path) in functions(table) {
        if path == name {
            return Ok(offset);
        }
        if is_end_of(path) && found != Some(offset) {
            (found, count) = (Some(offset), count + 1);
        }
    }
    match found {
        None => Err(NameError::Unknown),
        Some(offset) if count == 1 => Ok(offset),
        Some(_) => Err(NameError::Ambiguous(count)),
    }
}

/// All functions of a table: offsets from the image's start, and names.
fn functions(table: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let word = |at: usize| Some(u32::from_le_bytes(table.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let count = word(0).unwrap_or(0).min(table.len() / ENTRY);
    let names = table.get(HEADER + count * ENTRY..).unwrap_or(&[]);
    (0..count).filter_map(move |index| {
        let at = HEADER + index * ENTRY;
        let (start, name, length) = (word(at)?, word(at + 8)?, word(at + 12)?);
        Some((start, core::str::from_utf8(names.get(name..name.checked_add(length)?)?).ok()?))
    })
}

/// The function an address is in, by the table of an image that begins at `image`.
pub fn resolve_in(table: &'static [u8], image: usize, address: usize) -> Symbol<'static> {
    Symbol { address, function: find(table, address.wrapping_sub(image)), program: None }
}

fn find(table: &[u8], offset: usize) -> Option<(&str, usize)> {
    let offset = u32::try_from(offset).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(table.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let count = word(0)? as usize;
    let entry = |index: usize| HEADER + index * ENTRY;
    // The last function that begins at or before the offset.
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(entry(middle))? <= offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let at = entry(low.checked_sub(1)?);
    let (start, size, name, length) = (word(at)?, word(at + 4)?, word(at + 8)? as usize, word(at + 12)? as usize);
    let inside = offset - start;
    if inside >= size.max(1) {
        return None;
    }
    let names = table.get(entry(count)..)?;
    let name = core::str::from_utf8(names.get(name..name.checked_add(length)?)?).ok()?;
    Some((name, inside as usize))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn packed(functions: &[(u32, u32, &str)]) -> Vec<u8> {
        let mut table = (functions.len() as u32).to_le_bytes().to_vec();
        let mut names: Vec<u8> = Vec::new();
        for (start, size, name) in functions {
            for word in [*start, *size, names.len() as u32, name.len() as u32] {
                table.extend(word.to_le_bytes());
            }
            names.extend(name.as_bytes());
        }
        table.extend(names);
        table
    }

    #[test]
    fn addresses_resolve_to_the_function_around_them() {
        let table = packed(&[(0x10, 0x20, "first"), (0x40, 0x10, "second")]);
        assert_eq!(find(&table, 0x0f), None);
        assert_eq!(find(&table, 0x10), Some(("first", 0)));
        assert_eq!(find(&table, 0x2f), Some(("first", 0x1f)));
        assert_eq!(find(&table, 0x30), None);
        assert_eq!(find(&table, 0x44), Some(("second", 4)));
        assert_eq!(find(&table, 0x50), None);
    }

    #[test]
    fn names_lead_to_functions_by_their_ends() {
        let table =
            packed(&[(0x10, 0x20, "a::run"), (0x40, 0x10, "b::run"), (0x60, 0x10, "a::b::start"), (0x80, 8, "run")]);
        assert_eq!(find_name(&table, "a::run"), Ok(0x10));
        assert_eq!(find_name(&table, "run"), Ok(0x80));
        assert_eq!(find_name(&table, "start"), Ok(0x60));
        assert_eq!(find_name(&table, "b::start"), Ok(0x60));
        assert_eq!(find_name(&table, "tart"), Err(NameError::Unknown));
        let two = packed(&[(0x10, 0x20, "a::run"), (0x40, 0x10, "b::run")]);
        assert_eq!(find_name(&two, "run"), Err(NameError::Ambiguous(2)));
        for length in 0..table.len() {
            let _ = find_name(&table[..length], "start");
        }
    }

    #[test]
    fn a_damaged_table_gives_no_names() {
        let table = packed(&[(0x10, 0x20, "first")]);
        for length in 0..table.len() {
            assert_eq!(find(&table[..length], 0x18).filter(|_| length < table.len()), None);
        }
        let mut lying = table;
        lying[0] = 0xff;
        assert_eq!(find(&lying, 0x18), None);
    }
}
