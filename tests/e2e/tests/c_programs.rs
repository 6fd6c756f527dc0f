//! Ordinary programs in C and C++: `aero` builds them, and they produce the same output as on
//! Linux.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use e2e::{aero, stderr, stdout};
use object::{Object, ObjectSymbol};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// Boots with a program and runs a script. Returns the exit status, standard output and standard
/// error.
fn boot(directory: &Path, script: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let mut command = aero();
    command.args(["boot", "--cpus", "4", "--run", script, "--hrt"]).arg(directory).args(options);
    let output = command.output().expect("aero can be run");
    (output.status.code(), stdout(&output), stderr(&output))
}

/// Compiles files for Linux, runs the result on the host, and returns its status and output.
fn natively(name: &str, sources: &[PathBuf], flags: &[&str]) -> (Option<i32>, String) {
    let program = std::env::temp_dir().join(format!("aero-native-{name}-{}", std::process::id()));
    let is_cxx = sources.iter().any(|source| source.extension().is_some_and(|extension| extension == "cpp"));
    let mut compiler = Command::new(if is_cxx { "c++" } else { "cc" });
    compiler.args(["-O2", "-w"]).args(flags).args(sources).arg("-o").arg(&program);
    let built = compiler.args(["-lm", "-lpthread", "-latomic"]).output().expect("a compiler can be run");
    assert!(built.status.success(), "{name} does not build here: {}", stderr(&built));
    // Standard output and standard error are merged, as they are in the kernel.
    let output = Command::new("sh").args(["-c", "exec \"$0\" 2>&1"]).arg(&program).output().expect("it can be run");
    fs::remove_file(&program).expect("it is there");
    (output.status.code(), stdout(&output))
}

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).expect("the directory is there").map(|entry| entry.expect("it can be read").path());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "c" || extension == "cpp");
    let mut files: Vec<PathBuf> = entries.filter(is_source).collect();
    files.sort();
    files
}

/// Runs a test program on Linux and in the kernel. Both must produce the same output and status.
fn same_as_on_linux(name: &str, flags: &[&str]) {
    let directory = root().join("tests/programs").join(name);
    let (status, expected) = natively(name, &files_of(&directory), flags);
    assert!(!expected.is_empty(), "{name} says nothing here");
    let (found_status, found, errors) = boot(&directory, &format!("run {name}"), &[]);
    assert_eq!(found.trim_end(), expected.trim_end(), "{name}: {errors}");
    assert_eq!(found_status, status, "{found}{errors}");
}

/// Serializes the tests, because they build the same library.
static BUILD: Mutex<()> = Mutex::new(());

#[test]
fn every_function_of_the_library_does_what_it_does_on_linux() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let flags = ["-fno-builtin", "-fno-inline", "-std=gnu17", "-D_GNU_SOURCE"];
    let directory = root().join("tests/programs/library");
    let (status, expected) = natively("library", &files_of(&directory), &flags);
    let (found_status, found, errors) = boot(&directory, "run library", &[]);
    // The `run` command exits with the program's status and prints a message about it.
    let found = found.replace("error: run: `library` exited with status 7\n", "");
    assert_eq!(found.trim_end(), expected.trim_end(), "{errors}");
    assert_eq!((found_status, status), (Some(7), Some(7)), "{errors}");
    everything_was_called();
}

/// Returns the global symbols of an object file that `counts` accepts.
fn symbols(file: &[u8], counts: impl Fn(&object::Symbol<'_, '_>) -> bool) -> BTreeSet<String> {
    let file = object::File::parse(file).expect("an object file");
    let names = file.symbols().filter(|symbol| symbol.is_global() && counts(symbol));
    names.filter_map(|symbol| symbol.name().ok().map(String::from)).collect()
}

