//! The script `aero`: what it finds, builds and starts, with different environments and working
//! directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use e2e::{stderr, stdout};

/// Makes the tests run one at a time. A process started by one test briefly inherits the files that
/// another test is writing, and a program that is open for writing cannot be executed (ETXTBSY).
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary directory, which is removed when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aero-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the path of the script.
fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../aero").canonicalize().expect("the script is there")
}

fn write_script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, format!("#!/bin/sh\n{text}")).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn the_script_works_through_a_link_and_from_another_directory() {
    let _alone = alone();
    let directory = Directory::new("link");
    let link = directory.0.join("aero");
    symlink(script(), &link).expect("a link");
    let output = Command::new(&link).arg("--version").current_dir(&directory.0).output().expect("the script runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("aero "), "{}", stdout(&output));
}

#[test]
fn help_installs_nothing() {
    let _alone = alone();
    let directory = Directory::new("help");
    let tools = [
        "sh", "dirname", "readlink", "sed", "head", "id", "grep", "find", "touch", "tr", "uname", "cc", "ld.lld", "as",
        "ld",
    ];
    for tool in tools {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().expect("sh runs");
        let path = stdout(&found);
        if !path.trim().is_empty() {
            symlink(path.trim(), directory.0.join(tool)).expect("a link");
        }
    }
    // Substitutes for the package managers that would install QEMU, gdb, GRUB and Bochs, none of
    // which is in the path.
    let installed = directory.0.join("installed");
    for manager in ["apt-get", "dnf", "pacman"] {
        let path = directory.0.join(manager);
        write_script(&path, &format!("echo called > {}\nexit 1\n", installed.display()));
    }
    let run = |arguments: &[&str]| {
        Command::new(script()).args(arguments).env("PATH", &directory.0).output().expect("the script runs")
    };
    for arguments in [&["test", "--help"][..], &["boot", "--iso", "-h"], &["help", "gdb"], &["gdb", "--help"], &[]] {
        let output = run(arguments);
        let text = stdout(&output) + &stderr(&output);
        assert!(text.contains("Usage: aero"), "{arguments:?}: {text}");
        assert!(!installed.exists(), "{arguments:?} installs something");
    }
    // Behind `--`, the option is QEMU's: the script requires QEMU, which is missing here.
    let output = run(&["boot", "--", "--help"]);
    assert_eq!(output.status.code(), Some(4), "{}{}", stdout(&output), stderr(&output));
}

/// A copy of the script, alone in a directory, with a substitute toolchain that records how it is
/// called and builds a tool that only prints its arguments.
struct Copy {
    directory: Directory,
}

impl Copy {
    fn new(name: &str) -> Self {
        let directory = Directory::new(name);
        let at = |path: &str| directory.0.join(path);
        fs::copy(script(), at("aero")).expect("the script can be copied");
        fs::create_dir_all(at("bin/lib/rustlib/src/rust/library/core/src")).expect("a directory");
        fs::write(at("bin/lib/rustlib/src/rust/library/core/src/lib.rs"), "").expect("a file");
        fs::write(at("main.rs"), "").expect("a file");
        let rustc =
            format!("case $1 in --version) echo 'rustc 1.99.0' ;; --print) echo '{}' ;; esac", at("bin").display());
        write_script(&at("bin/rustc"), &rustc);
        let tool = at("target/release/aero");
        let cargo = format!(
            "echo \"$PWD: cargo home ${{CARGO_HOME-none}}: $*\" >> '{calls}'
             mkdir -p '{place}'; printf '#!/bin/sh\necho the tool: \"$@\"\n' > '{tool}'; chmod +x '{tool}'",
            calls = at("calls").display(),
            place = at("target/release").display(),
            tool = tool.display(),
        );
        write_script(&at("bin/cargo"), &cargo);
        Self { directory }
    }

    /// Runs the copy from another directory with this home. Returns its output and the calls of
    /// cargo.
    fn run(&self, home: Option<&str>) -> (Output, String) {
        let calls = self.directory.0.join("calls");
        let _ = fs::remove_file(&calls);
        let path = std::env::var("PATH").expect("a path");
        let mut command = Command::new(self.directory.0.join("aero"));
        command.arg("inspect").current_dir("/").env_remove("HOME").env_remove("CARGO_HOME");
        command.env("PATH", format!("{}:{path}", self.directory.0.join("bin").display()));
        if let Some(home) = home {
            command.env("HOME", home);
        }
        let output = command.output().expect("the script runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), "the tool: inspect\n", "{}", stderr(&output));
        (output, fs::read_to_string(calls).expect("cargo was called"))
    }
}

#[test]
fn whoever_has_no_home_builds_in_the_tree() {
    let _alone = alone();
    let copy = Copy::new("home");
    let root = copy.directory.0.canonicalize().expect("a directory");
    let in_tree = format!("{root}: cargo home {root}/target/cargo-home: build", root = root.display());
    for home in [None, Some("/nowhere"), Some("")] {
        let (_, calls) = copy.run(home);
        assert!(calls.starts_with(&in_tree), "{home:?}: {calls}");
    }
    // With a usable home, cargo uses its directory there, which other projects share.
    let (_, calls) = copy.run(root.to_str());
    assert!(calls.starts_with(&format!("{}: cargo home none: build", root.display())), "{calls}");
}

#[test]
fn it_is_seen_when_something_is_built() {
    let _alone = alone();
    let copy = Copy::new("progress");
    let is_quiet = |calls: &str| calls.contains("build --quiet");
    let (first, calls) = copy.run(None);
    assert!(stderr(&first).contains("aero: building the command line tool"), "{}", stderr(&first));
    assert!(!is_quiet(&calls), "{calls}");
    let (second, calls) = copy.run(None);
    assert!(stderr(&second).is_empty() && is_quiet(&calls), "{}{calls}", stderr(&second));
    // A source file is newer than the tool, so cargo may have something to do.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let source = fs::File::options().append(true).open(copy.directory.0.join("main.rs")).expect("a file");
    source.set_modified(later).expect("a time");
    let (_, calls) = copy.run(None);
    assert!(!is_quiet(&calls), "{calls}");
}
