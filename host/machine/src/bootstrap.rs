//! The state of a Knights Corner card before its kernel runs. Its memory and registers are files
//! that this process shares with the QEMU that plays the card. This module writes into them what a
//! real card's bootstrap provides (the image, its boot parameters, SFI tables, the first
//! instructions) and what the host provides (the console's rings), and reads the POST code.
//!
//! Unlike on a card, the APIC is a PC's with 8-bit ids (`apic=pc` tells the kernel so), vector
//! instructions are missing, and an instruction takes a nanosecond. The instructions that the image
//! executes are audited separately (`tests/knc-isa`).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;

use anyhow::{Context, Result};
use build::bzimage;
use build::knc::DOWNLOAD;
use build::project::root;
use build::scratch::Directory;
use wire::card::{DELAY, SPIN_CYCLES};
use wire::command_line;
use wire::rings::channel::KIND_CONSOLE;

use rings::{self, Rings};

/// Sizes in bytes of memory and of the register block, with the block's address. The block is
/// larger than the registers because QEMU requires it as a memory module of its own.
const MEMORY: u64 = 1 << 30;
const REGISTERS: u64 = 0x8_0000_0000;
const REGISTERS_SIZE: u64 = 16 << 20;
/// Register offsets in the block: DBOX POSTCODE and SBOX CURRENTRATIO. See
/// `arch-knc/src/platform.rs`.
const POSTCODE: u64 = 0x7c_242c;
const CURRENT_RATIO: u64 = 0x7d_402c;
/// 4 GHz / 20 * 5, or 1 GHz: a cycle is what QEMU counts as a nanosecond.
const RATIO_1_GHZ: u32 = 3 << 9 | 5 << 1;
/// Address of the boot parameters.
const PARAMETERS: u32 = 0x1_0000;
/// Address of the rings' region.
const RINGS: u64 = 0x1000_0000;
/// The memory map that the bootstrap reports: start and length in bytes.
const MEMORY_MAP: [(u64, u64); 3] = [(0x5_0000, 0x1_0000), (0x8_0000, 0x2_0000), (0x10_0000, MEMORY - 0x10_0000)];
/// Address of the firmware in the last 128 KiB below 1 MiB, which QEMU also maps below 4 GiB.
const FIRMWARE: usize = 0xe_0000;
const FIRMWARE_SIZE: usize = 0x2_0000;
/// A CPU with 64-bit mode but without MMX, SSE and CMOV, with 40-bit physical addresses and the
/// card's family and model.
const CPU: &str =
    "pentium,vendor=GenuineIntel,family=11,model=1,stepping=2,+lm,+pae,+nx,+syscall,+pat,+fxsr,-mmx,phys-bits=40";

/// A card's memory and registers. The files are removed when this value is dropped.
pub struct Bootstrap {
    directory: Directory,
    memory: File,
    registers: File,
}

impl Bootstrap {
    /// Creates a card with an image in its memory and the given number of hardware threads.
    ///
    /// # Errors
    /// Fails if a file cannot be created or the image is not a bzImage.
    pub fn new(image: &Path, threads: u32, command_line: &str) -> Result<Self> {
        let directory = Directory::new(root().join("target/card").join(process::id().to_string()))?;
        let file = |name: &str, size: u64| -> Result<File> {
            let path = directory.path.join(name);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.with_context(|| format!("{} cannot be made", path.display()))?;
            file.set_len(size)?;
            Ok(file)
        };
        let (memory, registers) = (file("memory", MEMORY)?, file("registers", REGISTERS_SIZE)?);
        let mut bytes = fs::read(image).with_context(|| format!("{} cannot be read", image.display()))?;
        let entry = DOWNLOAD + bzimage::entry(&bytes)? as u32;
        pause_for_delay(&mut bytes);
        let region = command_line::RINGS.with(format_args!("{RINGS:#x},{:#x}", rings::REGION_SIZE));
        let line = format!("{region} {} {command_line}\0", command_line::APIC.with("pc"));
        memory.write_all_at(&bytes, DOWNLOAD.into())?;
        memory.write_all_at(line.as_bytes(), u64::from(DOWNLOAD) + bytes.len() as u64)?;
        memory.write_all_at(&parameters(&bytes, DOWNLOAD + bytes.len() as u32), PARAMETERS.into())?;
        rings::prepare(&memory, RINGS, &[KIND_CONSOLE])?;
        registers.write_all_at(&RATIO_1_GHZ.to_le_bytes(), CURRENT_RATIO)?;
        fs::write(directory.path.join("firmware"), firmware(threads, entry))?;
        Ok(Self { directory, memory, registers })
    }

