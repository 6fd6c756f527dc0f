//! The C library that programs are linked with: `hrt/c`, and the compilers' own libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::c_program::{Language, compile};
use crate::isa::Isa;
use crate::project::root;
use crate::rust_crate;

/// The C source files of `hrt/c`.
const SOURCES: [&str; 2] = ["start.c", "variadic.c"];
/// The C++ source files of `hrt/c`.
const CXX_SOURCES: [&str; 2] = ["string.cpp", "thread.cpp"];

/// Builds the libraries that a C or C++ program may need and returns them in link order.
pub fn build(isa: Isa, out: &Path, has_cxx: bool) -> Result<Vec<PathBuf>> {
    let directory = root().join("hrt/c");
    let objects = out.join("c-library");
    let mut libraries = Vec::new();
    let cxx = if has_cxx { &CXX_SOURCES[..] } else { &[] };
    for source in SOURCES.iter().chain(cxx) {
        // Without this flag, the compiler may turn the body of a function such as `memcpy` into a
        // call of that same function.
        libraries.push(compile(&directory.join(source), &objects, isa, &["-fno-builtin".into()])?);
    }
    let library = rust_crate::compile(&directory.join("Cargo.toml"), "aero-hrt-c", isa)
        .context("the C library for programs does not build")?;
    libraries.push(library);
    if has_cxx {
        // The containers' trees, hash tables and lists; nothing in it that needs exceptions.
        libraries.push(own_file(Language::Cxx, &["-print-file-name=libstdc++.a"])?);
    }
    libraries.push(own_file(Language::C, &["-print-libgcc-file-name"])?);
    Ok(libraries)
}

/// Returns the path of a library that belongs to the compiler.
fn own_file(language: Language, question: &[&str]) -> Result<PathBuf> {
    let compiler = language.compiler();
    let output = Command::new(compiler).args(question).output().with_context(|| format!("{compiler} cannot be run"))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(
        path.is_file(),
        "{compiler} does not report where its library is (`{compiler} {}` says {}); `./aero doctor` says more",
        question.join(" "),
        path.display()
    );
    Ok(path)
}
