//! Builds the kernel: cargo compiles it with a rebuilt `core` for the bare target, then it is
//! packed.

use anyhow::Result;
use clap::ValueEnum;

pub use crate::pack::Image;
use crate::project::{kernel_cargo, root, run};
use crate::{knc, pack};

/// The image to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// PCs
    X64,
    /// PCs, with the kernel's test suite
    Suite,
    /// Knights Corner
    Knc,
    /// Hybrid virtual machines, beside Linux
    Hrt,
    /// The same, with the kernel's test suite
    HrtSuite,
    /// All of them
    All,
}

/// Builds one image or all of them, with cargo's progress on stderr. For `All`, returns the x64
/// image.
pub fn build(which: Which) -> Result<Image> {
    match which {
        Which::X64 => build_for_pc("x64", "x64", &[]),
        Which::Suite => build_for_pc("suite", "x64", &["--features", "aero-image-x64/suite"]),
        Which::Hrt => build_for_pc("hrt", "hrt", &[]),
        Which::HrtSuite => build_for_pc("hrt-suite", "hrt", &["--features", "aero-image-hrt/suite"]),
        Which::Knc => knc::build(),
        Which::All => {
            knc::build()?;
            build(Which::Hrt)?;
            build(Which::HrtSuite)?;
            build(Which::Suite)?;
            build(Which::X64)
        }
    }
}

/// Returns the paths of the PC image that [`build`] produces.
pub fn built_x64() -> Image {
    paths_of("x64", "x64")
}

fn paths_of(name: &str, package: &str) -> Image {
    // Variants have the same file name, so each needs its own directory.
    let directory = root().join("target/kernel").join(name);
    let debug = directory.join(format!("x86_64-unknown-none/kernel/aerokernel-{package}"));
    Image { boot: directory.join(format!("aerokernel-{package}.boot")), debug, programs: Vec::new() }
}

fn build_for_pc(name: &str, package: &str, features: &[&str]) -> Result<Image> {
    let image = paths_of(name, package);
    let directory = root().join("target/kernel").join(name);
    // The platform around the CPU, which kernel/Cargo.toml selects by.
    let platform = if package == "hrt" { "hvm" } else { "pc" };
    let flags = format!("-C force-frame-pointers=yes --cfg aero_platform=\"{platform}\"");
    let mut command = kernel_cargo("build", &directory, &flags);
    command.args(["-p", &format!("aero-image-{package}"), "--target", "x86_64-unknown-none"]).args(features);
    run(command)?;
    pack::pack(&image.debug, &[], &image.boot)?;
    Ok(image)
}