/// Checks that the test programs call every function that the C library's sources export by name.
fn everything_was_called() {
    let sources = fs::read_dir(root().join("hrt/c/src")).expect("the library's sources are there");
    let mut promised = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(source.expect("it can be read").path()).expect("it can be read");
        let mut lines = text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            if line == "#[unsafe(no_mangle)]" {
                let declaration = lines.by_ref().find(|line| !line.starts_with("#["));
                let name = declaration.and_then(|line| line.split_once("extern \"C\" fn ")).map(|(_, rest)| rest);
                promised.extend(
                    name.and_then(|rest| rest.split('(').next())
                        .filter(|name| !name.starts_with('$'))
                        .map(String::from),
                );
            }
        }
    }
    assert!(promised.len() > 150, "the functions are not found: {promised:?}");
    let mut called = BTreeSet::new();
    for program in ["library", "containers"] {
        let objects = root().join(format!("target/hrt/x86-64/{program}.objects"));
        let Ok(objects) = fs::read_dir(objects) else { continue };
        for object in objects {
            let bytes = fs::read(object.expect("it can be read").path()).expect("it can be read");
            called.extend(symbols(&bytes, |symbol| symbol.is_undefined()));
        }
    }
    // Exempt are functions that compilers and headers call, depending on their versions, and those
    // that are called through variadic functions.
    let by_others = |name: &str| name.starts_with("__") || ["vprintf", "vsnprintf"].contains(&name);
    let missing: Vec<&String> = promised.iter().filter(|name| !called.contains(*name) && !by_others(name)).collect();
    assert!(missing.is_empty(), "promised, but called by no test: {missing:?}");
}

#[test]
fn ends_of_c_programs_are_told_apart() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let directory = root().join("tests/programs/library");
    let script = "run library abort; run library assert; run library _exit; run library _Exit";
    let (_, out, errors) = boot(&directory, script, &[]);
    assert!(out.contains("abort was called"), "{out}{errors}");
    assert!(
        out.contains("library.c") && out.contains("main: the assertion `count == 0` does not hold"),
        "{out}{errors}"
    );
    assert!(out.contains("status 5") && out.contains("status 6"), "{out}{errors}");
}

#[test]
fn containers_and_thread_locals_in_cxx() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    same_as_on_linux("containers", &[]);
}

#[test]
fn memory_bandwidth_and_integer_kernels() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    same_as_on_linux("stream", &[]);
    same_as_on_linux("kernels", &[]);
}

/// Unpacks the sources of a Debian package into `target/sources`. Returns the reason if that fails.
fn fetch(package: &str) -> Result<PathBuf, String> {
    let sources = root().join("target/sources");
    let unpacked = sources.join(package);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    let state = sources.join("apt");
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(directory)).map_err(|error| error.to_string())?;
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename =
        release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).ok_or("this is no Debian")?;
    let list = format!(
        "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {codename} main\n"
    );
    fs::write(state.join("sources.list"), list).map_err(|error| error.to_string())?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-o").arg(format!("Dir::Etc::sourcelist={}", state.join("sources.list").display()));
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]);
        command.arg("-o").arg(format!("Dir::State::lists={}", state.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", state.join("cache").display()));
        let output = command
            .arg("-qq")
            .args(arguments)
            .current_dir(&state)
            .output()
            .map_err(|error| format!("apt-get: {error}"))?;
        if output.status.success() { Ok(()) } else { Err(format!("apt-get {arguments:?}: {}", stderr(&output))) }
    };
    apt(&["update"])?;
    apt(&["source", "--download-only", package])?;
    let archive = fs::read_dir(&state).map_err(|error| error.to_string())?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with(&format!("{package}_")) && name.contains(".orig.tar")
        })
    };
    let archive = archive.into_iter().find(is_it).ok_or(format!("apt-get left no archive of {package}"))?;
    let fresh = sources.join(format!("{package}.{}", std::process::id()));
    fs::create_dir_all(&fresh).map_err(|error| error.to_string())?;
    let tar = Command::new("tar").args(["--strip-components=1", "-xf"]).arg(&archive).arg("-C").arg(&fresh).status();
    if !tar.is_ok_and(|status| status.success()) {
        return Err(format!("{} cannot be unpacked", archive.display()));
    }
    fs::rename(&fresh, &unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked)
}

/// Third-party sources build unchanged. If they cannot be downloaded, this test is skipped and the
/// others have to suffice.
#[test]
fn lz4_and_xxhash_as_debian_packages_them() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let (lz4, xxhash) = match (fetch("lz4"), fetch("xxhash")) {
        (Ok(lz4), Ok(xxhash)) => (lz4, xxhash),
        (Err(reason), _) | (_, Err(reason)) => return eprintln!("skipped: the sources cannot be had: {reason}"),
    };
    let directory = root().join("tests/programs/compress");
    let mut sources = files_of(&directory);
    sources.extend([lz4.join("lib/lz4.c"), lz4.join("lib/lz4hc.c"), xxhash.join("xxhash.c")]);
    let (lz4, xxhash) = (format!("-I{}", lz4.join("lib").display()), format!("-I{}", xxhash.display()));
    let (status, expected) = natively("compress", &sources, &["-std=gnu11", &lz4, &xxhash]);
    let (found_status, found, errors) = boot(&directory, "run compress", &[]);
    assert_eq!(found.trim_end(), expected.trim_end(), "{errors}");
    assert_eq!((found_status, status), (Some(0), Some(0)));
}

