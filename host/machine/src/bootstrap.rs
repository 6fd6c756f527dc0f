//! What a Knights Corner card has before its kernel runs: memory and registers, files that this process shares with the QEMU that plays
//! the card, and in them the bootstrap's part (where the image goes, its parameters, SFI tables, the first instructions) and the
//! host's (the console's rings, the POST code).
//!
//! Unlike a card: the APIC is a PC's, with 8-bit ids (`apic=pc` tells the kernel), vector instructions are missing, and an
//! instruction takes a nanosecond. What the image executes is audited apart from this (`tests/knc-isa`).

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

use crate::rings::{self, Rings};

/// Bytes of memory, and of the registers' block with the memory around it that QEMU wants for a module of its own.
const MEMORY: u64 = 1 << 30;
const REGISTERS: u64 = 0x8_0000_0000;
const REGISTERS_SIZE: u64 = 16 << 20;
/// Registers, by their offset in that block: DBOX POSTCODE, SBOX CURRENTRATIO. See `arch-knc/src/platform.rs`.
const POSTCODE: u64 = 0x7c_242c;
const CURRENT_RATIO: u64 = 0x7d_402c;
/// 4 GHz / 20 * 5: what QEMU counts as a nanosecond is a cycle.
const RATIO_1_GHZ: u32 = 3 << 9 | 5 << 1;
/// Where the bootstrap has the boot parameters.
const PARAMETERS: u32 = 0x1_0000;
/// Where the rings are, and how large their region is.
const RINGS: u64 = 0x1000_0000;
/// Memory as the bootstrap lists it: start and length.
const MEMORY_MAP: [(u64, u64); 3] = [(0x5_0000, 0x1_0000), (0x8_0000, 0x2_0000), (0x10_0000, MEMORY - 0x10_0000)];
/// The firmware: the last 128 KiB below 1 MiB, and below 4 GiB.
const FIRMWARE: usize = 0xe_0000;
const FIRMWARE_SIZE: usize = 0x2_0000;
/// The CPU: none of MMX, SSE or CMOV, but 64-bit mode; 40-bit addresses, and the card's family and model.
const CPU: &str =
    "pentium,vendor=GenuineIntel,family=11,model=1,stepping=2,+lm,+pae,+nx,+syscall,+pat,+fxsr,-mmx,phys-bits=40";

/// A card's memory and registers, files that are removed with this.
pub struct Bootstrap {
    directory: Directory,
    memory: File,
    registers: File,
}

impl Bootstrap {
    /// A card with an image in its memory, and hardware threads.
    ///
    /// # Errors
    /// Files that cannot be made, and an image that is none.
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
        let line = format!("phi.ring={RINGS:#x},{:#x} apic=pc {command_line}\0", rings::REGION_SIZE);
        memory.write_all_at(&bytes, DOWNLOAD.into())?;
        memory.write_all_at(line.as_bytes(), u64::from(DOWNLOAD) + bytes.len() as u64)?;
        memory.write_all_at(&parameters(&bytes, DOWNLOAD + bytes.len() as u32), PARAMETERS.into())?;
        memory.write_all_at(&rings::empty_region(), RINGS)?;
        registers.write_all_at(&RATIO_1_GHZ.to_le_bytes(), CURRENT_RATIO)?;
        fs::write(directory.path.join("firmware"), firmware(threads, entry))?;
        Ok(Self { directory, memory, registers })
    }

    /// What plays it.
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

    /// The console.
    pub fn rings(&self) -> Result<Rings> {
        Ok(Rings::new(self.memory.try_clone()?, RINGS))
    }

    /// The POST code.
    pub fn post_code(&self) -> Result<PostCode> {
        Ok(PostCode(self.registers.try_clone()?))
    }
}

/// Two characters that the kernel shows.
pub struct PostCode(File);

impl PostCode {
    /// What they are.
    pub fn text(&self) -> String {
        let mut code = [0; 2];
        let _ = self.0.read_exact_at(&mut code, POSTCODE);
        code.iter().map(|&byte| char::from(byte)).filter(char::is_ascii_graphic).collect()
    }

    /// The kernel's exit status, once it has ended.
    pub fn status(&self) -> Option<u8> {
        self.text().strip_prefix('-')?.parse().ok()
    }

    /// Why the kernel cannot boot, if it says so: see `arch-knc/src/start.rs`.
    pub fn error(&self) -> Option<&'static str> {
        match self.text().as_str() {
            "Em" => Some("the boot parameters list no usable memory below 4 GiB"),
            "Ep" => Some("there is not enough memory for page tables, or the memory map contradicts itself"),
            "Er" => Some("the APIC's registers cannot be mapped"),
            "Ec" => Some("the card's registers name no clock"),
            _ => None,
        }
    }

    /// What became of a card that has stopped.
    pub fn end(&self) -> String {
        match self.error() {
            Some(error) => format!("the kernel cannot boot: {error}"),
            None => format!("the card stopped before the kernel did, with POST code \"{}\"", self.text()),
        }
    }
}

/// QEMU does not know DELAY, with which the kernel spins (`arch-knc`): it gets PAUSE and a NOP instead, which let other hardware threads have
/// their turn as well. The constant before it makes the bytes unmistakable.
fn pause_for_delay(image: &mut [u8]) {
    const MOVE: u8 = 0xb8;
    const PAUSE: [u8; 4] = [0xf3, 0x90, 0x66, 0x90];
    for at in 5..image.len().saturating_sub(DELAY.len()) {
        if image[at - 5] == MOVE && image[at - 4..at] == SPIN_CYCLES.to_le_bytes() && image[at..].starts_with(&DELAY) {
            image[at..at + DELAY.len()].copy_from_slice(&PAUSE);
        }
    }
}

/// The boot parameters (Linux, Documentation/x86/zero-page.rst): the image's set-up header, the command line, the memory map.
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

/// SFI tables, and the first instructions of all: to 32-bit mode, and to the image.
fn firmware(threads: u32, entry: u32) -> Vec<u8> {
    let mut rom = vec![0; FIRMWARE_SIZE];
    let cpus: Vec<u8> = (0..threads).flat_map(u32::to_le_bytes).collect();
    let tables = [(0x40, table(b"CPUS", &cpus)), (0x800, table(b"APIC", &0x8_007d_a800u64.to_le_bytes()))];
    let places: Vec<u8> = tables.iter().flat_map(|(at, _)| ((FIRMWARE + at) as u64).to_le_bytes()).collect();
    for (at, table) in tables.iter().chain(&[(0, table(b"SYST", &places))]) {
        rom[*at..*at + table.len()].copy_from_slice(table);
    }
    // Real mode, segment F000: the instructions at 0, the descriptors at 0x80, the reset vector at the end.
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
    // jmp to the segment's start
    let reset: [u8; 3] = [0xe9, 0x0d, 0x00];
    for (at, bytes) in
        [(0, real.concat()), (0x40, protected.concat()), (DESCRIPTORS, descriptors.concat()), (0xfff0, reset.to_vec())]
    {
        rom[SEGMENT + at..][..bytes.len()].copy_from_slice(&bytes);
    }
    rom
}

/// An SFI table: signature, length, revision, checksum, names.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((24 + body.len() as u32).to_le_bytes());
    table.extend([1, 0]);
    table.extend(b"AERO  AEROCARD");
    table.extend(body);
    table[9] = 0u8.wrapping_sub(table.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte)));
    table
}
