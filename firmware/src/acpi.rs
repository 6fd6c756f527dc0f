//! ACPI tables (ACPI Specification 6.5, chapter 5.2), which describe the CPUs, interrupt
//! controllers and NUMA nodes.

use arch_contract::boot::{FirmwareTable, MAX_NODES, MAX_TABLES, PhysicalRange};
use arch_contract::{MAX_CPUS, PAGE_SIZE};
use arrayvec::ArrayVec;

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::memory_map::HIGHEST_ADDRESS;
use crate::{Notices, PhysicalMemory};

/// Size in bytes of a system description table's header (5.2.6).
const HEADER_SIZE: usize = 36;
/// Length in bytes of the longest table that is read.
const TABLE_LIMIT: usize = 4 << 20;
/// The "enabled" flag in MADT and SRAT.
const FLAG_ENABLED: u32 = 1;

/// A CPU in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The local APIC id.
    pub apic_id: u32,
}

/// An I/O APIC in the MADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of the registers.
    pub address: u64,
    /// First global interrupt line that the I/O APIC serves.
    pub first_line: u32,
}

/// An ISA interrupt that does not arrive on the line of its own number, or is not edge-triggered
/// and active high (5.2.12.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt's number.
    pub isa: u8,
    /// The global interrupt line.
    pub line: u32,
    /// True if the line is active low.
    pub active_low: bool,
    /// True if the line is level-triggered.
    pub level: bool,
}

/// Memory of a NUMA node (SRAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAffinity {
    /// The physical range.
    pub range: PhysicalRange,
    /// The node's index.
    pub node: u8,
}

/// The content of the tables. Nodes are numbered densely in the order in which SRAT mentions their
/// proximity domains.
#[derive(Debug)]
pub struct Platform {
    /// All tables found.
    pub tables: ArrayVec<FirmwareTable, MAX_TABLES>,
    /// The usable CPUs, in MADT order.
    pub processors: ArrayVec<Processor, MAX_CPUS>,
    /// The I/O APICs.
    pub io_apics: ArrayVec<IoApic, 16>,
    /// The interrupt source overrides.
    pub overrides: ArrayVec<Override, 32>,
    /// Physical address of the local APICs' registers.
    pub local_apic: u64,
    /// True if there is a pair of legacy PICs, which must be masked.
    pub has_legacy_pics: bool,
    /// Node of each APIC id that SRAT mentions.
    pub cpu_nodes: ArrayVec<(u32, u8), MAX_CPUS>,
    /// Node of each memory range that SRAT mentions.
    pub memory_nodes: ArrayVec<MemoryAffinity, 128>,
    /// Proximity domain of each node.
    pub domains: ArrayVec<u32, MAX_NODES>,
    /// Distances between nodes; 10 means local.
    pub distances: [[u8; MAX_NODES]; MAX_NODES],
    /// I/O port of the power management timer (FADT), 0 if there is none.
    pub pm_timer_port: u16,
    /// How to power off, if the tables tell: the port of PM1a_CNT and the sleep type of S5.
    pub power_off: Option<(u16, u16)>,
}

impl Default for Platform {
    fn default() -> Self {
        let mut distances = [[20; MAX_NODES]; MAX_NODES];
        for (node, row) in distances.iter_mut().enumerate() {
            row[node] = 10;
        }
        Self {
            tables: ArrayVec::new(),
            processors: ArrayVec::new(),
            io_apics: ArrayVec::new(),
            overrides: ArrayVec::new(),
            local_apic: 0xfee0_0000,
            has_legacy_pics: true,
            cpu_nodes: ArrayVec::new(),
            memory_nodes: ArrayVec::new(),
            domains: ArrayVec::new(),
            distances,
            pm_timer_port: 0,
            power_off: None,
        }
    }
}

impl Platform {
    /// Returns a CPU's node, 0 if SRAT does not mention the CPU.
    pub fn node_of_cpu(&self, apic_id: u32) -> u8 {
        self.cpu_nodes.iter().find(|entry| entry.0 == apic_id).map_or(0, |entry| entry.1)
    }

    fn node_of_domain(&mut self, domain: u32, notices: &mut Notices) -> u8 {
        if let Some(index) = self.domains.iter().position(|&known| known == domain) {
            return index as u8;
        }
        match self.domains.try_push(domain) {
            Ok(()) => (self.domains.len() - 1) as u8,
            Err(_) => {
                notices.add("SRAT: too many proximity domains; put into node 0: domain", u64::from(domain));
                0
            }
        }
    }
}

