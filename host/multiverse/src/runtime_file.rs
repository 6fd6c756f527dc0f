//! The runtime as a file: what of it has to be where.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::elf::{self, FileHeader64, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// Bytes at the beginning of a file that have its headers.
const HEADERS: u64 = 4096;

/// A part of the runtime.
pub struct Segment {
    /// Where it begins, from the runtime's start on.
    pub at: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its size in the file, in bytes.
    pub in_file: u64,
    /// Its size, in bytes; what is not in the file is zeros.
    pub size: u64,
    /// Its code can be executed.
    pub is_code: bool,
    /// It can be written.
    pub is_writable: bool,
}

/// A runtime.
pub struct RuntimeFile {
    /// The open file.
    pub file: File,
    /// Its parts.
    pub segments: Vec<Segment>,
    /// Its first instruction, from its start on.
    pub entry: u64,
    /// Its program headers, from its start on, and their number.
    pub headers: (u64, u64),
}

impl RuntimeFile {
    /// Opens a runtime.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is no static program that can be loaded anywhere.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("the runtime {} cannot be used", path.display());
        let file = File::open(path).with_context(context)?;
        let mut bytes = Vec::new();
        (&file).take(HEADERS).read_to_end(&mut bytes).with_context(context)?;
        let header = FileHeader64::<Endianness>::parse(&*bytes).with_context(context)?;
        let endian = header.endian().with_context(context)?;
        ensure!(header.e_type(endian) == elf::ET_DYN, "the runtime {} cannot be loaded anywhere", path.display());
        let headers = header.program_headers(endian, &*bytes).with_context(context)?;
        let segments: Vec<Segment> = headers
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD)
            .map(|header| Segment {
                at: header.p_vaddr(endian),
                offset: header.p_offset(endian),
                in_file: header.p_filesz(endian),
                size: header.p_memsz(endian),
                is_code: header.p_flags(endian) & PF_X != 0,
                is_writable: header.p_flags(endian) & PF_W != 0,
            })
            .collect();
        ensure!(!segments.is_empty(), "the runtime {} has no segments", path.display());
        let headers = (header.e_phoff(endian), headers.len() as u64);
        Ok(Self { file, segments, entry: header.e_entry(endian), headers })
    }

    /// One past the last byte of it.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.at + segment.size).max().unwrap_or(0)
    }
}
