//! The project's directory, and the tools that the `aero` script found.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Returns the project's directory.
pub fn root() -> PathBuf {
    let compiled_in =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
    std::env::var_os("AERO_ROOT").map_or_else(compiled_in, PathBuf::from)
}

/// Returns a command for the cargo that the `aero` script found, run in the project's directory.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("AERO_CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Returns a cargo command that builds the kernel with a rebuilt `core` into `directory`.
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

/// Runs a cargo command.
///
/// # Errors
/// Fails if cargo cannot be run or fails. Cargo itself has then printed the reason.
pub fn run(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo failed: its errors are above");
    Ok(())
}

/// The error for a tool that is not installed.
#[derive(Debug)]
pub struct MissingTool(pub &'static str);

impl fmt::Display for MissingTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing; `./aero doctor` says how to install it", self.0)
    }
}

impl std::error::Error for MissingTool {}
