//! The machine's description, as far as the firmware and the loader gave it truthfully.

use crate::MAX_CPUS;

/// Maximum number of memory regions kept after normalisation.
pub const MAX_REGIONS: usize = 128;
/// Maximum number of NUMA nodes.
pub const MAX_NODES: usize = 64;
/// Maximum number of firmware tables listed.
pub const MAX_TABLES: usize = 48;
/// Maximum number of notices kept from start-up.
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
    /// The region's physical addresses.
    pub range: PhysicalRange,
    /// Index of the region's NUMA node, dense from 0.
    pub node: u8,
}

/// One CPU the firmware reports as usable.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuDescription {
    /// The CPU's number at the interrupt controller (the APIC id on x86).
    pub hardware_id: u32,
    /// Index of the CPU's NUMA node.
    pub node: u8,
}

/// A table the firmware left in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirmwareTable {
    /// The table's name, four ASCII characters.
    pub signature: [u8; 4],
    /// Physical address of the table.
    pub address: u64,
    /// Length in bytes, header included.
    pub length: u32,
    /// True if the table's checksum is right.
    pub intact: bool,
}

/// An irregularity found at start-up; the kernel logs it once it can.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// A sentence without the value.
    pub text: &'static str,
    /// The value the sentence is about, often an address or an id.
    pub value: u64,
}

/// Everything the kernel knows about the machine when it starts. Written by the arch crate,
/// read-only afterwards.
#[derive(Debug)]
pub struct BootInformation {
    /// The protocol by which the image was loaded ("PVH", "Multiboot2", ...).
    pub loader: &'static str,
    /// The kernel's command line, without the image's name.
    pub command_line: &'static str,
    /// Usable memory: sorted, disjoint, page aligned, and without the image and the loader's data.
    pub memory: &'static [MemoryRegion],
    /// The kernel image in physical memory.
    pub image: PhysicalRange,
    /// The writable part of the image.
    pub image_data: PhysicalRange,
    /// The CPUs; index 0 is the boot CPU.
    pub cpus: &'static [CpuDescription],
    /// Number of NUMA nodes, at least 1.
    pub nodes: usize,
    /// Distance from node to node; 10 is local (the unit of ACPI's SLIT).
    pub distances: &'static [[u8; MAX_NODES]; MAX_NODES],
    /// The firmware's tables.
    pub tables: &'static [FirmwareTable],
    /// The irregularities found at start-up.
    pub notices: &'static [Notice],
    /// Time counter at the image's first instruction, in cycles.
    pub entry_cycles: u64,
    /// True if the time counter's rate could be neither read nor measured.
    pub times_are_guesses: bool,
    /// The image's function symbols, as packed by `aero build`; empty if it was not packed.
    pub symbols: &'static [u8],
    /// The image's programs, as packed by `aero build --hrt`; empty if there are none.
    pub programs: &'static [u8],
}

const _: () = assert!(MAX_CPUS <= 256, "per-CPU indices are kept in a byte in some tables");