    /// Returns the command that runs the card in QEMU.
    pub fn command(&self, threads: u32) -> process::Command {
        let file = |name: &str| self.directory.path.join(name).display().to_string().replace(',', ",,");
        let backend = |name: &str, size: u64| {
            format!("memory-backend-file,id={name},size={size},mem-path={},share=on", file(name))
        };
        let mut command = process::Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-machine", "q35,memory-backend=memory", "-cpu", CPU]);
        command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", &threads.to_string()]);
        command.args(["-object", &backend("memory", MEMORY), "-object", &backend("registers", REGISTERS_SIZE)]);
        command.args(["-m", &format!("{}M,slots=1,maxmem=64G", MEMORY >> 20)]);
        command.args(["-device", &format!("pc-dimm,memdev=registers,addr={REGISTERS:#x}")]);
        command.arg("-bios").arg(self.directory.path.join("firmware")).args(["-display", "none", "-no-reboot"]);
        command
    }

    /// Returns the host's side of the console's rings.
    pub fn rings(&self) -> Result<Rings> {
        Ok(Rings::new(self.memory.try_clone()?, RINGS, 0))
    }

    /// Returns a reader of the POST code.
    pub fn post_code(&self) -> Result<PostCode> {
        Ok(PostCode(self.registers.try_clone()?))
    }
}

/// The POST code: two characters that the kernel shows.
pub struct PostCode(File);

impl PostCode {
    /// Returns the characters, without those that cannot be printed.
    pub fn text(&self) -> String {
        let mut code = [0; 2];
        let _ = self.0.read_exact_at(&mut code, POSTCODE);
        code.iter().map(|&byte| char::from(byte)).filter(char::is_ascii_graphic).collect()
    }

    /// Returns the kernel's exit status once the kernel has ended.
    pub fn status(&self) -> Option<u8> {
        self.text().strip_prefix('-')?.parse().ok()
    }

    /// Returns why the kernel cannot boot, if its POST code says so. See `arch-knc/src/board.rs`.
    pub fn error(&self) -> Option<&'static str> {
        match self.text().as_str() {
            "Em" => Some("the boot parameters list no usable memory below 4 GiB"),
            "Ep" => Some("there is not enough memory for page tables, or the memory map contradicts itself"),
            "Er" => Some("the APIC's registers cannot be mapped"),
            "Ec" => Some("the card's registers give no clock rate"),
            _ => None,
        }
    }

    /// Describes the end of a card that has stopped.
    pub fn end(&self) -> String {
        match self.error() {
            Some(error) => format!("the kernel cannot boot: {error}"),
            None => format!("the card stopped before the kernel did, with POST code \"{}\"", self.text()),
        }
    }
}

/// Replaces the kernel's DELAY instructions (`arch-knc`), which QEMU does not know, by PAUSE and a
/// NOP, which also give other hardware threads their turn. The constant loaded just before DELAY
/// identifies its bytes reliably.
fn pause_for_delay(image: &mut [u8]) {
    const MOVE: u8 = 0xb8;
    const PAUSE: [u8; 4] = [0xf3, 0x90, 0x66, 0x90];
    for at in 5..image.len().saturating_sub(DELAY.len()) {
        if image[at - 5] == MOVE && image[at - 4..at] == SPIN_CYCLES.to_le_bytes() && image[at..].starts_with(&DELAY) {
            image[at..at + DELAY.len()].copy_from_slice(&PAUSE);
        }
    }
}

