//! The loader: turns an ELF file into runnable code, with memory, relocations, imported kernel
//! functions, and write-xor-execute pages.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use arch_contract::{PAGE_SIZE, Protection};
use arrayvec::{ArrayString, ArrayVec};
use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

use super::regions::{Scope, give_pages, take_pages};
use super::thread_locals::Template;
use crate::arch::*;
use crate::call;
use crate::cpu;
use crate::lock::SpinLock;
use crate::memory::{self, OutOfMemory};
use crate::symbols;

/// Size of the largest image in memory, in bytes.
pub const SIZE_LIMIT: usize = 256 << 20;
/// Largest number of images loaded at once.
pub(super) const IMAGE_LIMIT: usize = symbols::PROGRAM_LIMIT;
/// Largest number of segments in an image.
const SEGMENT_LIMIT: usize = 16;
/// Length of the longest instruction set name, in bytes.
const SET_LIMIT: usize = 16;
/// Longest part of a symbol's name kept in an error, in bytes.
const NAME_LIMIT: usize = 48;
/// Bytes mapped under one lock acquisition; bounds the time with interrupts off to tens of
/// microseconds.
const MAPPED_AT_ONCE: usize = 1 << 20;

/// The address ranges reserved for images.
static MAPPED: SpinLock<ArrayVec<Range<usize>, IMAGE_LIMIT>> = SpinLock::new(ArrayVec::new_const());

type File<'a> = ElfBytes<'a, LittleEndian>;

/// Why an image was refused. Nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file is not an ELF file, or it is damaged.
    NotElf,
    /// The ELF file is for another machine, or not position independent.
    WrongKind,
    /// The file does not export a [`::abi::Program`].
    NoEntry,
    /// The exported [`::abi::Program`] is not a valid one.
    BadEntry,
    /// The file was built for this other version of the interface.
    WrongVersion(u32),
    /// The image's size in memory, in bytes, exceeds [`SIZE_LIMIT`].
    TooLarge(u64),
    /// The image imports a function that the kernel does not have.
    UnknownFunction(ArrayString<NAME_LIMIT>),
    /// The image has a relocation of a kind that this loader does not know.
    UnknownRelocation(u32),
    /// The template of the thread-local variables is missing, outside the image, malformed, or
    /// aligned to more than a page.
    ThreadLocals,
    /// The image has memory that is writable and executable, segments that share a page, or too
    /// many segments.
    BadSegments,
    /// Too many programs are running.
    TooMany,
    /// There is not enough memory or address space for the image.
    OutOfMemory,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("its image is no ELF file, or a damaged one"),
            Self::WrongKind => f.write_str("its image is not a position independent one for x86-64"),
            Self::NoEntry => write!(f, "its image has no entry: it exports no `{}`", ::abi::PROGRAM_SYMBOL),
            Self::BadEntry => write!(f, "its image has no entry: `{}` is malformed", ::abi::PROGRAM_SYMBOL),
            Self::WrongVersion(version) => {
                write!(f, "it was built for version {version} of the interface, this kernel has {}", ::abi::VERSION)
            }
            Self::TooLarge(size) => {
                write!(f, "its image of {} MiB is larger than the {} MiB allowed", size >> 20, SIZE_LIMIT >> 20)
            }
            Self::UnknownFunction(name) => write!(f, "it needs `{name}`, which this kernel does not have"),
            Self::UnknownRelocation(kind) => write!(f, "its image has a relocation of the unknown kind {kind}"),
            Self::ThreadLocals => {
                f.write_str("the template of its thread-local variables is damaged, or aligned to more than a page")
            }
            Self::BadSegments => f.write_str("its segments overlap, share a page, or one is writable and executable"),
            Self::TooMany => write!(f, "{IMAGE_LIMIT} programs run already"),
            Self::OutOfMemory => f.write_str("out of memory for its image"),
        }
    }
}

impl From<OutOfMemory> for LoadError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<elf::ParseError> for LoadError {
    fn from(_: elf::ParseError) -> Self {
        Self::NotElf
    }
}

/// A loaded image.
pub struct Image {
    /// The image's memory in the direct map.
    memory: NonNull<u8>,
    /// Size of the memory in bytes, whole pages.
    size: usize,
    /// The addresses at which the image is mapped; empty until they are reserved.
    place: Range<usize>,
    /// The parts of `place` that are code.
    code: ArrayVec<Range<usize>, SEGMENT_LIMIT>,
    /// Addresses of the array of constructors, the functions that initialize the image's global
    /// objects.
    constructors: Range<usize>,
    thread_locals: Option<Template>,
    instruction_set: Option<ArrayString<SET_LIMIT>>,
    program: ::abi::Program,
}

