//! The parameters that a loader hands over under the Linux boot protocol (Linux,
//! Documentation/x86/boot.rst and zero-page.rst).

use arch_contract::boot::PhysicalRange;

use crate::bytes::{command_line, u8_at, u32_at, u64_at};
use crate::memory_map::RawEntry;
use crate::{Notices, PhysicalMemory};

/// Size in bytes of the structure `boot_params`.
const SIZE: usize = 4096;
/// Offsets in the structure: the number of memory map entries, the setup header's magic number, the
/// initial RAM disk, the command line, the memory map.
const MAP_ENTRIES: usize = 0x1e8;
const HEADER_MAGIC: usize = 0x202;
const RAM_DISK: usize = 0x218;
const RAM_DISK_SIZE: usize = 0x21c;
const COMMAND_LINE: usize = 0x228;
const MAP: usize = 0x2d0;
/// The magic number, "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Size of a memory map entry in bytes, and the number of entries that fit.
const ENTRY_SIZE: usize = 20;
const ENTRY_LIMIT: usize = 128;
/// Type of usable memory, as in e820.
const TYPE_RAM: u32 = 1;
/// Length in bytes of the longest command line that is read.
const COMMAND_LINE_LIMIT: usize = 4096;

/// The parameters, as far as they are readable.
#[derive(Default)]
pub struct Parameters<'a> {
    /// The command line.
    pub command_line: &'a str,
    /// The initial RAM disk; empty if there is none.
    pub ram_disk: PhysicalRange,
    map: &'a [u8],
}

impl Parameters<'_> {
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
pub fn parse<'a>(memory: &'a impl PhysicalMemory, address: u64, notices: &mut Notices) -> Parameters<'a> {
    let mut parameters = Parameters::default();
    let Some(page) = memory.bytes(address, SIZE) else {
        notices.add("Linux boot protocol: the parameters are not readable at", address);
        return parameters;
    };
    if u32_at(page, HEADER_MAGIC) != Some(MAGIC) {
        notices.add("Linux boot protocol: the parameters have no setup header at", address);
    }
    let word = |offset| u64::from(u32_at(page, offset).unwrap_or(0));
    let line = word(COMMAND_LINE);
    if line != 0 {
        // The length is unknown and memory may end before the limit, so a shorter read is tried
        // next.
        match [COMMAND_LINE_LIMIT, 256].iter().find_map(|&length| memory.bytes(line, length)) {
            Some(bytes) => parameters.command_line = command_line(bytes, notices),
            None => notices.add("Linux boot protocol: the command line is not readable at", line),
        }
    }
    let start = word(RAM_DISK);
    parameters.ram_disk = PhysicalRange { start, end: start + word(RAM_DISK_SIZE) };
    let entries = usize::from(u8_at(page, MAP_ENTRIES).unwrap_or(0));
    if entries > ENTRY_LIMIT {
        notices.add(
            "Linux boot protocol: the memory map has too many entries; ignored those after the 128th of",
            entries as u64,
        );
    }
    parameters.map = page.get(MAP..MAP + entries.min(ENTRY_LIMIT) * ENTRY_SIZE).unwrap_or(&[]);
    parameters
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Memory that begins at address 0.
    struct Bytes(Vec<u8>);

    impl PhysicalMemory for Bytes {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    #[test]
    fn the_parameters_are_where_the_protocol_says() {
        let mut page = vec![0; SIZE + 4096];
        page[0x202..0x206].copy_from_slice(b"HdrS");
        page[0x228..0x22c].copy_from_slice(&4096u32.to_le_bytes());
        page[4096..4103].copy_from_slice(b"log=off");
        page[0x218..0x220].copy_from_slice(&0x0000_0300_0800_0000u64.to_le_bytes());
        page[0x1e8] = 2;
        for (number, (start, length, kind)) in
            [(0x5_0000u64, 0x1_0000u64, 1u32), (0xff00_0000, 0x100_0000, 2)].iter().enumerate()
        {
            let at = 0x2d0 + number * 20;
            page[at..at + 8].copy_from_slice(&start.to_le_bytes());
            page[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
            page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
        }
        let (memory, mut notices) = (Bytes(page), Notices::default());
        let parameters = parse(&memory, 0, &mut notices);
        assert_eq!(parameters.command_line, "log=off");
        assert_eq!(parameters.ram_disk, PhysicalRange { start: 0x800_0000, end: 0x800_0300 });
        let map: Vec<RawEntry> = parameters.memory_map().collect();
        assert_eq!(map[0], RawEntry { start: 0x5_0000, length: 0x1_0000, usable: true });
        assert!(map.len() == 2 && !map[1].usable && notices.0.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000), address in 0u64..2000) {
            let memory = Bytes(bytes);
            parse(&memory, address, &mut Notices::default()).memory_map().for_each(drop);
        }
    }
}
