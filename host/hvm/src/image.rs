//! HRT images: ELF files with a Multiboot2 header that has an HRT tag.

use std::borrow::Cow;

use object::elf::{FileHeader64, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use protocol::boot::{self, Request};
use protocol::call::PORT;

use crate::Error;
use crate::memory::Mapping;

/// VMMCALL (AMD APM Vol. 3) and VMCALL (SDM Vol. 3C, 31.3).
const HYPERCALLS: [[u8; 3]; 2] = [[0x0f, 0x01, 0xd9], [0x0f, 0x01, 0xc1]];
/// `out PORT, eax` and a NOP (SDM Vol. 2B).
const HYPERCALL: [u8; 3] = [0xe7, PORT, 0x90];

/// A checked image.
pub struct Image<'a> {
    bytes: Cow<'a, [u8]>,
    /// What the image asks for.
    pub request: Request,
    segments: Vec<Segment>,
}

/// A part of the file, and where it goes in physical memory.
struct Segment {
    in_file: (u64, u64),
    at: u64,
    size: u64,
    is_code: bool,
}

impl<'a> Image<'a> {
    /// Checks an image.
    ///
    /// # Errors
    /// [`Error::NoHrt`], [`Error::BadImage`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let header = FileHeader64::<Endianness>::parse(bytes).map_err(|_| Error::BadImage("it is no ELF file"))?;
        let endian = header.endian().map_err(|_| Error::BadImage("it is no ELF file"))?;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return Err(Error::BadImage("it is not for x86-64"));
        }
        let request = boot::request(bytes).map_err(Error::NoHrt)?;
        let headers =
            header.program_headers(endian, bytes).map_err(|_| Error::BadImage("its program headers are damaged"))?;
        let mut segments = Vec::new();
        for header in headers.iter().filter(|header| header.p_type(endian) == PT_LOAD) {
            let (at, size) = (header.p_paddr(endian), header.p_memsz(endian));
            let in_file = header.file_range(endian);
            let file_end = in_file.0.checked_add(in_file.1);
            if file_end.is_none_or(|end| end > bytes.len() as u64) || in_file.1 > size {
                return Err(Error::BadImage("a segment reaches beyond the end of the file"));
            }
            if at.checked_add(size).is_none() {
                return Err(Error::BadImage("a segment reaches beyond the end of memory"));
            }
            let is_code = header.p_flags(endian) & PF_X != 0;
            segments.push(Segment { in_file, at, size, is_code });
        }
        if segments.is_empty() {
            return Err(Error::BadImage("it has no segments"));
        }
        Ok(Self { bytes: bytes.into(), request, segments })
    }

    /// Replaces the instructions VMMCALL and VMCALL, on which KVM answers itself, by `out` to the
    /// port that KVM hands to user space. Returns their number. The code is not disassembled: the
    /// same bytes within another instruction are replaced as well.
    pub fn patch_hypercalls(&mut self) -> usize {
        let bytes = self.bytes.to_mut();
        let mut count = 0;
        for Segment { in_file: (start, length), .. } in self.segments.iter().filter(|segment| segment.is_code) {
            // Checked when the image was parsed.
            let content = &mut bytes[*start as usize..(start + length) as usize];
            let mut at = 0;
            while let Some(instruction) = content.get_mut(at..at + HYPERCALL.len()) {
                if HYPERCALLS.iter().any(|known| instruction == known) {
                    instruction.copy_from_slice(&HYPERCALL);
                    count += 1;
                }
                at += 1;
            }
        }
        count
    }

    /// One past the last byte of physical memory that the image occupies.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.at + segment.size).max().unwrap_or(0)
    }

    /// Copies the image into zeroed memory, which is at least [`Self::end`] bytes long.
    ///
    /// # Errors
    /// [`Error::BadImage`].
    pub fn load(&self, memory: &Mapping) -> Result<(), Error> {
        for Segment { in_file: (start, length), at, .. } in &self.segments {
            // Checked when the image was parsed.
            let content = &self.bytes[*start as usize..(start + length) as usize];
            if !memory.write(*at, content) {
                return Err(Error::BadImage("a segment lies outside of the HRT's memory"));
            }
        }
        Ok(())
    }
}
