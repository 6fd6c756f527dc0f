//! Builds the runtime that is put into Linux programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::project::{cargo, root, run};

/// The only Linux for which there is an HRT.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the runtime: a static program that can be loaded anywhere. Returns its path.
///
/// # Errors
/// Fails if cargo does, which has printed why.
pub fn build() -> Result<PathBuf> {
    let directory = root().join("target/multiverse");
    let mut build = cargo();
    build
        .args(["build", "--quiet", "--release", "-p", "aero-multiverse-runtime", "--target", TARGET, "--target-dir"])
        .arg(&directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=pie -C strip=debuginfo");
    run(build)?;
    Ok(directory.join(TARGET).join("release/aero-multiverse"))
}
