//! Packs a linked ELF file into a boot image: its segments only, followed by function names for the
//! kernel's backtraces.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use wire::packed::{self, ALIGNMENT, Function, FunctionTable, HEADER_SIZE, PROGRAMS_MAGIC, SYMBOLS_MAGIC};

/// A built image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file for loaders: stripped, with the symbol table packed behind it.
    pub boot: PathBuf,
    /// The file for debuggers.
    pub debug: PathBuf,
    /// The image's programs: names, and ELF files with symbols and line numbers.
    pub programs: Vec<(String, PathBuf)>,
}

/// The linker script's symbol for the physical address at which boot loaders enter the image.
const PHYSICAL_ENTRY: &str = "physical_entry";
/// Alignment of segments in the file, in bytes.
const PAGE: usize = 4096;
/// Longest function name kept, in bytes.
const NAME_LIMIT: usize = 120;

type Segment = ProgramHeader64<Endianness>;

/// A program to be packed behind the kernel.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program's name.
    pub name: String,
    /// The stripped ELF file.
    pub elf: Vec<u8>,
    /// The function names, encoded by [`symbol_table`].
    pub symbols: Vec<u8>,
    /// Path of the ELF file with symbols and line numbers.
    pub debug: PathBuf,
}

/// Packs the ELF file at `from` and the programs into `to`.
pub fn pack(from: &Path, programs: &[Program], to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
    let packed = pack_bytes(&bytes, programs).with_context(|| format!("{} cannot be packed", from.display()))?;
    write_whole(to, &packed)
}

/// Writes a file unless it already has that content. The write goes through a temporary file and a
/// rename, so that a concurrent reader never sees half of it.
pub fn write_whole(to: &Path, content: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let fresh = own_name(to);
    let written = fs::write(&fresh, content).and_then(|()| fs::rename(&fresh, to));
    written.with_context(|| format!("{} cannot be written", to.display()))
}

/// Returns a name beside `path` that no other process uses.
pub fn own_name(path: &Path) -> PathBuf {
    path.with_extension(format!("new-{}", std::process::id()))
}

/// Returns the encoded programs, preceded by magic and length.
fn archive(programs: &[Program]) -> Result<Vec<u8>> {
    let parts = programs.iter().map(|Program { name, elf, symbols, .. }| packed::Program { name, elf, symbols });
    let archive = packed::encode_programs(parts).context("a program is larger than 4 GiB")?;
    let mut out = PROGRAMS_MAGIC.to_le_bytes().to_vec();
    out.extend(u32::try_from(archive.len())?.to_le_bytes());
    out.extend(archive);
    Ok(out)
}

fn pack_bytes(bytes: &[u8], programs: &[Program]) -> Result<Vec<u8>> {
    let file = object::File::parse(bytes)?;
    check_relocations(&file)?;
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let symbols = behind_image(&file, programs)?;
    let entry = file.symbol_by_name(PHYSICAL_ENTRY).with_context(|| format!("it has no symbol {PHYSICAL_ENTRY}"))?;
    // Distance between the segments' linked addresses and their physical addresses.
    let offset = header.e_entry(endian).wrapping_sub(entry.address());

    let segments: Vec<&Segment> = header
        .program_headers(endian, bytes)?
        .iter()
        .filter(|segment| [elf::PT_LOAD, elf::PT_NOTE].contains(&segment.p_type(endian)))
        .collect();
    let last_load =
        segments.iter().rposition(|segment| segment.p_type(endian) == elf::PT_LOAD).context("it has no segments")?;

    let table_end = size_of::<FileHeader64<Endianness>>() + segments.len() * size_of::<Segment>();
    let mut out = vec![0; table_end];
    let mut headers = Vec::new();
    // Where each copied segment lies in the old file, its size, and where it begins in the new one;
    // needed to relocate the notes inside segments.
    let mut moved: Vec<(u64, u64, u64)> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let mut new = **segment;
        new.p_paddr.set(endian, segment.p_vaddr(endian).wrapping_sub(offset));
        let (at, mut data) = (segment.p_offset(endian), segment.data(endian, bytes).unwrap_or(&[]).to_vec());
        if segment.p_type(endian) == elf::PT_LOAD {
            if index == last_load {
                ensure!(data.len() == HEADER_SIZE, "its last segment is not the one for symbols");
                data = symbols.clone();
                new.p_memsz.set(endian, data.len() as u64);
            }
            out.resize(out.len().next_multiple_of(PAGE), 0);
            moved.push((at, segment.p_filesz(endian), out.len() as u64));
            new.p_offset.set(endian, out.len() as u64);
            new.p_filesz.set(endian, data.len() as u64);
            out.extend(data);
        } else {
            let home = moved.iter().find(|(old, size, _)| (*old..old + size).contains(&at));
            let (old, _, new_offset) = home.context("a note is in no segment")?;
            new.p_offset.set(endian, at - old + new_offset);
        }
        headers.push(new);
    }
    let mut new_header = *header;
    new_header.e_shoff.set(endian, 0);
    new_header.e_shnum.set(endian, 0);
    new_header.e_shstrndx.set(endian, 0);
    new_header.e_phoff.set(endian, size_of::<FileHeader64<Endianness>>() as u64);
    new_header.e_phnum.set(endian, headers.len() as u16);
    let header_bytes = object::pod::bytes_of(&new_header);
    out[..header_bytes.len()].copy_from_slice(header_bytes);
    out[header_bytes.len()..table_end].copy_from_slice(object::pod::bytes_of_slice(&headers));
    Ok(out)
}

