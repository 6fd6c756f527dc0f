//! Function names of addresses, from the table that `aero build` packs behind the image
//! ([`FunctionTable`]).

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use wire::packed::FunctionTable;

use crate::lock::SpinLock;

static TABLE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static IMAGE: AtomicUsize = AtomicUsize::new(0);

/// Sets the function table and the image's start address. Called once.
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
    // SAFETY: `init` stored the address and length of a `&'static [u8]`, the length before the
    // address.
    unsafe { core::slice::from_raw_parts(at, LENGTH.load(Ordering::Relaxed)) }
}

/// An address and, if known, the function it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// The address.
    pub address: usize,
    /// Name of the function and the address's offset in it.
    pub function: Option<(&'a str, usize)>,
    /// The program the function belongs to; `None` for the kernel's functions.
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

/// Returns the function that contains an address.
pub fn resolve(address: usize) -> Symbol<'static> {
    let symbol = resolve_in(table(), IMAGE.load(Ordering::Relaxed), address);
    match symbol.function {
        Some(_) => symbol,
        None => resolve_in_program(address).unwrap_or(symbol),
    }
}

/// Maximum number of program images with known names at one time.
pub(crate) const PROGRAM_LIMIT: usize = 64;

/// The function names of a loaded program.
#[derive(Clone)]
pub(crate) struct Names {
    /// File name of the program.
    pub program: &'static str,
    /// Function table of the program.
    pub table: &'static [u8],
    /// Address range of the image.
    pub addresses: Range<usize>,
}

static PROGRAMS: SpinLock<ArrayVec<Names, PROGRAM_LIMIT>> = SpinLock::new(ArrayVec::new_const());

/// Registers the names of a program. If there is no room, its functions are displayed as addresses
/// only.
pub(crate) fn add(names: Names) {
    let _ = PROGRAMS.lock().try_push(names);
}

/// Removes the names of the program whose image starts at `start`.
pub(crate) fn remove(start: usize) {
    PROGRAMS.lock().retain(|names| names.addresses.start != start);
}

/// Returns the program function that contains an address. Callable from any context: gives up while
/// the list is locked.
fn resolve_in_program(address: usize) -> Option<Symbol<'static>> {
    let programs = PROGRAMS.try_lock()?;
    let names = programs.iter().find(|names| names.addresses.contains(&address))?;
    Some(Symbol { program: Some(names.program), ..resolve_in(names.table, names.addresses.start, address) })
}

/// Why a name does not resolve to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// There is no such function.
    Unknown,
    /// The name matches this many functions.
    Ambiguous(usize),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the kernel has no function of that name; an address works too"),
            Self::Ambiguous(count) => write!(f, "{count} functions have that name; more of the path tells them apart"),
        }
    }
}

/// Returns the start address of a kernel function, given its whole path or the end of it.
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

/// Returns the function that contains an address, by the table of the image that starts at `image`.
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
