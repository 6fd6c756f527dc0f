//! Emulated Linuxes with the kernel as a hybrid runtime (HRT) in them.

use std::process::{Command, Output};

use crate::{aero, stderr};

/// Exit status for something that is missing and cannot be fetched.
pub const MISSING: i32 = 4;

/// Runs a command line in an emulated Linux that has an example of the library, the image, `aero`
/// itself and these files; `None` where there is no Linux to be had.
pub fn in_linux(example: &str, files: &[&str], line: &str) -> Option<Output> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let built = aero().args(["build", "hrt"]).status().expect("aero can be run");
    assert!(built.success(), "the image can be built");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "aero-hvm", "--example", example, "--target-dir"])
        .arg(format!("{root}/target/hvm"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the program can be built");
    let aero_itself = aero().get_program().to_string_lossy().into_owned();
    let output = aero()
        .args(["ros", "--mem", "2G", "--timeout", "240", "--with", &aero_itself])
        .args(["--with", &format!("{root}/target/hvm/release/examples/{example}")])
        .args(["--with", &format!("{root}/target/kernel/hrt/aerokernel-hrt.boot")])
        .args(files.iter().flat_map(|file| ["--with", file]))
        .args(["--", line])
        .output()
        .expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return None;
    }
    Some(output)
}
