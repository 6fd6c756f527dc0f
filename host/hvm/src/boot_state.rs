//! What an HRT's CPUs find when they enter the image: page tables, a descriptor table and the boot
//! information, in the HRT's memory.

use protocol::boot::{Extension, Information, Request, UPPER_HALF, flags};

use crate::Error;
use crate::memory::{END_OF_LOW, Mapping, START_OF_HIGH};

/// Size of the part of memory that holds all of it, in bytes.
pub const SIZE: u64 = 64 << 10;
/// Longest command line, in bytes.
pub const LINE_LIMIT: usize = 4096;
const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
/// Offsets of the parts.
const ROOT: u64 = 0;
const SECOND: u64 = PAGE;
const DESCRIPTORS: u64 = 2 * PAGE;
const COMMUNICATION_PAGE: u64 = 3 * PAGE;
const MERGED_ROOT: u64 = 7 * PAGE;
const INFORMATION: u64 = 4 * PAGE;
const THIRD: u64 = 8 * PAGE;
/// Memory that is mapped at least, and without pages of 1 GiB at most, in bytes.
const LEAST_MAPPED: u64 = 4 * GIB;
/// Memory that one table of the second level maps, in bytes.
const MOST_MAPPED: u64 = 512 * GIB;
/// Bits of page table entries (SDM Vol. 3A, 4.5): present and writable, and a leaf of a higher
/// level.
const PRESENT: u64 = 0x3;
const LEAF: u64 = 0x80;
/// The descriptors: none, 64-bit code, data (SDM Vol. 3A, 3.4.5).
const SEGMENTS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Tags of the boot information (Multiboot2 Specification 2.0, 3.6).
const TAG_COMMAND_LINE: u32 = 1;
const TAG_MEMORY_MAP: u32 = 6;
const USABLE: u32 = 1;
const MEMORY_MAP_ENTRY: u32 = 24;

/// Where a CPU finds what it needs.
#[derive(Clone, Copy)]
pub struct Places {
    /// Physical address of the root page table.
    pub root: u64,
    /// Physical address of the descriptor table.
    pub descriptors: u64,
    /// Size of the descriptor table, in bytes.
    pub descriptors_size: u16,
    /// Physical address of the boot information.
    pub information: u64,
    /// Physical address of the communication page.
    pub communication_page: u64,
    /// Physical address of the page for the root table of the merged address space.
    pub merged_root: u64,
}

/// The machine to describe.
pub struct Machine<'a> {
    /// Number of CPUs.
    pub cpus: u32,
    /// Rate of the time counter, in kHz.
    pub cycle_khz: u64,
    /// KVM can map pages of 1 GiB.
    pub has_large_pages: bool,
    /// Our extensions.
    pub extension: Extension,
    /// The kernel's command line.
    pub line: &'a str,
}

