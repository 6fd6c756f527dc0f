//! Machines with wrong firmware tables. QEMU passes our ACPI tables to its firmware as it passes
//! its own, with a script that places and links them (QEMU, `hw/acpi/bios-linker-loader.c`).

use std::process::Output;

use e2e::{boot_and_run, stderr, stdout};

/// The size of a table's header in bytes, and the offsets of its length and checksum (ACPI 6.5,
/// 5.2.6).
const HEADER_SIZE: usize = 36;
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 9;
/// The size of a version 1 RSDP in bytes, and the offsets of its checksum and its pointer to the
/// RSDT (ACPI 6.5, 5.2.5.3).
const RSDP_SIZE: u32 = 20;
const RSDP_CHECKSUM_AT: u32 = 8;
const RSDP_POINTER_AT: u32 = 16;

const RSDP_FILE: &str = "etc/acpi/rsdp";
const TABLES_FILE: &str = "etc/acpi/tables";

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(((HEADER_SIZE + body.len()) as u32).to_le_bytes());
    bytes.resize(HEADER_SIZE, 0);
    bytes.extend(body);
    bytes[CHECKSUM_AT] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    bytes
}

/// Returns a MADT with CPUs of these APIC ids and the I/O APIC of QEMU.
fn madt(apic_ids: &[u8]) -> Vec<u8> {
    let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
    body.extend(1u32.to_le_bytes());
    for &id in apic_ids {
        body.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    body.extend([1, 12, 0, 0]);
    body.extend(0xfec0_0000u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    table(b"APIC", &body)
}

/// The script that the firmware executes.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    const STEP_SIZE: usize = 128;
    const NAME_SIZE: usize = 56;

    fn step(&mut self, command: u32, files: &[&str], rest: &[u8]) {
        let start = self.0.len();
        self.0.extend(command.to_le_bytes());
        for file in files {
            let end = self.0.len() + Self::NAME_SIZE;
            self.0.extend(file.as_bytes());
            self.0.resize(end, 0);
        }
        self.0.extend(rest);
        self.0.resize(start + Self::STEP_SIZE, 0);
    }

    /// Allocates memory for a file. Zone 1 is high memory; zone 2 is where an RSDP is searched for.
    fn allocate(&mut self, file: &str, zone: u8) {
        let mut rest = 64u32.to_le_bytes().to_vec();
        rest.push(zone);
        self.step(1, &[file], &rest);
    }

    /// Adds the address of the tables to the four bytes at an offset.
    fn add_address(&mut self, file: &str, offset: u32) {
        let mut rest = offset.to_le_bytes().to_vec();
        rest.push(4);
        self.step(2, &[file, TABLES_FILE], &rest);
    }

    fn fix_checksum(&mut self, file: &str, offset: u32, length: u32) {
        let rest: Vec<u8> = [offset, 0, length].iter().flat_map(|number| number.to_le_bytes()).collect();
        self.step(3, &[file], &rest);
    }
}

/// Boots with these tables and runs a script at the prompt. `name` is unique to the test.
fn boot_with(tables: &[Vec<u8>], name: &str, cpus: &str, script: &str) -> Output {
    let root_size = HEADER_SIZE + 4 * tables.len();
    let (mut blob, mut offsets) = (vec![0; root_size], Vec::new());
    for table in tables {
        offsets.extend((blob.len() as u32).to_le_bytes());
        blob.extend(table);
    }
    blob[..root_size].copy_from_slice(&table(b"RSDT", &offsets));
    let mut rsdp = b"RSD PTR ".to_vec();
    rsdp.resize(RSDP_SIZE as usize, 0);

    let mut loader = Script::default();
    loader.allocate(RSDP_FILE, 2);
    loader.allocate(TABLES_FILE, 1);
    for index in 0..tables.len() {
        loader.add_address(TABLES_FILE, (HEADER_SIZE + 4 * index) as u32);
    }
    loader.fix_checksum(TABLES_FILE, CHECKSUM_AT as u32, root_size as u32);
    loader.add_address(RSDP_FILE, RSDP_POINTER_AT);
    loader.fix_checksum(RSDP_FILE, RSDP_CHECKSUM_AT, RSDP_SIZE);

    let directory = std::env::temp_dir().join(format!("aerokernel-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the tables");
    let mut options = vec!["--cpus".to_string(), cpus.into(), "--".into(), "-machine".into(), "q35,acpi=off".into()];
    for (file, bytes) in [(RSDP_FILE, rsdp), (TABLES_FILE, blob), ("etc/table-loader", loader.0)] {
        let path = directory.join(file.replace('/', "-"));
        std::fs::write(&path, bytes).expect("the tables can be written");
        options.extend(["-fw_cfg".into(), format!("name={file},file={}", path.display())]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let output = boot_and_run(script, &options);
    std::fs::remove_dir_all(&directory).expect("the tables can be removed");
    output
}

#[test]
fn a_cpu_that_never_answers_is_left_out() {
    // The machine has CPUs 0 and 1; the firmware also claims 7 and 9.
    let output = boot_with(&[madt(&[0, 7, 1, 9])], "silent", "2", "cpus; log; spawn yield 2; kill all");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for id in [7, 9] {
        let told = format!("(id {id}) stays off: it did not answer its start-up signal in time");
        assert!(text.contains(&told), "{text}");
    }
    assert!(text.contains("2 of 4 CPUs run"), "{text}");
    assert!(text.contains("2 more that the firmware lists do not run"), "{text}");
}

#[test]
fn damaged_tables_are_told_and_the_rest_is_used() {
    let intact = boot_with(&[madt(&[0, 1])], "intact", "2", "cpus; log");
    assert!(stdout(&intact).contains("2 of 2 CPUs run"), "{}{}", stdout(&intact), stderr(&intact));

    let mut wrong_checksum = madt(&[0, 1]);
    wrong_checksum[CHECKSUM_AT] ^= 0x55;
    let mut endless = madt(&[0, 1]);
    endless[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_progress = madt(&[0, 1]);
    // The length of the first structure.
    no_progress[HEADER_SIZE + 9] = 0;
    let mut shorter_than_its_header = madt(&[0, 1]);
    shorter_than_its_header[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&3u32.to_le_bytes());
    let noise: Vec<u8> = (0..4096u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, tables) in [
        ("checksum", vec![wrong_checksum]),
        ("endless", vec![endless]),
        ("no-progress", vec![no_progress]),
        ("short", vec![shorter_than_its_header]),
        ("noise", vec![noise]),
        ("none", vec![]),
    ] {
        let output = boot_with(&tables, name, "2", "cpus; acpi; log");
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{name}: {text}{}", stderr(&output));
        assert!(text.contains("warning:"), "{name} is not told: {text}");
    }
}
