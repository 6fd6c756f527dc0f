//! The PVH start information (Xen public header `arch-x86/hvm/start_info.h`, structure
//! `hvm_start_info`).

use crate::bytes::{command_line, u32_at, u64_at};
use crate::memory_map::RawEntry;
use crate::{Notices, PhysicalMemory};

/// First word of the structure: "xEn3" with the top bit of E set.
pub const MAGIC: u32 = 0x336e_c578;
/// Length in bytes of the longest command line that is read.
const COMMAND_LINE_LIMIT: usize = 4096;
/// Size of a memory map entry in bytes.
const ENTRY_SIZE: usize = 24;
/// Type of usable memory, as in e820.
const TYPE_RAM: u32 = 1;

/// The start information, as far as it is readable.
#[derive(Default)]
pub struct StartInfo<'a> {
    /// The command line.
    pub command_line: &'a str,
    /// Physical address of the ACPI RSDP, 0 if not given.
    pub rsdp: u64,
    map: &'a [u8],
}

impl StartInfo<'_> {
    /// Returns the memory map as the loader gave it.
    pub fn memory_map(&self) -> impl Iterator<Item = RawEntry> + Clone {
        self.map.chunks_exact(ENTRY_SIZE).map(|entry| RawEntry {
            start: u64_at(entry, 0).unwrap_or(0),
            length: u64_at(entry, 8).unwrap_or(0),
            usable: u32_at(entry, 16) == Some(TYPE_RAM),
        })
    }
}

/// Reads the structure at `address`.
pub fn parse<'a>(memory: &'a impl PhysicalMemory, address: u64, notices: &mut Notices) -> StartInfo<'a> {
    let mut info = StartInfo::default();
    // Version 0 of the structure ends before the memory map, after 40 bytes.
    let Some(header) = memory.bytes(address, 56).or_else(|| memory.bytes(address, 40)) else {
        notices.add("PVH: the start information is not readable at", address);
        return info;
    };
    if u32_at(header, 0) != Some(MAGIC) {
        notices.add("PVH: the start information has no magic number at", address);
        return info;
    }
    let version = u32_at(header, 4).unwrap_or(0);
    if let Some(line) = u64_at(header, 24).filter(|&line| line != 0) {
        // The length is unknown and memory may end before the limit, so shorter reads are tried in
        // turn.
        let bytes = [COMMAND_LINE_LIMIT, 1024, 256, 64].iter().find_map(|&length| memory.bytes(line, length));
        match bytes {
            Some(bytes) => info.command_line = command_line(bytes, notices),
            None => notices.add("PVH: the command line is not readable at", line),
        }
    }
    info.rsdp = u64_at(header, 32).unwrap_or(0);
    if version >= 1 {
        let (map, entries) = (u64_at(header, 40).unwrap_or(0), u32_at(header, 48).unwrap_or(0));
        let count = (entries as usize).min(1024);
        match memory.bytes(map, count * ENTRY_SIZE) {
            Some(bytes) => info.map = bytes,
            None => notices.add("PVH: the memory map is not readable at", map),
        }
    } else {
        notices.add("PVH: the loader gives no memory map, version", u64::from(version));
    }
    info
}