/// Searches for the RSDP where PC firmware leaves it (5.2.5.1): in the extended BIOS data area and
/// in 0xE0000..0x100000.
pub fn find_rsdp(memory: &impl PhysicalMemory) -> Option<u64> {
    let ebda = memory.bytes(0x40e, 2).and_then(|bytes| u16_at(bytes, 0)).map_or(0, |segment| u64::from(segment) << 4);
    let areas = [(ebda, 1024usize), (0xe_0000, 0x2_0000)];
    areas.into_iter().filter(|area| area.0 != 0).find_map(|(start, length)| {
        let bytes = memory.bytes(start, length)?;
        (0..length.saturating_sub(20)).step_by(16).find(|&at| rsdp_is_intact(&bytes[at..])).map(|at| start + at as u64)
    })
}

fn rsdp_is_intact(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RSD PTR ") && bytes.get(..20).is_some_and(|rsdp| sum(rsdp) == 0)
}

/// Reads all tables that are reachable from the RSDP at `rsdp`.
pub fn parse(memory: &impl PhysicalMemory, rsdp: u64, notices: &mut Notices) -> Platform {
    let mut platform = Platform::default();
    let Some(root) = memory.bytes(rsdp, 20).filter(|bytes| rsdp_is_intact(bytes)) else {
        notices.add("ACPI: the RSDP is damaged at", rsdp);
        return platform;
    };
    let extended = (u8_at(root, 15).unwrap_or(0) >= 2).then(|| memory.bytes(rsdp, 36)).flatten();
    let xsdt = extended.filter(|bytes| sum(bytes) == 0).and_then(|bytes| u64_at(bytes, 24)).filter(|&at| at != 0);
    let rsdt = u32_at(root, 16).map(u64::from).filter(|&at| at != 0);

    let from_xsdt = xsdt.and_then(|at| table(memory, at, notices)).filter(|(entry, _)| &entry.signature == b"XSDT");
    // Entries have 8 bytes in the XSDT and 4 bytes in the RSDT, which is the fallback.
    let (list, width) = match from_xsdt {
        Some((_, bytes)) => (bytes, 8),
        None => match rsdt.and_then(|at| table(memory, at, notices)).filter(|(entry, _)| &entry.signature == b"RSDT") {
            Some((_, bytes)) => (bytes, 4),
            None => {
                notices.add("ACPI: neither XSDT nor RSDT is readable; RSDP at", rsdp);
                return platform;
            }
        },
    };
    // SLIT is read after the loop, because SRAT must number the nodes first.
    let pointers = || {
        list[HEADER_SIZE..].chunks_exact(width).filter_map(move |chunk| match width {
            8 => u64_at(chunk, 0),
            _ => u32_at(chunk, 0).map(u64::from),
        })
    };
    for address in pointers() {
        let Some((entry, bytes)) = table(memory, address, notices) else { continue };
        if platform.tables.try_push(entry).is_err() {
            notices.add("ACPI: too many tables; ignored the one at", address);
            break;
        }
        match &entry.signature {
            b"APIC" => madt(&mut platform, bytes, notices),
            b"SRAT" => srat(&mut platform, bytes, notices),
            b"FACP" => fadt(&mut platform, memory, bytes, notices),
            _ => {}
        }
    }
    let slit_at = platform.tables.iter().find(|entry| &entry.signature == b"SLIT").map(|entry| entry.address);
    if let Some((_, bytes)) = slit_at.and_then(|address| table(memory, address, notices)) {
        slit(&mut platform, bytes, notices);
    }
    if !platform.tables.iter().any(|entry| &entry.signature == b"APIC") {
        notices.add("ACPI: no MADT; assuming one CPU and no I/O APIC, of tables", platform.tables.len() as u64);
    }
    platform
}

/// Returns a table if its length is possible. A table with a wrong checksum is listed and still
/// used, because firmware in the field has such tables.
fn table<'a>(
    memory: &'a impl PhysicalMemory,
    address: u64,
    notices: &mut Notices,
) -> Option<(FirmwareTable, &'a [u8])> {
    let Some(header) = memory.bytes(address, HEADER_SIZE) else {
        notices.add("ACPI: a table is not readable at", address);
        return None;
    };
    let length = u32_at(header, 4).unwrap_or(0) as usize;
    let bytes = (HEADER_SIZE..=TABLE_LIMIT).contains(&length).then(|| memory.bytes(address, length)).flatten();
    let Some(bytes) = bytes else {
        notices.add("ACPI: a table has an impossible length; ignored the one at", address);
        return None;
    };
    let mut signature = [0; 4];
    signature.copy_from_slice(&bytes[..4]);
    let intact = sum(bytes) == 0;
    if !intact {
        notices.add("ACPI: a table has a wrong checksum, used with care, at", address);
    }
    Some((FirmwareTable { signature, address, length: length as u32, intact }, bytes))
}

