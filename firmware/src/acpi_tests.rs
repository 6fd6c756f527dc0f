//! ACPI parsing on valid tables, and on the same tables damaged in every way that proptest finds.

use proptest::prelude::*;

use super::*;

struct Image(Vec<u8>);

impl PhysicalMemory for Image {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(address).ok()?;
        self.0.get(start..start.checked_add(length)?)
    }
}

const RSDP: u64 = 0x100;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn fix_checksum(image: &mut [u8], at: usize, length: usize, field: usize) {
    image[at + field] = 0;
    image[at + field] = 0u8.wrapping_sub(sum(&image[at..at + length]));
}

fn put_table(image: &mut [u8], at: usize, signature: &[u8], body: &[u8]) {
    let length = HEADER_SIZE + body.len();
    put(image, at, signature);
    put(image, at + 4, &(length as u32).to_le_bytes());
    put(image, at + HEADER_SIZE, body);
    fix_checksum(image, at, length, 9);
}

fn memory_structure(domain: u32, start: u64, length: u64) -> Vec<u8> {
    let mut body = vec![1, 40];
    body.extend(domain.to_le_bytes());
    body.extend([0; 2]);
    body.extend(start.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend([0; 4]);
    body.extend(1u32.to_le_bytes());
    body.extend([0; 8]);
    body
}

/// A machine with two nodes, three CPUs (one disabled, one x2APIC), one I/O APIC and one override.
fn machine() -> Image {
    let mut image = vec![0u8; 0x1000];
    put(&mut image, 0x100, b"RSD PTR ");
    image[0x10f] = 2;
    put(&mut image, 0x118, &0x200u64.to_le_bytes());
    fix_checksum(&mut image, 0x100, 20, 8);
    fix_checksum(&mut image, 0x100, 36, 32);
    let pointers: Vec<u8> = [0x300u64, 0x500, 0x700].iter().flat_map(|at| at.to_le_bytes()).collect();
    put_table(&mut image, 0x200, b"XSDT", &pointers);

    let mut madt = vec![];
    madt.extend(0xfee0_0000u32.to_le_bytes());
    madt.extend(1u32.to_le_bytes());
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend([0, 8, 1, 7, 0, 0, 0, 0]);
    madt.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 9, 20, 0, 0, 0, 0xf, 0]);
    put_table(&mut image, 0x300, b"APIC", &madt);

    let mut srat = vec![0; 12];
    srat.extend([0, 16, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut second = vec![2, 24, 0, 0];
    second.extend([1u32, 300, 1, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    srat.extend(second);
    srat.extend(memory_structure(5, 0, 0x8000_0000));
    srat.extend(memory_structure(1, 0x1_0000_0000, 0x8000_0000));
    put_table(&mut image, 0x500, b"SRAT", &srat);

    let mut slit = 6u64.to_le_bytes().to_vec();
    slit.extend((0..36).map(|index| if index % 7 == 0 { 10 } else { 21 }));
    put_table(&mut image, 0x700, b"SLIT", &slit);
    Image(image)
}

#[test]
fn good_tables_are_read_whole() {
    let mut notices = Notices::default();
    let platform = parse(&machine(), RSDP, &mut notices);
    assert!(notices.0.is_empty(), "{notices:?}");
    assert_eq!(platform.processors.as_slice(), [Processor { apic_id: 0 }, Processor { apic_id: 300 }]);
    assert_eq!(platform.io_apics[0], IoApic { address: 0xfec0_0000, first_line: 0 });
    assert_eq!(platform.overrides[0], Override { isa: 9, line: 20, active_low: true, level: true });
    assert_eq!((platform.node_of_cpu(0), platform.node_of_cpu(300)), (0, 1));
    assert_eq!(platform.memory_nodes[1].node, 1);
    assert_eq!(platform.distances[0][1], 21);
    assert_eq!(platform.distances[1][1], 10);
}

#[test]
fn an_impossible_local_apic_address_is_ignored() {
    let mut platform = Platform::default();
    let mut notices = Notices::default();
    local_apic_override(&mut platform, &[5, 12, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255], &mut notices);
    assert_eq!(platform.local_apic, 0xfee0_0000);
    assert_eq!(notices.0.len(), 1);
}

#[test]
fn a_wrong_checksum_is_noticed_and_the_table_still_used() {
    let mut image = machine();
    image.0[0x309] ^= 1;
    let mut notices = Notices::default();
    let platform = parse(&image, RSDP, &mut notices);
    assert!(notices.0.iter().any(|notice| notice.text.contains("wrong checksum") && notice.value == 0x300));
    assert_eq!(platform.processors.len(), 2);
}

#[test]
fn a_structure_of_length_zero_ends_the_table_not_the_kernel() {
    let mut image = machine();
    image.0[0x300 + 44 + 8 + 1] = 0;
    let mut notices = Notices::default();
    assert_eq!(parse(&image, RSDP, &mut notices).processors.len(), 1);
    assert!(notices.0.iter().any(|notice| notice.text.contains("impossible length")));
}

#[test]
fn the_rsdp_is_found_by_its_signature_and_checksum() {
    let mut image = vec![0u8; 0x10_0000];
    let good = machine();
    image[0xe_0040..0xe_0064].copy_from_slice(&good.0[0x100..0x124]);
    assert_eq!(find_rsdp(&Image(image.clone())), Some(0xe_0040));
    image[0xe_0048] ^= 1;
    assert_eq!(find_rsdp(&Image(image)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_tables_never_panic_or_hang(damage in prop::collection::vec((0x100usize..0x800, any::<u8>()), 1..40)) {
        let mut image = machine();
        for (at, byte) in damage {
            image.0[at] = byte;
        }
        // Valid root checksums let the damage reach the tables behind them.
        fix_checksum(&mut image.0, 0x100, 20, 8);
        fix_checksum(&mut image.0, 0x100, 36, 32);
        parse(&image, RSDP, &mut Notices::default());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2048), at in 0u64..2048) {
        let image = Image(noise);
        parse(&image, at, &mut Notices::default());
        crate::pvh::parse(&image, at, &mut Notices::default()).memory_map().count();
        crate::multiboot2::parse(&image, at, &mut Notices::default()).memory_map().count();
        find_rsdp(&image);
    }

    #[test]
    fn loader_information_with_a_good_start_and_noise_behind_never_panics(
        noise in prop::collection::vec(any::<u8>(), 64..512), length in 0u32..600
    ) {
        let mut pvh = noise.clone();
        put(&mut pvh, 0, &crate::pvh::MAGIC.to_le_bytes());
        crate::pvh::parse(&Image(pvh), 0, &mut Notices::default()).memory_map().count();
        let mut multiboot = noise;
        put(&mut multiboot, 0, &length.to_le_bytes());
        crate::multiboot2::parse(&Image(multiboot), 0, &mut Notices::default()).memory_map().count();
    }
}
