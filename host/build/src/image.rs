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
    /// All of them
    All,
}

/// Builds one image or all of them, with cargo's progress on stderr. For `All`, returns the x64
/// image.
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

/// Returns the paths of the PC image that [`build`] produces.
pub fn built_x64() -> Image {
    paths_of("x64")
}

fn paths_of(name: &str) -> Image {
    // Both variants have the same file name, so each needs its own directory.
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
