//! Building the kernel: cargo with a rebuilt `core` for the bare target, then packing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{knc, pack};

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// PCs
    X64,
    /// PCs, with the kernel's test suite
    Suite,
    /// Knights Corner
    Knc,
    /// All of them
    All,
}

/// A built image.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a loader gets: stripped, with the symbol table packed behind.
    pub boot: PathBuf,
    /// What debuggers get.
    pub debug: PathBuf,
    /// The programs in it: names, and ELF files with symbols and lines.
    pub programs: Vec<(String, PathBuf)>,
}

/// The project's directory.
pub fn root() -> PathBuf {
    let compiled_in =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
    std::env::var_os("AERO_ROOT").map_or_else(compiled_in, PathBuf::from)
}

/// Cargo, as the `aero` script found it.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("AERO_CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds one image or all, with cargo's progress on stderr.
pub fn build(which: Which) -> Result<Image> {
    match which {
        Which::X64 => build_x64("x64", &[]),
        Which::Suite => build_x64("suite", &["--features", "aero-image-x64/suite"]),
        Which::Knc => knc::build(),
        Which::All => {
            knc::build()?;
            build_x64("suite", &["--features", "aero-image-x64/suite"])?;
            build_x64("x64", &[])
        }
    }
}

/// Where [`build`] has put the image for PCs.
pub fn built_x64() -> Image {
    paths_of("x64")
}

fn paths_of(name: &str) -> Image {
    // Both variants have the same file name, so each has its own directory.
    let directory = root().join("target/kernel").join(name);
    let debug = directory.join("x86_64-unknown-none/kernel/aerokernel-x64");
    Image { boot: directory.join("aerokernel-x64.boot"), debug, programs: Vec::new() }
}

fn build_x64(name: &str, features: &[&str]) -> Result<Image> {
    let image = paths_of(name);
    let directory = root().join("target/kernel").join(name);
    let mut command = kernel_cargo("build", &directory, "-C force-frame-pointers=yes");
    command.args(["-p", "aero-image-x64", "--target", "x86_64-unknown-none"]).args(features);
    run(command)?;
    pack::pack(&image.debug, &[], &image.boot)?;
    Ok(image)
}

/// Cargo, told to build the kernel with a rebuilt `core` into `directory`.
pub fn kernel_cargo(subcommand: &str, directory: &Path, flags: &str) -> Command {
    let linker = std::env::var("AERO_LINKER").unwrap_or_else(|_| "ld.lld".into());
    let mut command = cargo();
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-C linker={linker} -C linker-flavor=ld.lld {flags}"))
        .args([subcommand, "--profile", "kernel", "-Zbuild-std=core,alloc"])
        .arg("-Zbuild-std-features=compiler-builtins-mem")
        .arg("--target-dir")
        .arg(directory);
    command
}

/// Runs cargo.
pub fn run(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo failed: its errors are above");
    Ok(())
}
