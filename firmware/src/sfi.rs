//! The Simple Firmware Interface's tables, which Knights Corner has instead of ACPI's (SFI
//! Specification 0.8.2; for the subset on the card: Intel's card kernel 2.6.38 k1om, sfi.c).

use arch_contract::MAX_CPUS;
use arch_contract::boot::{FirmwareTable, MAX_TABLES};
use arrayvec::ArrayVec;

use crate::bytes::{u32_at, u64_at};
use crate::{Notices, PhysicalMemory};

/// Range that is searched for the system table, and the table's alignment in bytes.
const SEARCHED: core::ops::Range<u64> = 0xe_0000..0x10_0000;
const BOUNDARY: usize = 16;
/// Size in bytes of a table's header: signature, length, revision, checksum, two names.
const HEADER_SIZE: usize = 24;
/// Length in bytes of the longest table that is read.
const LENGTH_LIMIT: u32 = 1 << 20;

/// The content of the tables.
#[derive(Default)]
pub struct Tables {
    /// APIC ids of the CPUs, in the table's order.
    pub cpus: ArrayVec<u32, MAX_CPUS>,
    /// The tables found.
    pub tables: ArrayVec<FirmwareTable, MAX_TABLES>,
}

/// Reads all tables that the system table lists.
pub fn parse(memory: &impl PhysicalMemory, notices: &mut Notices) -> Tables {
    let mut found = Tables::default();
    let Some(system) = find(memory) else {
        notices.add("SFI: no system table found, searched up to", SEARCHED.end);
        return found;
    };
    let _ = found.tables.try_push(describe(system, b"SYST", memory));
    let Some(entries) = body(memory, system) else { return found };
    for entry in entries.chunks_exact(8) {
        let address = u64_at(entry, 0).unwrap_or(0);
        let Some(signature) = memory.bytes(address, HEADER_SIZE).and_then(|header| header.first_chunk::<4>()) else {
            notices.add("SFI: a table is not readable at", address);
            continue;
        };
        let table = describe(address, signature, memory);
        if !table.intact {
            notices.add("SFI: a table's length or checksum is wrong; ignored the one at", address);
        } else if signature == b"CPUS" {
            add_cpus(body(memory, address).unwrap_or(&[]), &mut found, notices);
        }
        if found.tables.try_push(table).is_err() {
            notices.add("SFI: too many tables; ignored the one at", address);
        }
    }
    found
}

fn add_cpus(body: &[u8], found: &mut Tables, notices: &mut Notices) {
    for id in body.chunks_exact(4).filter_map(|entry| u32_at(entry, 0)) {
        if found.cpus.contains(&id) {
            notices.add("SFI: a CPU is listed twice, APIC id", u64::from(id));
        } else if found.cpus.try_push(id).is_err() {
            notices.add("SFI: more CPUs than this kernel supports; ignored APIC id", u64::from(id));
        }
    }
}

/// Returns the address of the first intact system table.
fn find(memory: &impl PhysicalMemory) -> Option<u64> {
    SEARCHED
        .step_by(BOUNDARY)
        .find(|&address| memory.bytes(address, 4) == Some(b"SYST") && describe(address, b"SYST", memory).intact)
}

fn describe(address: u64, signature: &[u8; 4], memory: &impl PhysicalMemory) -> FirmwareTable {
    let table = table(memory, address);
    let length = table.map_or(0, |table| table.len() as u32);
    let intact = table.is_some_and(|table| table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0);
    FirmwareTable { signature: *signature, address, length, intact }
}

/// Returns a table's bytes, as many as its length field states.
fn table(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    let length = u32_at(memory.bytes(address, HEADER_SIZE)?, 4)?;
    let is_sensible = (HEADER_SIZE as u32..=LENGTH_LIMIT).contains(&length);
    is_sensible.then(|| memory.bytes(address, length as usize)).flatten()
}

fn body(memory: &impl PhysicalMemory, address: u64) -> Option<&[u8]> {
    table(memory, address)?.get(HEADER_SIZE..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = SEARCHED.start;

    /// Memory that contains only the searched range.
    struct Area(Vec<u8>);

    impl PhysicalMemory for Area {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address.checked_sub(START)?).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    fn put(area: &mut [u8], at: usize, signature: &[u8; 4], body: &[u8]) {
        let mut table = signature.to_vec();
        table.extend(((HEADER_SIZE + body.len()) as u32).to_le_bytes());
        table.resize(HEADER_SIZE, 0);
        table.extend(body);
        table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte)));
        area[at..at + table.len()].copy_from_slice(&table);
    }

    fn area() -> Vec<u8> {
        let mut area = vec![0; 0x1000];
        put(&mut area, 0x20, b"SYST", &[START + 0x100, START + 0x200].map(u64::to_le_bytes).concat());
        put(&mut area, 0x100, b"CPUS", &[224u32, 0, 1, 227, 0].map(u32::to_le_bytes).concat());
        put(&mut area, 0x200, b"APIC", &0x8_007d_a800u64.to_le_bytes());
        area
    }

    #[test]
    fn cpus_are_those_of_the_table_once_each() {
        let mut notices = Notices::default();
        let tables = parse(&Area(area()), &mut notices);
        assert_eq!(tables.cpus.as_slice(), [224, 0, 1, 227]);
        let signatures: Vec<[u8; 4]> = tables.tables.iter().map(|table| table.signature).collect();
        assert_eq!(signatures, [*b"SYST", *b"CPUS", *b"APIC"]);
        assert_eq!(notices.0.len(), 1, "{notices:?}");
    }

    #[test]
    fn a_table_that_is_not_intact_is_ignored_and_noticed() {
        let mut area = area();
        area[0x11c] ^= 1;
        let mut notices = Notices::default();
        let tables = parse(&Area(area), &mut notices);
        assert!(tables.cpus.is_empty() && notices.0.len() == 1, "{notices:?}");
        let mut notices = Notices::default();
        assert!(parse(&Area(vec![0; 64]), &mut notices).tables.is_empty() && notices.0.len() == 1);
    }

    proptest! {
        #[test]
        fn damaged_tables_never_panic(places in prop::collection::vec((0usize..0x300, any::<u8>()), 0..40)) {
            let mut area = area();
            places.into_iter().for_each(|(at, byte)| area[at] = byte);
            parse(&Area(area), &mut Notices::default());
        }
    }
}
