//! The files that make up the program in memory, and their symbols.

use std::fs;
use std::path::PathBuf;

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{LittleEndian, NativeEndian};

/// A file's header, of the only kind that there is here.
pub type Header = elf::FileHeader64<LittleEndian>;
const ENDIAN: LittleEndian = LittleEndian;

/// A file that is mapped.
pub struct Module {
    /// What it is called.
    pub path: PathBuf,
    /// What is added to its addresses.
    pub base: u64,
    content: Vec<u8>,
}

/// A function in memory.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Its address.
    pub at: u64,
    /// Its size in bytes, 0 if the file does not say.
    pub size: u64,
    /// It only returns the address of the function that is meant (STT_GNU_IFUNC).
    pub is_chosen_at_load: bool,
}

impl Module {
    /// One that is mapped from a file.
    pub fn open(path: PathBuf, base: u64) -> Option<Self> {
        let content = fs::read(&path).ok()?;
        Header::parse(&*content).ok()?;
        Some(Self { path, base, content })
    }

    /// The program itself, by the address of its first instruction.
    pub fn program(entry: u64) -> Option<Self> {
        let mut module = Self::open("/proc/self/exe".into(), 0)?;
        module.path = fs::read_link("/proc/self/exe").unwrap_or(module.path);
        module.base = entry.wrapping_sub(module.header()?.e_entry(ENDIAN));
        Some(module)
    }

    fn header(&self) -> Option<&Header> {
        Header::parse(&*self.content).ok()
    }

    /// The program's interpreter, by the place at which it is.
    pub fn interpreter(&self, base: u64) -> Option<Self> {
        let header = self.header()?;
        let headers = header.program_headers(ENDIAN, &*self.content).ok()?;
        let path = headers.iter().find_map(|one| one.interpreter(ENDIAN, &*self.content).ok().flatten())?;
        Self::open(String::from_utf8_lossy(path).into_owned().into(), base)
    }

    /// Where the list of what is linked is ([`Linked`]), once the interpreter has written that.
    pub fn linked(&self) -> Option<*const Linked> {
        let header = self.header()?;
        let headers = header.program_headers(ENDIAN, &*self.content).ok()?;
        let dynamic = headers.iter().find(|one| one.p_type(ENDIAN) == elf::PT_DYNAMIC)?;
        let at = (self.base + dynamic.p_vaddr(ENDIAN)) as *const elf::Dyn64<NativeEndian>;
        let count = dynamic.p_memsz(ENDIAN) as usize / size_of::<elf::Dyn64<NativeEndian>>();
        // SAFETY: the program's dynamic section is mapped there.
        let entries = unsafe { std::slice::from_raw_parts(at, count) };
        let entry = entries.iter().find(|one| one.d_tag(NativeEndian) == elf::DT_DEBUG)?;
        Some(entry.d_val(NativeEndian) as *const Linked).filter(|at| !at.is_null())
    }

    /// Looks for a function: among the symbols for others, by their default versions, then among
    /// all.
    pub fn function(&self, name: &str) -> Option<Found> {
        self.find(name, elf::SHT_DYNSYM).or_else(|| self.find(name, elf::SHT_SYMTAB))
    }

    fn find(&self, name: &str, kind: u32) -> Option<Found> {
        let data = &*self.content;
        let sections = self.header()?.sections(ENDIAN, data).ok()?;
        let symbols = sections.symbols(ENDIAN, data, kind).ok()?;
        let versions = if kind == elf::SHT_DYNSYM { sections.versions(ENDIAN, data).ok().flatten() } else { None };
        let is_default = |index| versions.as_ref().is_none_or(|all| !all.version_index(ENDIAN, index).is_hidden());
        symbols.enumerate().find_map(|(index, symbol)| {
            let is_chosen_at_load = symbol.st_type() == elf::STT_GNU_IFUNC;
            let is_function = symbol.st_type() == elf::STT_FUNC || is_chosen_at_load;
            let is_it = is_function
                && symbol.st_shndx(ENDIAN) != elf::SHN_UNDEF
                && symbols.symbol_name(ENDIAN, symbol).ok() == Some(name.as_bytes())
                && is_default(index);
            let at = self.base.wrapping_add(symbol.st_value(ENDIAN));
            is_it.then(|| Found { at, size: symbol.st_size(ENDIAN), is_chosen_at_load })
        })
    }
}

/// What the interpreter tells debuggers (glibc, elf/link.h: r_debug).
#[repr(C)]
pub struct Linked {
    version: i32,
    first: *const Link,
    breakpoint: u64,
    state: i32,
}

/// A file that is linked (glibc, include/link.h: link_map).
#[repr(C)]
struct Link {
    base: u64,
    name: *const libc::c_char,
    dynamic: u64,
    next: *const Link,
}

/// The state in which the list is complete.
const CONSISTENT: i32 = 0;

/// The files that are linked, in the order in which symbols are looked for; `None` while the
/// interpreter is at it.
///
/// # Safety
/// The address is where the interpreter of this process has written it, and no other thread links.
pub unsafe fn linked(at: *const Linked) -> Option<Vec<(PathBuf, u64)>> {
    let mut modules = Vec::new();
    // SAFETY: the caller answers for it.
    unsafe {
        if (*at).state != CONSISTENT {
            return None;
        }
        let mut link = (*at).first;
        while let Some(one) = link.as_ref() {
            let name = std::ffi::CStr::from_ptr(one.name).to_string_lossy();
            modules.push((PathBuf::from(&*name), one.base));
            link = one.next;
        }
    }
    Some(modules)
}
