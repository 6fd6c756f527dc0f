//! Programs: a Rust crate, or a directory of C or C++ files, becomes a position independent ELF file that exports nothing
//! but its description, and is packed behind the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use object::{Object, ObjectSymbol};

use crate::header;
use crate::image::{self, Image, Which, cargo, root, run};
use crate::pack::{self, Program};

const TARGET: &str = "hrt/x86_64-hrt-none.json";
/// Functions that compilers call without being asked; the kernel has them for programs.
const COMPILER_FUNCTIONS: [&str; 4] = ["memcpy", "memmove", "memset", "memcmp"];

/// The instructions a program may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Isa {
    /// SSE2, on every 64-bit CPU
    #[default]
    #[value(name = "x86-64")]
    V1,
    /// Up to SSE4.2
    #[value(name = "x86-64-v2")]
    V2,
    /// Up to AVX2 and FMA
    #[value(name = "x86-64-v3")]
    V3,
    /// Up to AVX-512
    #[value(name = "x86-64-v4")]
    V4,
}

impl Isa {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }
}

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

/// Where the program of a name, built for any CPU, has its debug information.
pub fn debug_path(name: &str) -> PathBuf {
    root().join("target/hrt").join(Isa::default().name()).join(format!("{name}.elf"))
}

/// Builds one program.
fn program(directory: &Path, isa: Isa) -> Result<Program> {
    let shown = directory.display();
    ensure!(directory.is_dir(), "{shown} is not a directory");
    let directory = &directory.canonicalize()?;
    let (name, objects) =
        if directory.join("Cargo.toml").exists() { rust(directory, isa)? } else { c(directory, isa)? };
    let out = root().join("target/hrt").join(isa.name());
    let debug = out.join(format!("{name}.elf"));
    let whole = link(&objects, &debug, &[])?;
    check(&whole).with_context(|| format!("{shown} is no program"))?;
    let elf = link(&objects, &out.join(format!("{name}.stripped")), &["-s"])?;
    let symbols = pack::symbol_table(&object::File::parse(&*whole)?, 0)?;
    Ok(Program { name, elf, symbols, debug })
}

/// What only the linker's output shows: that it has an entry, and needs no more than the kernel has.
fn check(bytes: &[u8]) -> Result<()> {
    let file = object::File::parse(bytes)?;
    let mut has_entry = false;
    for symbol in file.dynamic_symbols() {
        let name = symbol.name()?;
        if symbol.is_undefined() {
            let known = header::functions().any(|function| function.name == name) || COMPILER_FUNCTIONS.contains(&name);
            ensure!(known || name.is_empty(), "it calls `{name}`, which neither it nor the kernel has");
        } else {
            has_entry |= name == abi::PROGRAM_SYMBOL;
        }
    }
    ensure!(has_entry, "it has no entry: use `hrt::program!(main)` in Rust, `AERO_PROGRAM(main)` in C");
    Ok(())
}

/// Compiles a crate; returns its name and library.
fn rust(directory: &Path, isa: Isa) -> Result<(String, Vec<PathBuf>)> {
    let manifest = directory.join("Cargo.toml");
    let name = package_name(&manifest)?;
    let out = root().join("target/hrt");
    let mut command = cargo();
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-C target-cpu={} -C force-frame-pointers=yes", isa.name()))
        .args(["rustc", "--release", "--lib", "--crate-type", "staticlib", "-Zjson-target-spec"])
        .args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"])
        .args(["--config", "profile.release.debug=2", "--config", "profile.release.panic=\"abort\""])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--target")
        .arg(root().join(TARGET))
        .arg("--target-dir")
        .arg(out.join(isa.name()));
    run(command).with_context(|| format!("{} does not build", directory.display()))?;
    let library = format!("lib{}.a", name.replace('-', "_"));
    let built = out.join(isa.name()).join("x86_64-hrt-none/release").join(library);
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

/// Compiles all C and C++ files of a directory; its name is the program's.
fn c(directory: &Path, isa: Isa) -> Result<(String, Vec<PathBuf>)> {
    let name = directory.file_name().context("the directory has no name")?.to_string_lossy().into_owned();
    let out = root().join("target/hrt").join(isa.name()).join(format!("{name}.objects"));
    let include = root().join("target/hrt/include");
    fs::create_dir_all(&out)?;
    fs::create_dir_all(&include)?;
    pack::write_whole(&include.join("aerokernel.h"), header::generate().as_bytes())?;
    let mut sources: Vec<PathBuf> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    sources.sort();
    let mut objects = Vec::new();
    for source in sources {
        let compiler = match source.extension().and_then(|extension| extension.to_str()) {
            Some("c") => "cc",
            Some("cc" | "cpp" | "cxx") => "c++",
            _ => continue,
        };
        let object = out.join(source.file_name().context("a file has no name")?).with_extension("o");
        let mut command = Command::new(compiler);
        command
            .args(["-c", "-O2", "-g", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector"])
            // Each page of a large frame is touched, so that it cannot jump over the stack's guard.
            .arg("-fstack-clash-protection")
            .args(["-fno-asynchronous-unwind-tables", "-fno-omit-frame-pointer", "-fno-plt", "-Wall"])
            .arg(format!("-march={}", isa.name()))
            .arg("-I")
            .arg(&include);
        if compiler == "c++" {
            command.args(["-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]);
        }
        let fresh = pack::own_name(&object);
        command.arg(&source).arg("-o").arg(&fresh);
        let status =
            command.status().with_context(|| format!("{compiler} cannot be run; `./aero doctor` says more"))?;
        ensure!(status.success(), "{} does not compile", source.display());
        fs::rename(fresh, &object)?;
        objects.push(object);
    }
    if objects.is_empty() {
        bail!("{} has neither a Cargo.toml nor C or C++ files", directory.display());
    }
    Ok((name, objects))
}

/// Links objects into a file, and returns what is in it.
fn link(objects: &[PathBuf], to: &Path, further: &[&str]) -> Result<Vec<u8>> {
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
        .arg("-o")
        .arg(&fresh);
    let status = command.status().context("the linker cannot be run")?;
    ensure!(status.success(), "{} does not link", to.display());
    let linked = fs::read(&fresh)?;
    fs::rename(&fresh, to)?;
    Ok(linked)
}
