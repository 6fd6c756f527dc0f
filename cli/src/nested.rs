//! A Linux with KVM in QEMU's emulator, for machines without: QEMU emulates AMD's virtual machines. In it runs `aero` itself, with
//! the images as they were built here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::image::{self, Which, root};
use crate::linux;
use crate::qemu::{Accelerator, Clock};

/// Where the project is in there.
const PROJECT: &str = "/project";
/// QEMU's own files that a machine of ours needs: its firmware, and what loads kernels.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "kvmvapic.bin", "pvh.bin", "linuxboot_dma.bin"];
/// What Linux, all files and the machine in it need.
const MEMORY: &str = "3G";
/// A CPU of QEMU 7.2's emulator that runs a guest sometimes stays without the one interrupt Linux has set its timer for, and
/// without all that wait for it. Where the timer is periodic, the next one brings everything along.
const PERIODIC: &str = "nohz=off highres=off";
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// True in there.
pub fn is_inside() -> bool {
    image::is_prebuilt() && root() == Path::new(PROJECT)
}

/// Runs `aero` with these arguments in there, with the modules for KVM loaded. What it prints goes to standard output.
///
/// # Errors
/// What cannot be found or does not boot, and an `aero` that fails.
pub fn run(kernel: &Path, modules: &[PathBuf], arguments: &str) -> Result<()> {
    let qemu = find_in_path("qemu-system-x86_64")?;
    let aero = std::env::current_exe()?;
    let mut files = linux::file_system(&[format!("/aero {arguments}")])?;
    files.add_directory("tmp");
    for (at, program) in [(Path::new("/aero"), &aero), (&qemu, &qemu)] {
        files.add_file(at, program)?;
    }
    for library in libraries(&[&aero, &qemu])? {
        files.add_file(&library, &library)?;
    }
    add_firmware(&mut files, &qemu)?;
    let names: Vec<String> = (0..modules.len()).map(|number| format!("/modules/{number}.ko")).collect();
    for (name, module) in names.iter().zip(modules) {
        files.add_file(Path::new(name), module)?;
    }
    files.add("/modules/list", names.join("\n").as_bytes());
    let manifest = root().join("bench/linux/Cargo.toml");
    let mut built = vec![kernel.to_path_buf()];
    for binary in ["init", "primitives"] {
        built.push(linux::build(&manifest, binary)?);
    }
    for which in [Which::Suite, Which::X64] {
        built.push(image::build(which)?.boot);
    }
    for path in built {
        let inside = path.strip_prefix(root()).with_context(|| format!("{} is not in the project", path.display()))?;
        files.add_file(&Path::new(PROJECT).join(inside), &path)?;
    }
    let directory = qemu.parent().context("QEMU is in a directory")?.display();
    let words = format!("PATH={directory} AERO_ROOT={PROJECT} AERO_PREBUILT=1 {PERIODIC}");
    let machine = linux::Machine {
        kernel,
        cpus: 2,
        memory: MEMORY,
        accelerator: Accelerator::Tcg,
        clock: Clock::Real,
        words: &words,
        limit: LIMIT,
        echo: true,
    };
    machine.execute(files).map(drop)
}

fn find_in_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(name));
    places.find(|place| place.is_file()).with_context(|| format!("{name} is not in PATH"))
}

/// The shared libraries of programs, and what loads them.
fn libraries(programs: &[&PathBuf]) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for program in programs {
        let text = linux::output(Command::new("ldd").arg(program))?;
        libraries.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}

/// Adds QEMU's own files where it will look for them.
fn add_firmware(files: &mut Archive, qemu: &Path) -> Result<()> {
    let directories = linux::output(Command::new(qemu).args(["-L", "help"]))?;
    for name in FIRMWARE {
        let mut places = directories.lines().map(|directory| Path::new(directory).join(name));
        let place = places.find(|place| place.is_file());
        let place =
            place.with_context(|| format!("QEMU's {name} is not in {}", directories.trim().replace('\n', ", ")))?;
        files.add_file(&place, &place)?;
    }
    Ok(())
}
