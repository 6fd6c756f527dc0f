//! The format of the data packed behind a linked image: function names, and programs. Each part
//! consists of a first word, its length in bytes as a `u32`, and its bytes; the second part begins
//! at the next multiple of [`ALIGNMENT`]. All numbers are little-endian.

use alloc::vec::Vec;

/// First word of the function names.
pub const SYMBOLS_MAGIC: u32 = u32::from_le_bytes(*b"ASYM");
/// First word of the programs.
pub const PROGRAMS_MAGIC: u32 = u32::from_le_bytes(*b"APRG");
/// Size in bytes of a part's first word and length. The linker script reserves room for them behind
/// the image.
pub const HEADER_SIZE: usize = 8;
/// Alignment of a part in bytes.
pub const ALIGNMENT: usize = 8;

/// Size of a number in bytes.
const WORD: usize = 4;

/// Returns the number at an offset; `None` past the end.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(WORD)?)?.try_into().ok()?))
}

/// Returns the `length` bytes that begin at `start`; `None` past the end.
fn part(bytes: &[u8], start: usize, length: u32) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(length as usize)?)
}

/// A table of functions by their offsets from the image's start. It consists of the number of
/// functions; for each function, sorted by offset, its offset, its size, and the start and length
/// of its name among the names; and the names. A damaged table has fewer functions, or none.
#[derive(Clone, Copy, Debug)]
pub struct FunctionTable<'a> {
    entries: &'a [u8],
    names: &'a [u8],
}

/// A function in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// The function's offset from the image's start.
    pub start: u32,
    /// The function's size in bytes.
    pub size: u32,
    /// The function's name.
    pub name: &'a str,
}

impl<'a> FunctionTable<'a> {
    const ENTRY: usize = 4 * WORD;

    /// Encodes functions, which must be sorted by offset, as a table; `None` if the names exceed
    /// 4 GiB.
    pub fn encode<'b>(functions: impl ExactSizeIterator<Item = Function<'b>>) -> Option<Vec<u8>> {
        let mut table = u32::try_from(functions.len()).ok()?.to_le_bytes().to_vec();
        let mut names: Vec<u8> = Vec::new();
        for function in functions {
            let (at, length) = (u32::try_from(names.len()).ok()?, u32::try_from(function.name.len()).ok()?);
            for word in [function.start, function.size, at, length] {
                table.extend(word.to_le_bytes());
            }
            names.extend(function.name.as_bytes());
        }
        table.extend(names);
        Some(table)
    }

    /// Opens the table in these bytes. The table is empty if the bytes end before the names.
    pub fn new(bytes: &'a [u8]) -> Self {
        let count = word(bytes, 0).unwrap_or(0) as usize;
        let entries = count.checked_mul(Self::ENTRY).and_then(|size| part(bytes, WORD, u32::try_from(size).ok()?));
        let entries = entries.unwrap_or(&[]);
        Self { entries, names: bytes.get(WORD + entries.len()..).unwrap_or(&[]) }
    }

    /// Returns the number of functions.
    fn len(&self) -> usize {
        self.entries.len() / Self::ENTRY
    }

    fn start(&self, index: usize) -> Option<u32> {
        word(self.entries, index * Self::ENTRY)
    }

    fn get(&self, index: usize) -> Option<Function<'a>> {
        let field = |number: usize| word(self.entries, index * Self::ENTRY + number * WORD);
        let name = part(self.names, field(2)? as usize, field(3)?)?;
        Some(Function { start: field(0)?, size: field(1)?, name: core::str::from_utf8(name).ok()? })
    }

    /// Returns all functions whose names are intact.
    pub fn iter(self) -> impl Iterator<Item = Function<'a>> {
        (0..self.len()).filter_map(move |index| self.get(index))
    }

    /// Returns the last function that begins at or before an offset, by binary search.
    pub fn at_or_before(&self, offset: u32) -> Option<Function<'a>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.start(middle)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.get(low.checked_sub(1)?)
    }
}

