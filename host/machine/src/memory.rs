//! Checks that an image fits into a machine's memory, because a kernel without enough memory ends
//! silently.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

/// Memory in bytes that the kernel needs beside the image before it can print anything; 4 MiB in
/// all suffice to boot.
const LEAST_BESIDE_IMAGE: u64 = 512 << 10;

/// Fails if the image and the kernel's first needs do not fit into the machine's memory. A size
/// that is not a number with a unit is left to QEMU.
pub fn check(image: &Path, given: &str) -> Result<()> {
    let Some(memory) = bytes_of(given) else { return Ok(()) };
    let bytes = fs::read(image).with_context(|| format!("{} cannot be read", image.display()))?;
    let header = elf::FileHeader64::<Endianness>::parse(&*bytes)?;
    let endian = header.endian()?;
    let loaded = header.program_headers(endian, &*bytes)?.iter().filter(|part| part.p_type(endian) == elf::PT_LOAD);
    let end = loaded.map(|part| part.p_paddr(endian) + part.p_memsz(endian)).max().unwrap_or(0);
    let least = (end + LEAST_BESIDE_IMAGE).div_ceil(1 << 20);
    ensure!(
        memory >= least << 20,
        "`--mem {given}` is too small: the image, with its programs, reaches to {:.1} MiB, and the kernel wants {least}M at least",
        end as f64 / f64::from(1 << 20)
    );
    Ok(())
}

/// Parses a number with a unit, MiB without one, into bytes.
pub fn bytes_of(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let shift = match size[digits.len()..].to_ascii_uppercase().as_str() {
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn sizes_are_read_as_qemu_reads_them() {
        assert_eq!(bytes_of("3"), Some(3 << 20));
        assert_eq!(bytes_of("3m"), Some(3 << 20));
        assert_eq!(bytes_of("2048K"), Some(2 << 20));
        assert_eq!(bytes_of("1T"), Some(1 << 40));
        for other in ["size=1G,slots=2", "1.5G", "", "99999999999999999999", "4X"] {
            assert_eq!(bytes_of(other), None, "{other}");
        }
    }
}
