//! The Multiboot2 boot information (Multiboot2 Specification 2.0, section 3.6).

use crate::bytes::{command_line, u32_at, u64_at};
use crate::memory_map::RawEntry;
use crate::{Notices, PhysicalMemory};

/// Value of EAX at entry.
pub const MAGIC: u32 = 0x36d7_6289;
/// Size in bytes of the largest boot information that is read; a larger one is cut.
const SIZE_LIMIT: usize = 1 << 20;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_RSDP_V1: u32 = 14;
const TAG_RSDP_V2: u32 = 15;
/// Type of usable memory in the memory map tag.
const TYPE_RAM: u32 = 1;

/// The boot information, as far as it is readable.
#[derive(Default)]
pub struct BootInfo<'a> {
    /// The command line.
    pub command_line: &'a str,
    /// Physical address of a copy of the ACPI RSDP, 0 if not given.
    pub rsdp: u64,
    /// Number of bytes that the information occupies, from its address on.
    pub length: usize,
    map: &'a [u8],
    entry_size: usize,
}

impl BootInfo<'_> {
    /// Returns the memory map as the loader gave it.
    pub fn memory_map(&self) -> impl Iterator<Item = RawEntry> + Clone {
        self.map.chunks_exact(self.entry_size.max(24)).map(|entry| RawEntry {
            start: u64_at(entry, 0).unwrap_or(0),
            length: u64_at(entry, 8).unwrap_or(0),
            usable: u32_at(entry, 16) == Some(TYPE_RAM),
        })
    }
}

/// Reads the boot information at `address`.
pub fn parse<'a>(memory: &'a impl PhysicalMemory, address: u64, notices: &mut Notices) -> BootInfo<'a> {
    let mut info = BootInfo::default();
    let length = memory.bytes(address, 8).and_then(|header| u32_at(header, 0)).unwrap_or(0) as usize;
    let Some(bytes) = memory.bytes(address, length.min(SIZE_LIMIT)) else {
        notices.add("Multiboot2: the boot information is not readable at", address);
        return info;
    };
    info.length = bytes.len();
    let mut offset = 8;
    while let (Some(kind), Some(size)) = (u32_at(bytes, offset), u32_at(bytes, offset + 4)) {
        let size = size as usize;
        let Some(tag) = bytes.get(offset..offset.saturating_add(size)).filter(|_| size >= 8) else {
            notices.add("Multiboot2: a tag has an impossible size; ignored the rest from offset", offset as u64);
            break;
        };
        match kind {
            0 => break,
            TAG_COMMAND_LINE => info.command_line = command_line(&tag[8..], notices),
            TAG_MEMORY_MAP if size >= 16 => {
                info.entry_size = u32_at(tag, 8).unwrap_or(24) as usize;
                info.map = &tag[16..];
            }
            // A version 2 RSDP takes precedence, because it leads to the XSDT.
            TAG_RSDP_V1 if info.rsdp == 0 => info.rsdp = address + offset as u64 + 8,
            TAG_RSDP_V2 => info.rsdp = address + offset as u64 + 8,
            _ => {}
        }
        offset += size.next_multiple_of(8);
    }
    info
}