/// A program in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program<'a> {
    /// The program's name.
    pub name: &'a str,
    /// The program's ELF file.
    pub elf: &'a [u8],
    /// The program's [`FunctionTable`], with offsets from its own image's start.
    pub symbols: &'a [u8],
}

/// Encodes programs as an archive: their number; then, for each, the lengths of its name, ELF file
/// and symbols, followed by these. `None` if one of them exceeds 4 GiB.
pub fn encode_programs<'a>(programs: impl ExactSizeIterator<Item = Program<'a>>) -> Option<Vec<u8>> {
    let mut archive = u32::try_from(programs.len()).ok()?.to_le_bytes().to_vec();
    for program in programs {
        let parts = [program.name.as_bytes(), program.elf, program.symbols];
        for part in parts {
            archive.extend(u32::try_from(part.len()).ok()?.to_le_bytes());
        }
        parts.iter().for_each(|part| archive.extend(*part));
    }
    Some(archive)
}

/// Returns the programs of an archive, up to the first damaged one.
pub fn programs(archive: &[u8]) -> impl Iterator<Item = Program<'_>> + Clone {
    let count = word(archive, 0).unwrap_or(0);
    let mut rest = archive.get(WORD..).unwrap_or(&[]);
    (0..count).map_while(move |_| {
        let lengths = [word(rest, 0)?, word(rest, WORD)?, word(rest, 2 * WORD)?];
        let mut at = 3 * WORD;
        let mut next = |length: u32| {
            let found = part(rest, at, length)?;
            at += length as usize;
            Some(found)
        };
        let [name, elf, symbols] = [next(lengths[0])?, next(lengths[1])?, next(lengths[2])?];
        rest = rest.get(at..)?;
        Some(Program { name: core::str::from_utf8(name).ok()?, elf, symbols })
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const FUNCTIONS: [Function<'static>; 3] = [
        Function { start: 0x10, size: 0x10, name: "first" },
        Function { start: 0x20, size: 0, name: "no::size" },
        Function { start: 0x40, size: 0x20, name: "third" },
    ];

    #[test]
    fn functions_are_found_by_what_is_in_them() {
        let bytes = FunctionTable::encode(FUNCTIONS.into_iter()).expect("it is short");
        let table = FunctionTable::new(&bytes);
        assert_eq!(table.iter().collect::<Vec<_>>(), FUNCTIONS);
        for (offset, found) in [(0xf, None), (0x10, Some(0)), (0x1f, Some(0)), (0x3f, Some(1)), (u32::MAX, Some(2))] {
            assert_eq!(table.at_or_before(offset), found.map(|index: usize| FUNCTIONS[index]), "{offset:#x}");
        }
    }

    #[test]
    fn a_damaged_table_has_fewer_functions() {
        let bytes = FunctionTable::encode(FUNCTIONS.into_iter()).expect("it is short");
        for length in 0..bytes.len() {
            let table = FunctionTable::new(&bytes[..length]);
            assert!(table.iter().count() < FUNCTIONS.len(), "{length} bytes");
            let _ = table.at_or_before(0x50);
        }
        // A false number of functions.
        let lie = [&u32::MAX.to_le_bytes()[..], &bytes[4..]].concat();
        assert_eq!(FunctionTable::new(&lie).iter().count(), 0);
    }

    #[test]
    fn programs_are_found_up_to_the_first_that_is_damaged() {
        let there = [
            Program { name: "one", elf: b"\x7fELF", symbols: b"" },
            Program { name: "two", elf: b"", symbols: b"names" },
        ];
        let bytes = encode_programs(there.into_iter()).expect("it is short");
        assert_eq!(programs(&bytes).collect::<Vec<_>>(), there);
        for length in 0..bytes.len() {
            let found: Vec<_> = programs(&bytes[..length]).collect();
            assert!(found.len() < 2 && there.starts_with(&found), "{length} bytes: {found:?}");
        }
        let not_text = encode_programs(vec![Program { name: "x", elf: b"", symbols: b"" }].into_iter());
        let mut not_text = not_text.expect("it is short");
        not_text[4 * WORD] = 0xff;
        assert_eq!(programs(&not_text).count(), 0);
    }
}
