//! Compiles Rust crates as code for programs.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::isa::Isa;
use crate::project::{cargo, root, run};

const TARGET: &str = "hrt/x86_64-hrt-none.json";

/// Compiles a crate as code for programs. Returns the path of its static library, which exists only
/// if the crate has a library target.
pub fn compile(manifest: &Path, name: &str, isa: Isa) -> Result<PathBuf> {
    let out = root().join("target/hrt").join(isa.name());
    let mut command = cargo();
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-C target-cpu={} -C force-frame-pointers=yes", isa.name()))
        .args(["rustc", "--release", "--lib", "--crate-type", "staticlib", "-Zjson-target-spec"])
        .args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"])
        .args(["--config", "profile.release.debug=2", "--config", "profile.release.panic=\"abort\""])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target")
        .arg(root().join(TARGET))
        .arg("--target-dir")
        .arg(&out);
    run(command)?;
    Ok(out.join("x86_64-hrt-none/release").join(format!("lib{}.a", name.replace('-', "_"))))
}