/// Iterates over the variable structures of MADT and SRAT: type byte, length byte, body. At an
/// impossible length, yields `Err(offset)` and ends.
fn structures(bytes: &[u8], start: usize) -> impl Iterator<Item = Result<(u8, &[u8]), usize>> {
    let mut offset = start;
    core::iter::from_fn(move || {
        let (kind, length) = (u8_at(bytes, offset)?, usize::from(u8_at(bytes, offset + 1)?));
        let at = offset;
        match bytes.get(at..at + length).filter(|_| length >= 2) {
            Some(body) => {
                offset += length;
                Some(Ok((kind, body)))
            }
            None => {
                offset = bytes.len();
                Some(Err(at))
            }
        }
    })
}

/// Reads the Multiple APIC Description Table (5.2.12).
fn madt(platform: &mut Platform, bytes: &[u8], notices: &mut Notices) {
    if let Some(address) = u32_at(bytes, 36).filter(|&address| address != 0) {
        platform.local_apic = u64::from(address);
    }
    platform.has_legacy_pics = u32_at(bytes, 40).unwrap_or(1) & 1 != 0;
    for structure in structures(bytes, 44) {
        let (kind, body) = match structure {
            Ok(parts) => parts,
            Err(offset) => {
                notices.add("MADT: a structure has an impossible length; ignored the rest from offset", offset as u64);
                break;
            }
        };
        let understood = match kind {
            0 => processor(platform, u8_at(body, 3).map(u32::from), u32_at(body, 4), notices),
            9 => processor(platform, u32_at(body, 4), u32_at(body, 8), notices),
            1 => io_apic(platform, body, notices),
            2 => interrupt_override(platform, body),
            5 => local_apic_override(platform, body, notices),
            _ => Some(()),
        };
        if understood.is_none() {
            notices.add("MADT: a structure is too short, type", u64::from(kind));
        }
    }
}

fn processor(platform: &mut Platform, id: Option<u32>, flags: Option<u32>, notices: &mut Notices) -> Option<()> {
    let (apic_id, flags) = (id?, flags?);
    let known = platform.processors.iter().any(|processor| processor.apic_id == apic_id);
    if flags & FLAG_ENABLED == 0 {
        return Some(());
    }
    if known {
        notices.add("MADT: a CPU is listed twice, APIC id", u64::from(apic_id));
    } else if platform.processors.try_push(Processor { apic_id }).is_err() {
        notices.add("MADT: more CPUs than this kernel supports; ignored APIC id", u64::from(apic_id));
    }
    Some(())
}

fn io_apic(platform: &mut Platform, body: &[u8], notices: &mut Notices) -> Option<()> {
    let entry = IoApic { address: u64::from(u32_at(body, 4)?), first_line: u32_at(body, 8)? };
    if platform.io_apics.try_push(entry).is_err() {
        notices.add("MADT: too many I/O APICs; ignored the one at", entry.address);
    }
    Some(())
}

fn local_apic_override(platform: &mut Platform, body: &[u8], notices: &mut Notices) -> Option<()> {
    let address = u64_at(body, 4)?;
    if address < HIGHEST_ADDRESS && address.is_multiple_of(PAGE_SIZE as u64) {
        platform.local_apic = address;
    } else {
        notices.add("MADT: an impossible local APIC address is ignored:", address);
    }
    Some(())
}

fn interrupt_override(platform: &mut Platform, body: &[u8]) -> Option<()> {
    let flags = u16_at(body, 8)?;
    let entry = Override {
        isa: u8_at(body, 3)?,
        line: u32_at(body, 4)?,
        active_low: flags & 3 == 3,
        level: (flags >> 2) & 3 == 3,
    };
    let _ = platform.overrides.try_push(entry);
    Some(())
}

/// Reads the System Resource Affinity Table (5.2.16).
fn srat(platform: &mut Platform, bytes: &[u8], notices: &mut Notices) {
    for structure in structures(bytes, 48) {
        let (kind, body) = match structure {
            Ok(parts) => parts,
            Err(offset) => {
                notices.add("SRAT: a structure has an impossible length; ignored the rest from offset", offset as u64);
                break;
            }
        };
        let understood = match kind {
            0 => cpu_affinity_8_bit(platform, body, notices),
            1 => memory_affinity(platform, body, notices),
            2 => cpu_affinity_32_bit(platform, body, notices),
            _ => Some(()),
        };
        if understood.is_none() {
            notices.add("SRAT: a structure is too short, type", u64::from(kind));
        }
    }
}

