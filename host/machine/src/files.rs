//! Files and sockets of machines. Their names carry the id of the process that runs the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use build::project::root;

/// Returns the default directory for telemetry sockets.
pub fn telemetry_directory() -> PathBuf {
    root().join("target/telemetry")
}

/// Returns a path for a telemetry socket of this process, where `aero top` looks for it.
pub fn telemetry_path() -> Result<PathBuf> {
    Ok(make(telemetry_directory())?.join(format!("{}.socket", process::id())))
}

/// Returns a path for a debugger socket of this process.
pub fn gdb_path() -> Result<PathBuf> {
    let directory = make(root().join("target/gdb"))?;
    remove_left_over(&directory);
    Ok(directory.join(format!("{}-0.socket", process::id())))
}

/// Returns a new path for a crash file of this process.
pub fn crash_path() -> Result<PathBuf> {
    static MACHINES: AtomicU32 = AtomicU32::new(0);
    let directory = make(root().join("target/crashes"))?;
    remove_left_over(&directory);
    let number = MACHINES.fetch_add(1, Ordering::Relaxed);
    Ok(directory.join(format!("{}-{number}.crash", process::id())))
}

fn make(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    Ok(directory)
}

/// Removes files named `PID-...` that a killed `aero` left behind, except crash files with content.
fn remove_left_over(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.split_once('-')).and_then(|(owner, _)| owner.parse::<u32>().ok());
        let is_left = owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        let is_crash = entry.path().extension().is_some_and(|extension| extension == "crash");
        if is_left && (!is_crash || entry.metadata().is_ok_and(|file| file.len() == 0)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