/// Writes everything to the memory, from `start` on, where there is room for [`SIZE`] bytes.
///
/// # Errors
/// [`Error::LongCommandLine`].
pub fn write(memory: &Mapping, start: u64, request: &Request, machine: &Machine<'_>) -> Result<Places, Error> {
    if machine.line.len() > LINE_LIMIT {
        return Err(Error::LongCommandLine(machine.line.len()));
    }
    let mapped = match machine.has_large_pages {
        true => request.map_limit.next_multiple_of(GIB).clamp(LEAST_MAPPED, MOST_MAPPED),
        false => LEAST_MAPPED,
    };
    let put = |at: u64, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // The parts fit into `SIZE`, and the memory is larger.
        let _ = memory.write(start + at, &bytes);
    };
    let below = start + SECOND | PRESENT;
    put(ROOT, &[below]);
    if request.offset == UPPER_HALF {
        put(ROOT + 256 * 8, &[below]);
    }
    let gibs = mapped / GIB;
    if machine.has_large_pages {
        put(SECOND, &(0..gibs).map(|gib| gib * GIB | LEAF | PRESENT).collect::<Vec<_>>());
    } else {
        put(SECOND, &(0..gibs).map(|gib| start + THIRD + gib * PAGE | PRESENT).collect::<Vec<_>>());
        put(THIRD, &(0..gibs * 512).map(|page| page << 21 | LEAF | PRESENT).collect::<Vec<_>>());
    }
    put(DESCRIPTORS, &SEGMENTS);
    let granted = if machine.has_large_pages { flags::MAP_1_GIB } else { flags::MAP_2_MIB };
    let information = Information {
        apic_count: machine.cpus,
        first_apic_id: 0,
        cycle_khz: machine.cycle_khz,
        flags: request.flags & flags::RELOCATABLE | granted,
        mapped,
        first_own: 0,
        boot_state: start,
        offset: request.offset,
        communication_page: start + COMMUNICATION_PAGE,
        vector: request.vector,
    };
    // The communication page and the tables stay the monitor's.
    let _ = memory.write(start + INFORMATION, &boot_information(machine, &information, memory.size() as u64));
    Ok(Places {
        root: start + ROOT,
        descriptors: start + DESCRIPTORS,
        descriptors_size: size_of_val(&SEGMENTS) as u16,
        information: start + INFORMATION,
        communication_page: start + COMMUNICATION_PAGE,
        merged_root: start + MERGED_ROOT,
    })
}

/// Returns the Multiboot2 boot information. So much memory is usable, but for the boot state.
fn boot_information(machine: &Machine<'_>, information: &Information, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    let mut tag = |words: &[u32], rest: &[u8]| {
        let size = 4 + 4 * words.len() + rest.len();
        bytes.extend(words[0].to_le_bytes());
        bytes.extend((size as u32).to_le_bytes());
        words[1..].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(rest);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    };
    tag(&[TAG_COMMAND_LINE], &[machine.line.as_bytes(), &[0]].concat());
    let behind = information.boot_state + SIZE;
    let low = size.min(END_OF_LOW);
    let usable = [
        (0, information.boot_state),
        (behind, low.saturating_sub(behind)),
        // Empty ranges are ignored.
        (START_OF_HIGH, size - low),
    ];
    let entry = |(start, size): (u64, u64)| {
        [&start.to_le_bytes()[..], &size.to_le_bytes(), &USABLE.to_le_bytes(), &[0; 4]].concat()
    };
    tag(&[TAG_MEMORY_MAP, MEMORY_MAP_ENTRY, 0], &usable.map(entry).concat());
    bytes.extend(information.to_tag());
    bytes.extend(machine.extension.to_tag());
    bytes.extend([0u32, 8].map(u32::to_le_bytes).concat());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use protocol::boot::{EXTENSION_TAG, INFORMATION_TAG, tag};

    use super::*;

    #[test]
    fn the_boot_information_has_what_the_kernel_looks_for() {
        let extension = Extension { rings: 3 << 30, rings_size: 1 << 20, groups: 2 << 30, pages: 8 };
        let machine = Machine { cpus: 3, cycle_khz: 5, has_large_pages: true, extension, line: "log=debug" };
        let information = Information { apic_count: 3, cycle_khz: 5, boot_state: 1 << 20, ..Information::default() };
        let bytes = boot_information(&machine, &information, 1 << 28);
        assert_eq!(tag(&bytes, TAG_COMMAND_LINE).map(|tag| &tag[8..17]), Some(&b"log=debug"[..]));
        assert_eq!(tag(&bytes, INFORMATION_TAG).and_then(Information::from_tag), Some(information));
        assert_eq!(tag(&bytes, EXTENSION_TAG).and_then(Extension::from_tag), Some(extension));
        let map = tag(&bytes, TAG_MEMORY_MAP).unwrap();
        assert_eq!((map.len(), map[8]), (88, 24), "{map:?}");
        let word = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().unwrap());
        assert_eq!((word(16), word(24)), (0, 1 << 20));
        assert_eq!((word(40), word(40) + word(48)), ((1 << 20) + SIZE, 1 << 28));
    }
}
