//! The C library for programs: `hrt/c`, and what the compilers bring along.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::c_program::{Language, compile};
use crate::isa::Isa;
use crate::project::root;
use crate::rust_crate;

/// The files of `hrt/c` that are not Rust.
const SOURCES: [&str; 2] = ["start.c", "variadic.c"];
/// The same for C++.
const CXX_SOURCES: [&str; 2] = ["string.cpp", "thread.cpp"];

/// What a program in C or C++ is linked with, as far as it needs it: in the order in which functions are looked up.
pub fn build(isa: Isa, out: &Path, has_cxx: bool) -> Result<Vec<PathBuf>> {
    let directory = root().join("hrt/c");
    let objects = out.join("c-library");
    let mut libraries = Vec::new();
    let cxx = if has_cxx { &CXX_SOURCES[..] } else { &[] };
    for source in SOURCES.iter().chain(cxx) {
        // The compiler must not make a call of a function out of what that function does.
        libraries.push(compile(&directory.join(source), &objects, isa, &["-fno-builtin".into()])?);
    }
    let library = rust_crate::compile(&directory.join("Cargo.toml"), "aero-hrt-c", isa)
        .context("the C library for programs does not build")?;
    libraries.push(library);
    if has_cxx {
        // Trees, hash tables and lists of the containers; nothing that needs exceptions.
        libraries.push(own_file(Language::Cxx, &["-print-file-name=libstdc++.a"])?);
    }
    libraries.push(own_file(Language::C, &["-print-libgcc-file-name"])?);
    Ok(libraries)
}

/// A file that belongs to the compiler.
fn own_file(language: Language, question: &[&str]) -> Result<PathBuf> {
    let compiler = language.compiler();
    let output = Command::new(compiler).args(question).output().with_context(|| format!("{compiler} cannot be run"))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(
        path.is_file(),
        "{compiler} does not tell where its library is (`{compiler} {}` says {}); `./aero doctor` says more",
        question.join(" "),
        path.display()
    );
    Ok(path)
}