/// Returns the boot parameters (Linux, Documentation/x86/zero-page.rst): the image's set-up header,
/// the command line's address and the memory map.
fn parameters(image: &[u8], command_line: u32) -> Vec<u8> {
    let mut page = vec![0; 4096];
    if let Some((at, header)) = bzimage::header(image) {
        page[at..at + header.len()].copy_from_slice(header);
    }
    page[0x228..0x22c].copy_from_slice(&command_line.to_le_bytes());
    page[0x1e8] = MEMORY_MAP.len() as u8;
    for (number, (start, length)) in MEMORY_MAP.iter().enumerate() {
        let entry = [&start.to_le_bytes()[..], &length.to_le_bytes(), &1u32.to_le_bytes()].concat();
        page[0x2d0 + 20 * number..][..20].copy_from_slice(&entry);
    }
    page
}

/// Returns the firmware: SFI tables, and the first instructions of every hardware thread, which
/// switch to 32-bit mode and jump to the image.
fn firmware(threads: u32, entry: u32) -> Vec<u8> {
    let mut rom = vec![0; FIRMWARE_SIZE];
    let cpus: Vec<u8> = (0..threads).flat_map(u32::to_le_bytes).collect();
    let tables = [(0x40, table(b"CPUS", &cpus)), (0x800, table(b"APIC", &0x8_007d_a800u64.to_le_bytes()))];
    let places: Vec<u8> = tables.iter().flat_map(|(at, _)| ((FIRMWARE + at) as u64).to_le_bytes()).collect();
    for (at, table) in tables.iter().chain(&[(0, table(b"SYST", &places))]) {
        rom[*at..*at + table.len()].copy_from_slice(table);
    }
    // Real mode, segment F000: instructions at 0, descriptors at 0x80, the reset vector at the end.
    const SEGMENT: usize = 0x1_0000;
    const CODE_32: u32 = 0xf_0040;
    const DESCRIPTORS: usize = 0x80;
    let real = [
        &[0xfa][..],                                              // cli
        &[0x2e, 0x66, 0x0f, 0x01, 0x16, DESCRIPTORS as u8, 0x00], // lgdtl cs:DESCRIPTORS
        &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0],        // cr0 |= 1
        &[0x66, 0xea],
        &CODE_32.to_le_bytes(),
        &[0x08, 0x00], // ljmpl 8:CODE_32
    ];
    let protected = [
        &[0x66, 0xb8, 0x10, 0x00][..],         // movw $16, %ax
        &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // to ds, es, ss
        &[0xbe],
        &PARAMETERS.to_le_bytes(), // movl $PARAMETERS, %esi
        &[0xb8],
        &entry.to_le_bytes(),
        &[0xff, 0xe0], // jmp to the entry
    ];
    let descriptors = [
        &(31u16).to_le_bytes()[..],
        &(0xf_0000 + DESCRIPTORS as u32 + 8).to_le_bytes(),
        &[0, 0],
        &0u64.to_le_bytes(),
        &0x00cf_9b00_0000_ffffu64.to_le_bytes(),
        &0x00cf_9300_0000_ffffu64.to_le_bytes(),
    ];
    // Jumps to the segment's start.
    let reset: [u8; 3] = [0xe9, 0x0d, 0x00];
    for (at, bytes) in
        [(0, real.concat()), (0x40, protected.concat()), (DESCRIPTORS, descriptors.concat()), (0xfff0, reset.to_vec())]
    {
        rom[SEGMENT + at..][..bytes.len()].copy_from_slice(&bytes);
    }
    rom
}

/// Returns an SFI table: signature, length, revision, checksum, names, body.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((24 + body.len() as u32).to_le_bytes());
    table.extend([1, 0]);
    table.extend(b"AERO  AEROCARD");
    table.extend(body);
    table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte)));
    table
}
