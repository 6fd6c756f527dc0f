//! The card has every instruction of the Knights Corner image (ISA Reference Manual 327364-001,
//! B.2).

use std::collections::BTreeMap;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

/// Instruction sets that the card has. FPU is one of them; MMX and the sets for vector registers
/// are not.
const HAS: [CpuidFeature; 15] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::TSC,
    CpuidFeature::MSR,
    CpuidFeature::CX8,
    CpuidFeature::SYSCALL,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
];

/// Instructions of these sets that the card lacks.
const LACKS: [Mnemonic; 8] = [
    Mnemonic::In,
    Mnemonic::Out,
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
];

/// Returns the instructions that the card lacks, each with its count and first address.
fn violations(bits: u32, code: &[u8], address: u64) -> BTreeMap<String, (usize, u64)> {
    let mut found = BTreeMap::new();
    for instruction in Decoder::with_ip(bits, code, address, DecoderOptions::KNC) {
        let mnemonic = instruction.mnemonic();
        // Padding between functions, and the trap of `unreachable`.
        let harmless = instruction.code() == Code::Int3 || mnemonic == Mnemonic::Ud2;
        // LLVM emits BSF as `rep bsf`, which newer CPUs decode as TZCNT; older ones ignore the
        // prefix.
        let harmless = harmless || mnemonic == Mnemonic::Tzcnt;
        // DELAY is the card's own.
        let harmless = harmless || mnemonic == Mnemonic::Delay;
        let missing = instruction.cpuid_features().iter().any(|feature| !HAS.contains(feature));
        if !harmless && (missing || LACKS.contains(&mnemonic) || instruction.is_invalid()) {
            let entry = found
                .entry(format!("{mnemonic:?} {:?}", instruction.cpuid_features()))
                .or_insert((0, instruction.ip()));
            entry.0 += 1;
        }
    }
    found
}

/// Code between labels that is not all 64-bit: the first instructions of the image and of further
/// hardware threads.
const START_UP: [(u32, &str, &str); 4] = [
    (32, "card_entry", "boot_gdt"),
    (64, "boot_long_mode", "boot_end"),
    (16, "trampoline_start", "trampoline_long"),
    (64, "trampoline_long", "trampoline_gdt"),
];

/// Returns the bytes between two labels and their address.
fn piece<'a>(file: &object::File<'a>, from: &str, to: &str) -> (&'a [u8], u64) {
    let address = |name| file.symbol_by_name(name).unwrap_or_else(|| panic!("there is no label {name}")).address();
    let (start, end) = (address(from), address(to));
    let data = file.sections().find_map(|section| section.data_range(start, end - start).ok().flatten());
    (data.unwrap_or_else(|| panic!("{from} is in no section")), start)
}

#[test]
fn the_image_has_only_the_cards_instructions() {
    let path = std::env::var("KNC_IMAGE").expect("KNC_IMAGE names the image; `./aero test knc` builds it and sets it");
    let bytes = std::fs::read(&path).expect("the image can be read");
    let file = object::File::parse(&*bytes).expect("the image is an ELF file");
    let mut instructions = 0;
    let mut all = BTreeMap::new();
    let is_code = |section: &object::Section| section.kind() == SectionKind::Text && section.name() != Ok(".boot");
    for section in file.sections().filter(is_code) {
        let code = section.data().expect("sections have data");
        instructions += Decoder::new(64, code, DecoderOptions::NONE).iter().count();
        all.extend(violations(64, code, section.address()));
    }
    for (bits, from, to) in START_UP {
        let (code, address) = piece(&file, from, to);
        assert!(!code.is_empty(), "there is nothing from {from} to {to}");
        all.extend(violations(bits, code, address));
    }
    assert!(instructions > 10_000, "only {instructions} instructions: the kernel was not linked");
    assert!(all.is_empty(), "instructions the card lacks, with count and first address: {all:#x?}");
    println!("{instructions} instructions audited");
}

#[test]
fn the_audit_finds_what_the_card_lacks() {
    for (name, code) in [
        ("cmov", &[0x48, 0x0f, 0x44, 0xc1][..]),
        ("pause", &[0xf3, 0x90]),
        ("multi-byte nop", &[0x0f, 0x1f, 0x00]),
        ("sse", &[0x0f, 0x28, 0xc1]),
        ("mmx", &[0x0f, 0x6f, 0xc1]),
        ("mfence", &[0x0f, 0xae, 0xf0]),
        ("cmpxchg16b", &[0x48, 0x0f, 0xc7, 0x0f]),
        ("out", &[0xee]),
    ] {
        assert_eq!(violations(64, code, 0).len(), 1, "{name} was not found");
    }
    for code in [
        &[0x90][..],
        &[0x66, 0x66, 0x90],
        &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],
        &[0x48, 0xcf],
        &[0x0f, 0x31],
        &[0xc5, 0xfa, 0xae, 0xf0],
    ] {
        assert!(violations(64, code, 0).is_empty(), "{code:02x?} is one of the card's");
    }
}