// SAFETY: the memory belongs to the image alone and is tied to no thread or CPU.
unsafe impl Send for Image {}
// SAFETY: a shared reference gives only read access, to fields that do not change once the image is
// loaded.
unsafe impl Sync for Image {}

/// A segment's pages, relative to the image's start.
struct Segment {
    pages: Range<usize>,
    protection: Protection,
}

impl Image {
    /// Loads a file. `resolve` looks up the kernel's functions by name.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(file: &[u8], resolve: &dyn Fn(&str) -> Option<usize>) -> Result<Self, LoadError> {
        let elf = File::minimal_parse(file)?;
        if elf.ehdr.e_type != abi::ET_DYN || elf.ehdr.e_machine != abi::EM_X86_64 {
            return Err(LoadError::WrongKind);
        }
        let headers = elf.segments().ok_or(LoadError::NotElf)?;
        let segments = segments(headers.iter())?;
        let size = segments.iter().map(|segment| segment.pages.end).max().ok_or(LoadError::NotElf)?;
        let take = || take_pages(cpu::this_node(), Scope::Nearest, size / PAGE_SIZE, PAGE_SIZE, 0);
        let memory = match take() {
            Err(OutOfMemory) if memory::reclaim() => take()?,
            taken => taken?,
        };
        let mut image = Self {
            memory,
            size,
            place: 0..0,
            code: ArrayVec::new(),
            constructors: 0..0,
            thread_locals: None,
            instruction_set: find_instruction_set(&elf),
            program: ::abi::Program { magic: 0, version: 0, main: None, stack_size: 0 },
        };
        // From here on, an early return drops the image, which gives back what it has so far.
        image.fill(&elf, file)?;
        image.place = take_place(size)?;
        image.thread_locals = image.find_thread_locals(&elf)?;
        image.relocate(&elf, resolve)?;
        image.constructors = image.find_constructors(&elf)?;
        image.program = image.find_program(&elf)?;
        image.map(&segments)?;
        Ok(image)
    }

    /// Returns the program description that the image exports.
    pub fn program(&self) -> &::abi::Program {
        &self.program
    }

    /// Returns the image's first address.
    pub fn start(&self) -> usize {
        self.place.start
    }

    /// Returns the functions that initialize the image's global objects, in order. The image must
    /// be mapped.
    pub fn constructors(&self) -> impl Iterator<Item = unsafe extern "C" fn()> {
        let words = self.constructors.clone().step_by(size_of::<usize>());
        // SAFETY: `find_constructors` checked that the array lies in the image, which is mapped at
        // these addresses.
        let addresses = words.map(|place| unsafe { (place as *const usize).read_unaligned() });
        let code = addresses.filter(|&address| self.is_code(address));
        // SAFETY: the address is in the image's code, and the image declares that it is that of a
        // constructor.
        code.map(|address| unsafe { core::mem::transmute::<usize, unsafe extern "C" fn()>(address) })
    }

    /// Returns the instruction set that the image was built for, if it names one.
    pub(super) fn instruction_set(&self) -> Option<&str> {
        self.instruction_set.as_deref()
    }

    /// Returns the template of the thread-local variables, if the image has any.
    pub(super) fn thread_locals(&self) -> Option<Template> {
        self.thread_locals
    }

    /// Returns the image's addresses, whole pages.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.place.clone()
    }

    /// Returns true if an address is in the image's code.
    pub fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the memory was allocated with this size. Only the loader calls this, before the
        // image is mapped elsewhere.
        unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), self.size) }
    }

    fn fill(&mut self, elf: &File<'_>, file: &[u8]) -> Result<(), LoadError> {
        let bytes = self.bytes();
        bytes.fill(0);
        for header in elf.segments().ok_or(LoadError::NotElf)?.iter().filter(|header| header.p_type == abi::PT_LOAD) {
            let content = range(header.p_offset, header.p_filesz).and_then(|range| file.get(range));
            let place = range(header.p_vaddr, header.p_filesz).and_then(|range| bytes.get_mut(range));
            match (content, place) {
                (Some(content), Some(place)) => place.copy_from_slice(content),
                _ => return Err(LoadError::NotElf),
            }
        }
        Ok(())
    }

    fn relocate(&mut self, elf: &File<'_>, resolve: &dyn Fn(&str) -> Option<usize>) -> Result<(), LoadError> {
        let base = self.place.start as u64;
        let symbols = elf.dynamic_symbol_table()?;
        let address_of = |index: u32| {
            let (table, names) = symbols.as_ref().ok_or(LoadError::NotElf)?;
            let symbol = table.get(index as usize)?;
            if !symbol.is_undefined() {
                return Ok(base.wrapping_add(symbol.st_value));
            }
            let name = names.get_raw(symbol.st_name as usize)?;
            let name = core::str::from_utf8(name).map_err(|_| LoadError::NotElf)?;
            let known = resolve(name).map(|address| address as u64);
            let is_weak = symbol.st_bind() == abi::STB_WEAK;
            known.or(is_weak.then_some(0)).ok_or_else(|| LoadError::UnknownFunction(cut(name)))
        };
        let variable = |index: u32| match (&symbols, index) {
            (_, 0) => Ok(0),
            (Some((table, _)), _) => table.get(index as usize).map(|symbol| symbol.st_value).map_err(LoadError::from),
            (None, _) => Err(LoadError::NotElf),
        };
        let sections = elf.section_headers().ok_or(LoadError::NotElf)?;
        for section in sections.iter().filter(|section| section.sh_type == abi::SHT_RELA) {
            // Sections that are not loaded, such as debug information, have no place in the image.
            if section.sh_flags & u64::from(abi::SHF_ALLOC) == 0 {
                continue;
            }
            for relocation in elf.section_data_as_relas(&section)? {
                let addend = relocation.r_addend as u64;
                let value = match relocation.r_type {
                    abi::R_X86_64_NONE => continue,
                    abi::R_X86_64_RELATIVE => base.wrapping_add(addend),
                    abi::R_X86_64_64 => address_of(relocation.r_sym)?.wrapping_add(addend),
                    abi::R_X86_64_GLOB_DAT | abi::R_X86_64_JUMP_SLOT => address_of(relocation.r_sym)?,
                    // An offset from the thread pointer, which points behind the variables.
                    // `__tls_get_addr` instead takes a module number, of which there is only one,
                    // and an offset from the start of the module's variables.
                    abi::R_X86_64_TPOFF64 => {
                        let size = self.thread_locals.ok_or(LoadError::ThreadLocals)?.size as u64;
                        variable(relocation.r_sym)?.wrapping_add(addend).wrapping_sub(size)
                    }
                    abi::R_X86_64_DTPOFF64 => variable(relocation.r_sym)?.wrapping_add(addend),
                    abi::R_X86_64_DTPMOD64 => 1,
                    kind => return Err(LoadError::UnknownRelocation(kind)),
                };
                let place = range(relocation.r_offset, size_of::<u64>() as u64).ok_or(LoadError::NotElf)?;
                self.bytes().get_mut(place).ok_or(LoadError::NotElf)?.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }

    fn find_thread_locals(&self, elf: &File<'_>) -> Result<Option<Template>, LoadError> {
        let headers = elf.segments().ok_or(LoadError::NotElf)?;
        let Some(header) = headers.iter().find(|header| header.p_type == abi::PT_TLS && header.p_memsz != 0) else {
            return Ok(None);
        };
        let place = range(header.p_vaddr, header.p_filesz).filter(|place| place.end <= self.size);
        let align = usize::try_from(header.p_align.max(1)).ok().filter(|align| align.is_power_of_two());
        let (Some(place), Some(align)) = (place, align) else { return Err(LoadError::ThreadLocals) };
        if align > PAGE_SIZE || header.p_filesz > header.p_memsz || header.p_memsz > SIZE_LIMIT as u64 {
            return Err(LoadError::ThreadLocals);
        }
        let size = (header.p_memsz as usize).next_multiple_of(align);
        Ok(Some(Template { start: self.place.start + place.start, length: place.len(), size, align }))
    }

    fn find_constructors(&self, elf: &File<'_>) -> Result<Range<usize>, LoadError> {
        let sections = elf.section_headers().ok_or(LoadError::NotElf)?;
        let Some(section) = sections.iter().find(|section| section.sh_type == abi::SHT_INIT_ARRAY) else {
            return Ok(0..0);
        };
        let place = range(section.sh_addr, section.sh_size).ok_or(LoadError::NotElf)?;
        let fits = place.end <= self.size && place.len().is_multiple_of(size_of::<usize>());
        let start = self.place.start;
        if fits { Ok(start + place.start..start + place.end) } else { Err(LoadError::NotElf) }
    }

    fn find_program(&mut self, elf: &File<'_>) -> Result<::abi::Program, LoadError> {
        let (table, names) = elf.dynamic_symbol_table()?.ok_or(LoadError::NoEntry)?;
        let is_program =
            |name: u32| names.get_raw(name as usize).is_ok_and(|raw| raw == ::abi::PROGRAM_SYMBOL.as_bytes());
        let symbol = table.iter().find(|symbol| !symbol.is_undefined() && is_program(symbol.st_name));
        let at = symbol.ok_or(LoadError::NoEntry)?.st_value;
        let place = range(at, size_of::<::abi::Program>() as u64).ok_or(LoadError::BadEntry)?;
        let bytes = self.bytes().get(place).ok_or(LoadError::BadEntry)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (magic, version) = (word(0), word(4));
        if magic != ::abi::MAGIC {
            return Err(LoadError::BadEntry);
        }
        if version != ::abi::VERSION {
            return Err(LoadError::WrongVersion(version));
        }
        // SAFETY: the slice has the size of a `Program`, and any bits are valid for one: its
        // function is an `Option` of a pointer.
        let program = unsafe { bytes.as_ptr().cast::<::abi::Program>().read_unaligned() };
        match program.main {
            Some(main) if self.place.contains(&(main as usize)) => Ok(program),
            _ => Err(LoadError::BadEntry),
        }
    }

    fn map(&mut self, segments: &[Segment]) -> Result<(), LoadError> {
        let physical = AddressSpace::virtual_to_physical(self.memory.as_ptr());
        let mut table = memory::page_table_frame;
        for segment in segments {
            for offset in segment.pages.clone().step_by(MAPPED_AT_ONCE) {
                let size = MAPPED_AT_ONCE.min(segment.pages.end - offset);
                let _window = MAPPED.lock();
                let place = self.place.start + offset;
                AddressSpace::map_pages(place, physical + offset as u64, size, segment.protection, &mut table)
                    .map_err(|_| LoadError::OutOfMemory)?;
            }
            if segment.protection == Protection::Code {
                self.code.push(self.place.start + segment.pages.start..self.place.start + segment.pages.end);
            }
        }
        if let Some(main) = self.program.main
            && !self.is_code(main as usize)
        {
            return Err(LoadError::BadEntry);
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.place.is_empty() {
            for page in self.place.clone().step_by(PAGE_SIZE) {
                let _window = MAPPED.lock();
                AddressSpace::unmap_page(page);
            }
            if let Err(error) = call::flush_tlbs() {
                // A CPU that does not answer may still use the old translations, so neither memory
                // nor addresses are reused.
                log::error!("programs: {error}; an image's memory of {} bytes is lost for safety", self.size);
                return;
            }
            MAPPED.lock().retain(|place| *place != self.place);
        }
        give_pages(self.memory, self.size / PAGE_SIZE);
    }
}

/// Returns the instruction set, which `aero` records as the shared object's name.
fn find_instruction_set(elf: &File<'_>) -> Option<ArrayString<SET_LIMIT>> {
    let name = elf.dynamic().ok()??.iter().find(|entry| entry.d_tag == abi::DT_SONAME)?.d_val();
    let (_, names) = elf.dynamic_symbol_table().ok()??;
    ArrayString::from(names.get(usize::try_from(name).ok()?).ok()?).ok()
}

fn range(start: u64, length: u64) -> Option<Range<usize>> {
    let end = start.checked_add(length)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

fn cut(name: &str) -> ArrayString<NAME_LIMIT> {
    let mut end = name.len().min(NAME_LIMIT);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    ArrayString::from(&name[..end]).unwrap_or_default()
}

fn segments(headers: impl Iterator<Item = ProgramHeader>) -> Result<ArrayVec<Segment, SEGMENT_LIMIT>, LoadError> {
    let mut segments = ArrayVec::<Segment, SEGMENT_LIMIT>::new();
    for header in headers {
        if header.p_type != abi::PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let end = header.p_vaddr.checked_add(header.p_memsz).ok_or(LoadError::NotElf)?;
        if end > SIZE_LIMIT as u64 {
            return Err(LoadError::TooLarge(end));
        }
        if header.p_filesz > header.p_memsz {
            return Err(LoadError::NotElf);
        }
        let protection = match (header.p_flags & abi::PF_W != 0, header.p_flags & abi::PF_X != 0) {
            (true, true) => return Err(LoadError::BadSegments),
            (true, false) => Protection::Data,
            (false, true) => Protection::Code,
            (false, false) => Protection::Constants,
        };
        let start = header.p_vaddr as usize & !(PAGE_SIZE - 1);
        let pages = start..(end as usize).next_multiple_of(PAGE_SIZE);
        if segments.iter().any(|other| pages.start < other.pages.end && other.pages.start < pages.end) {
            return Err(LoadError::BadSegments);
        }
        segments.try_push(Segment { pages, protection }).map_err(|_| LoadError::BadSegments)?;
    }
    Ok(segments)
}

/// Reserves addresses for an image, followed by an unmapped page.
fn take_place(size: usize) -> Result<Range<usize>, LoadError> {
    let window = AddressSpace::program_window();
    let mut mapped = MAPPED.lock();
    let mut start = window.start;
    // The list is in no order, so look again from behind each image in the way.
    while let Some(other) =
        mapped.iter().find(|other| start < other.end + PAGE_SIZE && other.start < start + size + PAGE_SIZE)
    {
        start = other.end + PAGE_SIZE;
    }
    let place = start..start + size;
    if place.end > window.end {
        return Err(LoadError::OutOfMemory);
    }
    mapped.try_push(place.clone()).map_err(|_| LoadError::TooMany)?;
    Ok(place)
}