fn cpu_affinity_8_bit(platform: &mut Platform, body: &[u8], notices: &mut Notices) -> Option<()> {
    // The lowest byte of the domain is stored apart from its upper three bytes.
    let domain = u32::from(u8_at(body, 2)?) | u32_at(body, 8)? & 0xffff_ff00;
    add_cpu_affinity(platform, u32::from(u8_at(body, 3)?), domain, u32_at(body, 4)?, notices)
}

fn cpu_affinity_32_bit(platform: &mut Platform, body: &[u8], notices: &mut Notices) -> Option<()> {
    add_cpu_affinity(platform, u32_at(body, 8)?, u32_at(body, 4)?, u32_at(body, 12)?, notices)
}

fn add_cpu_affinity(
    platform: &mut Platform,
    apic_id: u32,
    domain: u32,
    flags: u32,
    notices: &mut Notices,
) -> Option<()> {
    if flags & FLAG_ENABLED != 0 {
        let node = platform.node_of_domain(domain, notices);
        let _ = platform.cpu_nodes.try_push((apic_id, node));
    }
    Some(())
}

fn memory_affinity(platform: &mut Platform, body: &[u8], notices: &mut Notices) -> Option<()> {
    let (domain, start, length, flags) = (u32_at(body, 2)?, u64_at(body, 8)?, u64_at(body, 16)?, u32_at(body, 28)?);
    if flags & FLAG_ENABLED == 0 || length == 0 {
        return Some(());
    }
    let node = platform.node_of_domain(domain, notices);
    let range = PhysicalRange { start, end: start.saturating_add(length) };
    if platform.memory_nodes.try_push(MemoryAffinity { range, node }).is_err() {
        notices.add("SRAT: too many memory ranges; ignored the one at", start);
    }
    Some(())
}

/// Reads the System Locality Information Table (5.2.17).
fn slit(platform: &mut Platform, bytes: &[u8], notices: &mut Notices) {
    let count = u64_at(bytes, 36).unwrap_or(0);
    for from in 0..platform.domains.len() {
        for to in 0..platform.domains.len() {
            let (row, column) = (u64::from(platform.domains[from]), u64::from(platform.domains[to]));
            if row >= count || column >= count {
                continue;
            }
            let offset = row.checked_mul(count).and_then(|at| at.checked_add(column)).and_then(|at| at.checked_add(44));
            match offset.and_then(|at| u8_at(bytes, usize::try_from(at).ok()?)) {
                Some(distance) if distance >= 10 => platform.distances[from][to] = distance,
                Some(distance) => notices.add("SLIT: a distance below 10 is ignored:", u64::from(distance)),
                None => {
                    notices.add("SLIT: the matrix is cut short; distances assumed for localities", count);
                    return;
                }
            }
        }
    }
}

/// Reads the Fixed ACPI Description Table (5.2.9): the timer, and how to power off.
fn fadt(platform: &mut Platform, memory: &impl PhysicalMemory, bytes: &[u8], notices: &mut Notices) {
    // PM_TMR_LEN is 4 if there is a timer.
    if u8_at(bytes, 91) == Some(4) {
        platform.pm_timer_port = u32_at(bytes, 76).and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    }
    let control = u32_at(bytes, 64).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0);
    let dsdt = u64_at(bytes, 140).filter(|&at| at != 0).or_else(|| u32_at(bytes, 40).map(u64::from));
    let (Some(control), Some(dsdt)) = (control, dsdt.filter(|&at| at != 0)) else { return };
    if let Some((_, definition)) = table(memory, dsdt, notices) {
        platform.power_off = sleep_type_s5(definition).map(|kind| (control, kind));
    }
}

/// Returns the first element of the package `_S5_` in AML (20.2):
/// `08 "_S5_" 12 length count element...`.
fn sleep_type_s5(definition: &[u8]) -> Option<u16> {
    let name = definition.windows(4).position(|window| window == b"_S5_")?;
    let mut at = name + 4;
    if u8_at(definition, at)? != 0x12 {
        return None;
    }
    at += 1;
    // PkgLength: the top two bits of the first byte count the bytes that follow it.
    at += 1 + usize::from(u8_at(definition, at)? >> 6);
    at += 1; // the number of elements
    match u8_at(definition, at)? {
        0x0a => u8_at(definition, at + 1).map(u16::from),
        value @ (0 | 1) => Some(u16::from(value)),
        _ => None,
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |total, &byte| total.wrapping_add(byte))
}

#[cfg(test)]
#[path = "acpi_tests.rs"]
mod tests;
