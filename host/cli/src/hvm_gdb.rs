//! `aero hvm gdb`: gdb at the CPUs of a process's hybrid runtime, with the symbols of the kernel,
//! and of the process, whose code runs there too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use build::{Image, Which, image};
use hvm::lines::Line;
use object::{Object, ObjectSegment};

use crate::{gdb, hvm_console};

/// Runs `aero hvm gdb`.
pub fn run(of: hvm_console::Which, image: Option<PathBuf>, arguments: &[String]) -> Result<u8> {
    let socket = hvm_console::socket(of, Line::Debugger)?;
    let image = match image {
        Some(path) => Image { boot: path.clone(), debug: path, programs: Vec::new() },
        None => image::build(Which::Hrt)?,
    };
    gdb::attach(&image, &socket, &symbols_of(of.process)?, arguments)
}

/// Returns gdb's commands that load the symbols of the files that a process has mapped.
fn symbols_of(process: u32) -> Result<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))
        .with_context(|| format!("the memory of process {process} cannot be seen"))?;
    let load = |(path, base): (String, u64)| {
        let first = first_address(Path::new(&path))?;
        Some(format!("add-symbol-file {path} -o {:#x}", base.wrapping_sub(first)))
    };
    Ok(bases(&maps).into_iter().filter_map(load).collect())
}

/// Returns the files with code in `/proc/PID/maps`, each with the address of its beginning.
fn bases(maps: &str) -> BTreeMap<String, u64> {
    let mut bases = BTreeMap::new();
    let mut with_code = BTreeSet::new();
    for line in maps.lines() {
        // START-END PERMISSIONS OFFSET DEVICE INODE PATH (Documentation/filesystems/proc.rst).
        let [range, permissions, offset, _, _, path] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            continue;
        };
        let start = range.split('-').next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let Some(start) = start.filter(|_| path.starts_with('/')) else { continue };
        if offset.bytes().all(|digit| digit == b'0') {
            bases.entry(path.to_string()).or_insert(start);
        }
        if permissions.contains('x') {
            with_code.insert(path);
        }
    }
    bases.retain(|path, _| with_code.contains(&**path));
    bases
}

/// The address in an ELF file that its beginning has; `None` if it is none, or has no symbols to
/// load.
fn first_address(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    file.segments().map(|segment| segment.address().wrapping_sub(segment.file_range().0)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_begins_where_its_first_part_is_mapped() {
        let maps = "\
            55d0c0000000-55d0c0002000 r--p 00000000 08:01 12 /usr/bin/x\n\
            55d0c0002000-55d0c0004000 r-xp 00002000 08:01 12 /usr/bin/x\n\
            7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
            7f0000002000-7f0000003000 r--p 00000000 08:01 13 /lib/y.so\n\
            7f0000003000-7f0000004000 r-xp 00001000 08:01 13 /lib/y.so\n\
            7f0000005000-7f0000006000 r--p 00000000 08:01 14 /home/data\n\
            7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0 [vdso]\n";
        let expected = [("/lib/y.so", 0x7f00_0000_2000), ("/usr/bin/x", 0x55d0_c000_0000)];
        assert_eq!(bases(maps), expected.map(|(path, base)| (path.to_string(), base)).into());
    }
}
