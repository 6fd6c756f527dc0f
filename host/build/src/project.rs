//! The project's directory, and the tools that the `aero` script found.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The project's directory.
pub fn root() -> PathBuf {
    let compiled_in =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
    std::env::var_os("AERO_ROOT").map_or_else(compiled_in, PathBuf::from)
}

/// Cargo, as the `aero` script found it, in the project's directory.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("AERO_CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
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
///
/// # Errors
/// A cargo that cannot be run, or fails: it has said why.
pub fn run(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo failed: its errors are above");
    Ok(())
}

/// A program that is not installed.
#[derive(Debug)]
pub struct MissingTool(pub &'static str);

impl fmt::Display for MissingTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing; `./aero doctor` says how to install it", self.0)
    }
}

impl std::error::Error for MissingTool {}
