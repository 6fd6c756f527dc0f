//! Programs in C and C++: a directory of source files, with an optional description.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::header;
use crate::isa::Isa;
use crate::pack;
use crate::project::root;

/// Name of the description file in a program's directory. docs/HRT.md documents its format.
pub const DESCRIPTION: &str = "program.toml";

/// Contents of the description file. Paths are relative to the program's directory.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Description {
    /// Flags for both compilers, after the flags that every program gets.
    flags: Vec<String>,
    c_flags: Vec<String>,
    cxx_flags: Vec<String>,
    /// Header directories besides the program's own.
    include: Vec<PathBuf>,
    /// Source files, or directories whose source files are all compiled. If empty, the program's
    /// own directory.
    sources: Vec<PathBuf>,
    /// Precompiled libraries and objects.
    libraries: Vec<PathBuf>,
}

/// The language of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cxx,
    Assembly,
}

impl Language {
    /// Returns the language that a file's name implies, or `None` if the file is not compiled.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "c" => Some(Self::C),
            "cc" | "cpp" | "cxx" => Some(Self::Cxx),
            "S" => Some(Self::Assembly),
            _ => None,
        }
    }

    /// Returns the command that compiles the language.
    pub fn compiler(self) -> &'static str {
        match self {
            Self::C | Self::Assembly => "cc",
            Self::Cxx => "c++",
        }
    }
}

/// A compiled program.
pub struct Built {
    pub name: String,
    pub objects: Vec<PathBuf>,
    /// True if any source file is C++.
    pub has_cxx: bool,
}

/// Compiles the program in a directory and names it after the directory.
pub fn build(directory: &Path, isa: Isa, out: &Path) -> Result<Built> {
    let name = directory.file_name().context("the directory has no name")?.to_string_lossy().into_owned();
    let description = describe(directory)?;
    let sources = sources(directory, &description)?;
    ensure!(!sources.is_empty(), "{} has neither a Cargo.toml nor C or C++ files", directory.display());
    let out = out.join(format!("{name}.objects"));
    let mut flags = vec![format!("-I{}", directory.display())];
    for include in &description.include {
        let path = directory.join(include);
        ensure!(path.is_dir(), "{}, which `{DESCRIPTION}` names, is not a directory", path.display());
        flags.push(format!("-I{}", path.display()));
    }
    flags.extend(description.flags);
    let mut objects = Vec::new();
    for (source, language) in &sources {
        let own = if *language == Language::Cxx { &description.cxx_flags } else { &description.c_flags };
        // Mirrors the source tree, because two directories may hold files of the same name.
        let relative = source.strip_prefix(directory).unwrap_or(source);
        let place = relative.parent().map_or_else(|| out.clone(), |parent| out.join(parent));
        let flags: Vec<String> = flags.iter().chain(own).cloned().collect();
        objects.push(compile(source, &place, isa, &flags)?);
    }
    for library in &description.libraries {
        let path = directory.join(library);
        ensure!(path.is_file(), "{}, which `{DESCRIPTION}` names, is not there", path.display());
        objects.push(path);
    }
    Ok(Built { name, objects, has_cxx: sources.iter().any(|(_, language)| *language == Language::Cxx) })
}

fn describe(directory: &Path) -> Result<Description> {
    let path = directory.join(DESCRIPTION);
    if !path.exists() {
        return Ok(Description::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} does not follow docs/HRT.md", path.display()))
}

fn sources(directory: &Path, description: &Description) -> Result<Vec<(PathBuf, Language)>> {
    let mut sources = Vec::new();
    let own = [PathBuf::from(".")];
    let named = if description.sources.is_empty() { &own[..] } else { &description.sources };
    for name in named {
        let path = if name.as_os_str() == "." { directory.to_path_buf() } else { directory.join(name) };
        if path.is_dir() {
            let mut files = fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
            files.sort();
            sources.extend(files.into_iter().filter_map(|file| Some((file.clone(), Language::of(&file)?))));
        } else {
            ensure!(path.is_file(), "{}, which `{DESCRIPTION}` names, is not there", path.display());
            let language = Language::of(&path)
                .with_context(|| format!("{} is not C, C++ or assembly by its name", path.display()))?;
            sources.push((path, language));
        }
    }
    Ok(sources)
}

/// Compiles a source file into the directory `out` and returns the object's path.
pub fn compile(source: &Path, out: &Path, isa: Isa, flags: &[String]) -> Result<PathBuf> {
    let language = Language::of(source).with_context(|| format!("{} is no source file", source.display()))?;
    let include = root().join("target/hrt/include");
    fs::create_dir_all(out)?;
    fs::create_dir_all(&include)?;
    pack::write_whole(&include.join("aerokernel.h"), header::generate().as_bytes())?;
    let name = source.file_name().context("a file has no name")?.to_string_lossy().into_owned();
    let object = out.join(format!("{name}.o"));
    let compiler = language.compiler();
    let mut command = Command::new(compiler);
    command
        .args([
            "-c",
            "-O2",
            "-g",
            "-fPIC",
            "-fvisibility=hidden",
            "-fno-stack-protector",
            "-ffunction-sections",
            "-fdata-sections",
        ])
        // Touches every page of a large frame, so that the frame cannot jump over the stack's guard
        // page.
        .arg("-fstack-clash-protection")
        .args(["-fno-asynchronous-unwind-tables", "-fno-omit-frame-pointer", "-fno-plt", "-Wall"])
        // The thread-local variables of an image lie at fixed offsets from FS.
        .arg("-ftls-model=initial-exec")
        // The C library has the functions themselves but not their checking variants.
        .args(["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=0"])
        .arg(format!("-march={}", isa.name()))
        .arg("-I")
        .arg(&include);
    if language == Language::Cxx {
        command.args(["-fno-exceptions", "-fno-rtti"]);
    }
    let fresh = pack::own_name(&object);
    command.args(flags).arg(source).arg("-o").arg(&fresh);
    let status = command.status().with_context(|| format!("{compiler} cannot be run; `./aero doctor` says more"))?;
    ensure!(status.success(), "{} does not compile", source.display());
    fs::rename(fresh, &object)?;
    Ok(object)
}