/// Returns the data behind the image: function names and programs.
fn behind_image(file: &object::File, programs: &[Program]) -> Result<Vec<u8>> {
    let table = symbol_table(file, image_start(file)?)?;
    let mut symbols = SYMBOLS_MAGIC.to_le_bytes().to_vec();
    symbols.extend((table.len() as u32).to_le_bytes());
    symbols.extend(table);
    symbols.resize(symbols.len().next_multiple_of(ALIGNMENT), 0);
    symbols.extend(archive(programs)?);
    Ok(symbols)
}

fn image_start(file: &object::File) -> Result<u64> {
    Ok(file.symbol_by_name("__image_start").context("it has no symbol __image_start")?.address())
}

/// Returns the image as it lies in memory, with function names behind it. Its first byte must be
/// the symbol `entry`.
pub fn flat(bytes: &[u8], entry: &str) -> Result<Vec<u8>> {
    let file = object::File::parse(bytes)?;
    check_relocations(&file)?;
    let start = image_start(&file)?;
    let is_first = file.symbol_by_name(entry).is_some_and(|symbol| symbol.address() == start);
    ensure!(is_first, "its first byte is not {entry}");
    let mut out = Vec::new();
    for segment in file.segments() {
        let at = usize::try_from(segment.address().checked_sub(start).context("a segment is before the image")?)?;
        ensure!(at >= out.len(), "its segments overlap");
        out.resize(at, 0);
        out.extend(segment.data()?);
        out.resize(at + usize::try_from(segment.size())?, 0);
    }
    // The last segment is the placeholder for the symbols.
    out.truncate(out.len().saturating_sub(HEADER_SIZE));
    out.extend(behind_image(&file, &[])?);
    Ok(out)
}

/// Fails if the file has relocations other than packed relative ones (`.relr.dyn`), the only kind
/// that the boot code handles.
fn check_relocations(file: &object::File) -> Result<()> {
    let others = file.section_by_name(".rela.dyn").map_or(0, |section| section.size());
    ensure!(others == 0, "it has {others} bytes of relocations that the boot code cannot apply");
    Ok(())
}

/// Returns the function table that `kernel/src/observe/symbols.rs` reads.
pub fn symbol_table(file: &object::File, image_start: u64) -> Result<Vec<u8>> {
    let functions = functions(file, image_start)?;
    let functions = functions.iter().map(|(&start, (size, name))| Function { start, size: *size, name });
    FunctionTable::encode(functions).context("the functions' names have more than 4 GiB")
}

/// Returns a file's functions by offset from `image_start`: sizes, and names as the kernel shows
/// them.
pub fn functions(file: &object::File, image_start: u64) -> Result<BTreeMap<u32, (u32, String)>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.address() >= image_start) {
        let is_function = symbol.kind() == SymbolKind::Text;
        let Ok(name) = symbol.name() else { continue };
        if !is_function || symbol.size() == 0 || name.is_empty() {
            continue;
        }
        let mut name = format!("{:#}", rustc_demangle::demangle(name));
        if name.len() > NAME_LIMIT {
            let cut = (0..=NAME_LIMIT - 3).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
            name.truncate(cut);
            name.push_str("...");
        }
        functions.entry(u32::try_from(symbol.address() - image_start)?).or_insert((symbol.size() as u32, name));
    }
    Ok(functions)
}
