//! Builds programs. A Rust crate or a directory of C or C++ files becomes a position-independent
//! ELF file that exports only its description and is packed behind the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol};

use crate::c_library;
use crate::c_program;
use crate::header;
use crate::image::{self, Image, Which};
use crate::isa::Isa;
use crate::pack::{self, Program};
use crate::project::{cargo, root};
use crate::rust_crate;

/// Builds the kernel's image with programs behind it.
pub fn build(which: Which, directories: &[PathBuf], isa: Isa) -> Result<Image> {
    let kernel = image::build(which)?;
    if directories.is_empty() {
        return Ok(kernel);
    }
    let programs = directories.iter().map(|directory| program(directory, isa)).collect::<Result<Vec<_>>>()?;
    for (index, program) in programs.iter().enumerate() {
        ensure!(
            !programs[..index].iter().any(|other| other.name == program.name),
            "two programs are called `{}`; give one another name",
            program.name
        );
    }
    let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    let boot = kernel.boot.with_file_name(format!("aerokernel-{}.boot", names.join("-")));
    pack::pack(&kernel.debug, &programs, &boot)?;
    let programs = programs.into_iter().map(|program| (program.name, program.debug)).collect();
    Ok(Image { boot, debug: kernel.debug, programs })
}

/// Returns the path of the ELF file with debug information for the named program, built for the
/// default instruction set.
pub fn debug_path(name: &str) -> PathBuf {
    root().join("target/hrt").join(Isa::default().name()).join(format!("{name}.elf"))
}

/// Builds one program.
fn program(directory: &Path, isa: Isa) -> Result<Program> {
    let shown = directory.display();
    ensure!(directory.is_dir(), "{shown} is not a directory");
    let directory = &directory.canonicalize()?;
    let out = root().join("target/hrt").join(isa.name());
    let (name, objects, libraries) = if directory.join("Cargo.toml").exists() {
        let (name, objects) = rust(directory, isa)?;
        (name, objects, Vec::new())
    } else {
        let built = c_program::build(directory, isa, &out)?;
        let libraries = c_library::build(isa, &out, built.has_cxx)?;
        (built.name, built.objects, libraries)
    };
    let debug = out.join(format!("{name}.elf"));
    let set = format!("-soname={}", isa.name());
    let whole = link(&objects, &libraries, &debug, &[&set])?;
    check(&whole).with_context(|| format!("{shown} is no program"))?;
    let elf = link(&objects, &libraries, &out.join(format!("{name}.stripped")), &[&set, "-s"])?;
    let symbols = pack::symbol_table(&object::File::parse(&*whole)?, 0)?;
    Ok(Program { name, elf, symbols, debug })
}

/// Checks what only the linked file shows: that the program has an entry, and that it needs only
/// functions that the kernel has.
fn check(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes)?;
    let mut has_entry = false;
    let mut missing = Vec::new();
    for symbol in file.dynamic_symbols() {
        let name = symbol.name()?;
        if !symbol.is_undefined() {
            has_entry |= name == abi::PROGRAM_SYMBOL;
        } else if !name.is_empty() && !symbol.is_weak() && !header::functions().any(|function| function.name == name) {
            missing.push(format!("`{name}`"));
        }
    }
    // The C library's start code refers to `main`, so a missing `main` means that there is no
    // entry.
    if let Some(main) = missing.iter().position(|name| name == "`main`") {
        missing.remove(main);
        has_entry = false;
    }
    ensure!(
        missing.is_empty(),
        "it needs {}, which neither it nor the kernel nor the C library for programs has: docs/HRT.md, \"C and C++\", tells what there \
         is; add files or libraries that have the rest in `{}`",
        missing.join(", "),
        c_program::DESCRIPTION
    );
    ensure!(
        has_entry,
        "it has no entry: use `hrt::program!(main)` in Rust; `main` or `AERO_PROGRAM(function)` in C and C++"
    );
    Ok(())
}

/// Compiles a crate; returns its name and its library.
fn rust(directory: &Path, isa: Isa) -> Result<(String, Vec<PathBuf>)> {
    let manifest = directory.join("Cargo.toml");
    let name = package_name(&manifest)?;
    let built = rust_crate::compile(&manifest, &name, isa)
        .with_context(|| format!("{} does not build", directory.display()))?;
    ensure!(built.exists(), "{} has no library: it needs src/lib.rs", directory.display());
    Ok((name, vec![built]))
}

fn package_name(manifest: &Path) -> Result<String> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(output.status.success(), "{} cannot be read", manifest.display());
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo describes no packages")?;
    let is_it = |package: &&serde_json::Value| {
        package["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest)
    };
    let package = packages.iter().find(is_it).with_context(|| format!("{} is no package", manifest.display()))?;
    Ok(package["name"].as_str().context("the package has no name")?.to_string())
}

/// Links objects into the file `to` and returns its contents.
fn link(objects: &[PathBuf], libraries: &[PathBuf], to: &Path, further: &[&str]) -> Result<Vec<u8>> {
    let versions = root().join("target/hrt/exports");
    pack::write_whole(&versions, format!("{{ global: {}; local: *; }};\n", abi::PROGRAM_SYMBOL).as_bytes())?;
    let fresh = pack::own_name(to);
    let linker = std::env::var("AERO_LINKER").unwrap_or_else(|_| "ld.lld".into());
    let mut command = Command::new(linker);
    command
        .args([
            "-m",
            "elf_x86_64",
            "-shared",
            "-Bsymbolic",
            "--gc-sections",
            "--build-id=none",
            "-u",
            abi::PROGRAM_SYMBOL,
        ])
        .args(["-z", "now", "-z", "norelro", "-z", "separate-loadable-segments", "-z", "max-page-size=4096"])
        .arg(format!("--version-script={}", versions.display()))
        .args(further)
        .args(objects)
        // The linker takes from these libraries only the members that the objects need.
        .arg("--start-lib")
        .args(libraries)
        .arg("--end-lib")
        .arg("-o")
        .arg(&fresh);
    let status = command.status().context("the linker cannot be run")?;
    ensure!(status.success(), "{} does not link", to.display());
    let linked = fs::read(&fresh)?;
    fs::rename(&fresh, to)?;
    Ok(linked)
}
