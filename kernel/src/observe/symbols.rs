//! Names of addresses, from the table `aero build` packs behind the image ([`FunctionTable`]).

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use wire::packed::FunctionTable;

use crate::lock::SpinLock;

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
        None => resolve_in_program(address).unwrap_or(symbol),
    }
}

/// Most images of programs whose names are known at once.
pub(crate) const PROGRAM_LIMIT: usize = 64;

/// The names of a loaded program's functions.
#[derive(Clone)]
pub(crate) struct Names {
    /// The program's file.
    pub program: &'static str,
    /// Its function table.
    pub table: &'static [u8],
    /// Where its image is.
    pub addresses: Range<usize>,
}

static PROGRAMS: SpinLock<ArrayVec<Names, PROGRAM_LIMIT>> = SpinLock::new(ArrayVec::new_const());

/// Makes a program's names known. One that finds no room shows as addresses only.
pub(crate) fn add(names: Names) {
    let _ = PROGRAMS.lock().try_push(names);
}

/// Forgets the names of the program whose image begins there.
pub(crate) fn remove(start: usize) {
    PROGRAMS.lock().retain(|names| names.addresses.start != start);
}

/// The function of a program an address is in. Any context: gives up while the list is being changed.
fn resolve_in_program(address: usize) -> Option<Symbol<'static>> {
    let programs = PROGRAMS.try_lock()?;
    let names = programs.iter().find(|names| names.addresses.contains(&address))?;
    Some(Symbol { program: Some(names.program), ..resolve_in(names.table, names.addresses.start, address) })
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
    for function in FunctionTable::new(table).iter() {
        let (offset, path) = (function.start as usize, function.name);
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

/// The function an address is in, by the table of an image that begins at `image`.
fn resolve_in(table: &'static [u8], image: usize, address: usize) -> Symbol<'static> {
    Symbol { address, function: find(table, address.wrapping_sub(image)), program: None }
}

fn find(table: &[u8], offset: usize) -> Option<(&str, usize)> {
    let offset = u32::try_from(offset).ok()?;
    let function = FunctionTable::new(table).at_or_before(offset)?;
    let inside = offset - function.start;
    (inside < function.size.max(1)).then_some((function.name, inside as usize))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use wire::packed::Function;

    use super::*;

    fn packed(functions: &[(u32, u32, &str)]) -> Vec<u8> {
        let functions = functions.iter().map(|&(start, size, name)| Function { start, size, name });
        FunctionTable::encode(functions).expect("it is short")
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
