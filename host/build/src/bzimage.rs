//! Packs the kernel for Knights Corner as a Linux bzImage, the format that every loader for the
//! card accepts (Linux, Documentation/x86/boot.rst).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::pack;

/// Sectors of set-up code after the boot sector and before the 32-bit entry point. The card runs
/// neither.
const SETUP_SECTORS: u8 = 7;
const SECTOR: usize = 512;
const SETUP_SIZE: usize = (SETUP_SECTORS as usize + 1) * SECTOR;
/// Offsets of fields in the set-up header.
const SETUP_SECTORS_AT: usize = 0x1f1;
const BOOT_FLAG_AT: usize = 0x1fe;
const JUMP_AT: usize = 0x200;
const MAGIC_AT: usize = 0x202;
const VERSION_AT: usize = 0x206;
const LOAD_FLAGS_AT: usize = 0x211;
const CODE_32_START_AT: usize = 0x214;
const ALIGNMENT_AT: usize = 0x230;
const RELOCATABLE_AT: usize = 0x234;
const COMMAND_LINE_SIZE_AT: usize = 0x238;
const INIT_SIZE_AT: usize = 0x260;
/// Boot protocol 2.10, whose last field is `init_size`, the memory that the kernel needs.
const VERSION: u16 = 0x020a;
/// Load flag: the 32-bit code is loaded above 1 MiB and runs there.
const LOADED_HIGH: u8 = 1;
/// A jump over the header. It is never executed, but its distance gives the header's end.
const JUMP: [u8; 2] = [0xeb, 0x66];
const PAGE: u32 = 4096;

/// Packs the ELF file at `from` into `to`, for loading at address `download`.
pub fn pack(from: &Path, to: &Path, download: u32) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
    let code = pack::flat(&bytes, "card_entry").with_context(|| format!("{} cannot be packed", from.display()))?;
    let mut image = vec![0; SETUP_SIZE];
    let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    put(SETUP_SECTORS_AT, &[SETUP_SECTORS]);
    put(BOOT_FLAG_AT, &0xaa55u16.to_le_bytes());
    put(JUMP_AT, &JUMP);
    put(MAGIC_AT, b"HdrS");
    put(VERSION_AT, &VERSION.to_le_bytes());
    put(LOAD_FLAGS_AT, &[LOADED_HIGH]);
    put(CODE_32_START_AT, &(download + SETUP_SIZE as u32).to_le_bytes());
    put(ALIGNMENT_AT, &PAGE.to_le_bytes());
    put(RELOCATABLE_AT, &[1]);
    put(COMMAND_LINE_SIZE_AT, &4095u32.to_le_bytes());
    put(INIT_SIZE_AT, &u32::try_from(code.len())?.to_le_bytes());
    image.extend(code);
    pack::write_whole(to, &image)
}

/// Returns the offset of an image's 32-bit entry point.
pub fn entry(image: &[u8]) -> Result<usize> {
    ensure!(image.get(MAGIC_AT..MAGIC_AT + 4) == Some(b"HdrS"), "it has no Linux set-up header");
    let sectors = image.get(SETUP_SECTORS_AT).copied().unwrap_or(0);
    let offset = (usize::from(sectors) + 1) * SECTOR;
    ensure!(offset < image.len(), "it ends before its 32-bit code");
    Ok(offset)
}

/// Returns the offset and the bytes of an image's set-up header, which the boot parameters hold at
/// the same offset.
pub fn header(image: &[u8]) -> Option<(usize, &[u8])> {
    // The jump's distance gives the header's end.
    let end = MAGIC_AT + usize::from(*image.get(JUMP_AT + 1)?);
    Some((SETUP_SECTORS_AT, image.get(SETUP_SECTORS_AT..end)?))
}
