//! A user's library of functions for the HRT: a shared object that refers to functions of the
//! kernel's interface, and to functions of the program and its libraries.

use std::path::Path;
use std::ptr::null_mut;

use object::{Object, ObjectSegment, ObjectSymbol, Relocation, RelocationFlags, RelocationTarget, SymbolIndex, elf};

use super::code::{Call, Code};
use super::modules::Module;
use super::{find, kernel_function, shipped};

const PAGE: u64 = 4096;
/// The largest library, in bytes of memory.
const LARGEST: u64 = 1 << 30;
/// What the names of the kernel's functions begin with.
const OF_KERNEL: &str = "aero_";

/// A library that is loaded.
pub struct Library {
    base: u64,
    /// Size in memory, in bytes.
    end: u64,
    content: Vec<u8>,
}

impl Library {
    /// Loads one.
    ///
    /// # Errors
    /// Says what is wrong with it, or missing.
    pub fn load(path: &Path, modules: &[Module], code: &mut Code) -> Result<Self, String> {
        let content = std::fs::read(path).map_err(|error| error.to_string())?;
        let file = object::File::parse(&*content).map_err(|error| error.to_string())?;
        if file.kind() != object::ObjectKind::Dynamic || file.architecture() != object::Architecture::X86_64 {
            return Err("it is no shared object for x86-64 (cc -shared -fPIC)".into());
        }
        if file.sections().next().is_none() || file.section_by_name(".relr.dyn").is_some() {
            return Err("its relocations are not where they are looked for (-z nopack-relative-relocs)".into());
        }
        let end = file.segments().map(|segment| segment.address().saturating_add(segment.size())).max().unwrap_or(0);
        if end > LARGEST {
            return Err(format!("it is larger than {} MiB", LARGEST >> 20));
        }
        let base = map(end.next_multiple_of(PAGE))?;
        for segment in file.segments() {
            let bytes = segment.data().map_err(|error| error.to_string())?;
            if bytes.len() as u64 > segment.size() {
                return Err("it is damaged: a segment is longer in the file than in memory".into());
            }
            // SAFETY: the memory was mapped for this, and has room for each segment.
            unsafe { ((base + segment.address()) as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        for (at, relocation) in file.dynamic_relocations().into_iter().flatten() {
            let value = value(&file, base, &relocation, modules, code)?;
            if at.checked_add(8).is_none_or(|behind| behind > end) {
                return Err(format!("it is damaged: a relocation at {at:#x}"));
            }
            // SAFETY: the place lies in the library's memory.
            unsafe { ((base + at) as *mut u64).write_unaligned(value) };
        }
        for segment in file.segments() {
            protect(base, &segment)?;
        }
        Ok(Self { base, end, content })
    }

    /// The address of a function.
    pub fn function(&self, name: &str) -> Option<u64> {
        let file = object::File::parse(&*self.content).ok()?;
        let is_it = |symbol: &object::Symbol<'_, '_>| {
            symbol.is_definition() && symbol.kind() == object::SymbolKind::Text && symbol.name() == Ok(name)
        };
        let symbol = file.dynamic_symbols().find(is_it).filter(|symbol| symbol.address() < self.end)?;
        Some(self.base + symbol.address())
    }
}

fn map(size: u64) -> Result<u64, String> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let at =
        unsafe { libc::mmap(null_mut(), size as usize, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if at == libc::MAP_FAILED { Err("there is no memory for it".into()) } else { Ok(at as u64) }
}

fn protect<'a>(base: u64, segment: &impl ObjectSegment<'a>) -> Result<(), String> {
    let object::SegmentFlags::Elf { p_flags } = segment.flags() else { return Ok(()) };
    let protection = [(elf::PF_R, libc::PROT_READ), (elf::PF_W, libc::PROT_WRITE), (elf::PF_X, libc::PROT_EXEC)];
    let protection = protection.into_iter().filter(|(flag, _)| p_flags & flag != 0).fold(0, |all, (_, one)| all | one);
    let start = segment.address() / PAGE * PAGE;
    let size = (segment.address() + segment.size()).next_multiple_of(PAGE) - start;
    // SAFETY: the pages are the library's, which nothing uses yet.
    let done = unsafe { libc::mprotect((base + start) as *mut _, size as usize, protection) };
    if done == 0 { Ok(()) } else { Err("its memory cannot be protected".into()) }
}

/// The value that a relocation puts into memory (System V ABI AMD64, 4.4.1).
fn value(
    file: &object::File<'_>,
    base: u64,
    relocation: &Relocation,
    modules: &[Module],
    code: &mut Code,
) -> Result<u64, String> {
    let RelocationFlags::Elf { r_type } = relocation.flags() else { return Err("it is no ELF file".into()) };
    let addend = relocation.addend() as u64;
    let mut symbol = || match relocation.target() {
        RelocationTarget::Symbol(index) => symbol(file, base, index, modules, code),
        _ => Err(format!("it is damaged: a relocation of type {r_type} without a symbol")),
    };
    match r_type {
        elf::R_X86_64_RELATIVE => Ok(base.wrapping_add(addend)),
        elf::R_X86_64_64 => Ok(symbol()?.wrapping_add(addend)),
        elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT => symbol(),
        _ => Err(format!("it has a relocation of type {r_type}, which is unknown here (thread-local variables?)")),
    }
}

/// The address of a symbol: of the library's own, of the kernel, or of the program.
fn symbol(
    file: &object::File<'_>,
    base: u64,
    index: SymbolIndex,
    modules: &[Module],
    code: &mut Code,
) -> Result<u64, String> {
    let table = object::Object::dynamic_symbol_table(file).ok_or("it has no symbols")?;
    let symbol = object::ObjectSymbolTable::symbol_by_index(&table, index).map_err(|error| error.to_string())?;
    let name = symbol.name().map_err(|error| error.to_string())?;
    if symbol.is_definition() {
        return Ok(base.wrapping_add(symbol.address()));
    }
    if name.starts_with(OF_KERNEL) {
        let call =
            Call { function: kernel_function(name)?, gate: Some(shipped::gate()), arguments: None, result: None };
        let bytes = call.code();
        return code.keep(base, |_| Ok(bytes.clone()));
    }
    match find(modules, name) {
        Some(found) if found.is_chosen_at_load => {
            // SAFETY: the function takes no argument and returns the address of the one that is
            // meant (System V gABI for GNU systems, STT_GNU_IFUNC).
            Ok(unsafe { std::mem::transmute::<usize, extern "C" fn() -> u64>(found.at as usize)() })
        }
        Some(found) => Ok(found.at),
        None if symbol.is_weak() => Ok(0),
        None => Err(format!("it refers to {name}, which neither the kernel nor the program has")),
    }
}
