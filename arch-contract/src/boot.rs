//! What the machine looks like, as far as firmware and loader told it truthfully.

use crate::MAX_CPUS;

/// Most memory regions kept after normalisation.
pub const MAX_REGIONS: usize = 128;
/// Most NUMA nodes.
pub const MAX_NODES: usize = 64;
/// Most firmware tables listed.
pub const MAX_TABLES: usize = 48;
/// Most notices kept from start-up.
pub const MAX_NOTICES: usize = 32;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl PhysicalRange {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
    /// True if no byte is in the range.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }
    /// True if `address` lies in the range.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Usable memory of one NUMA node, page aligned.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryRegion {
    /// Where.
    pub range: PhysicalRange,
    /// Index of its node, dense from 0.
    pub node: u8,
}

/// One CPU the firmware reports as usable.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuDescription {
    /// The number its interrupt controller answers to (APIC id on x86).
    pub hardware_id: u32,
    /// Index of its NUMA node.
    pub node: u8,
}

/// One table the firmware left in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirmwareTable {
    /// Four ASCII characters.
    pub signature: [u8; 4],
    /// Physical address.
    pub address: u64,
    /// Length in bytes, header included.
    pub length: u32,
    /// True if its checksum is right.
    pub intact: bool,
}

/// Something that was not as it should be at start-up; the kernel logs it once it can.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// A sentence without the value.
    pub text: &'static str,
    /// The value that goes with it, often an address or an id.
    pub value: u64,
}

/// Everything the kernel knows of the machine when it starts. Written by the arch crate, read-only afterwards.
#[derive(Debug)]
pub struct BootInformation {
    /// Who loaded the image ("PVH", "Multiboot2", ...).
    pub loader: &'static str,
    /// The kernel's command line, without the image's name.
    pub command_line: &'static str,
    /// Usable memory: sorted, disjoint, page aligned, nothing of the image or the loader's data in it.
    pub memory: &'static [MemoryRegion],
    /// The kernel image in physical memory.
    pub image: PhysicalRange,
    /// The part of it that is written to.
    pub image_data: PhysicalRange,
    /// CPUs; index 0 is the one that boots.
    pub cpus: &'static [CpuDescription],
    /// Number of NUMA nodes, at least 1.
    pub nodes: usize,
    /// Distance from node to node, 10 = local (ACPI SLIT's unit).
    pub distances: &'static [[u8; MAX_NODES]; MAX_NODES],
    /// The firmware's tables.
    pub tables: &'static [FirmwareTable],
    /// What was not as it should be.
    pub notices: &'static [Notice],
    /// Time counter when the first instruction of the image ran, in cycles.
    pub entry_cycles: u64,
    /// Nothing said or showed how fast the time counter runs.
    pub times_are_guesses: bool,
    /// The image's function symbols, as packed by `aero build`; empty if it was not packed.
    pub symbols: &'static [u8],
    /// The image's programs, as packed by `aero build --hrt`; empty if there are none.
    pub programs: &'static [u8],
}

const _: () = assert!(MAX_CPUS <= 256, "per-CPU indices are kept in a byte in some tables");