/// Creates a temporary directory that contains these files.
fn directory_of(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("aero-c-{}", std::process::id())).join(name);
    let _ = fs::remove_dir_all(&directory);
    for (file, text) in files {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    directory
}

#[test]
fn a_description_names_flags_sources_headers_and_libraries() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let directory = directory_of(
        "described",
        &[
            (
                "program.toml",
                "flags = [\"-DNUMBER=40\"]\ncxx-flags = [\"-std=c++20\"]\nsources = [\".\", \"more\"]\ninclude = [\"headers\"]\nlibraries = [\"ready.a\"]\n",
            ),
            ("x.c", "#include <own.h>\n#include \"beside.h\"\nint from_c(void) { return NUMBER + OWN; }\n"),
            (
                "x.cpp",
                "#include <cstdio>\nextern \"C\" int from_c(void), from_assembly(void), from_library(void), absent(void) __attribute__((weak));\n\
                       int main() { auto f = []<typename T>(T x) { return x; }; std::printf(\"%d %d %d %d\\n\", f(from_c()), from_assembly(), from_library(), absent == nullptr); return 0; }\n",
            ),
            ("beside.h", "#define BESIDE 1\n"),
            ("headers/own.h", "#define OWN 2\n"),
            (
                "more/y.S",
                ".globl from_assembly\nfrom_assembly: mov $43, %eax\nret\n.section .note.GNU-stack,\"\",@progbits\n",
            ),
            ("ready.c", "int from_library(void) { return 44; }\n"),
        ],
    );
    let run =
        |command: &mut Command| assert!(command.current_dir(&directory).status().is_ok_and(|status| status.success()));
    run(Command::new("cc").args(["-c", "-O2", "-fPIC", "ready.c"]));
    run(Command::new("ar").args(["rc", "ready.a", "ready.o"]));
    fs::remove_file(directory.join("ready.c")).expect("it is there");
    let (status, out, errors) = boot(&directory, "run described", &[]);
    assert_eq!((status, out.trim()), (Some(0), "42 43 44 1"), "{errors}");
    fs::write(directory.join("program.toml"), "sauces = []\n").expect("it can be written");
    let (status, _, errors) = boot(&directory, "run described", &[]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("program.toml") && errors.contains("sauces"), "{errors}");
}

#[test]
fn all_that_a_program_misses_is_told_at_once() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let files = [(
        "main.c",
        "#include <stdio.h>\nint unknown(void);\nint main(void) { return fopen(\"x\", \"r\") ? unknown() : remove(\"x\"); }\n",
    )];
    let (status, _, errors) = boot(&directory_of("missing", &files), "run missing", &[]);
    assert_eq!(status, Some(1), "{errors}");
    let names = ["`fopen`", "`unknown`", "`remove`", "docs/HRT.md"];
    assert!(names.iter().all(|name| errors.contains(name)), "{errors}");
    let files = [("main.c", "int start(void) { return 1; }\n")];
    let (status, _, errors) = boot(&directory_of("nothing", &files), "run nothing", &[]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("no entry") && errors.contains("`main`"), "{errors}");
}

/// 200 MiB of zero-initialized data need no more than 200 MiB, in a machine that has little more.
#[test]
fn large_zeroed_data_fits_where_there_is_room_for_it() {
    let _alone = BUILD.lock().unwrap_or_else(|error| error.into_inner());
    let text = "#include <stdio.h>\nstatic char zeros[200 << 20];\n\
                int main(void) { long sum = 0; for (long i = 0; i < sizeof zeros; i += 4096) sum += zeros[i]++; printf(\"%ld\\n\", sum); return 0; }\n";
    let (status, out, errors) = boot(&directory_of("zeros", &[("main.c", text)]), "run zeros", &["--mem", "320M"]);
    assert_eq!((status, out.trim()), (Some(0), "0"), "{errors}");
}
