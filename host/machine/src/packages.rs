//! Debian packages, fetched from the system's own mirror and unpacked without being installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use build::project::{MissingTool, root};
use build::scratch::Directory;

/// Where apt is configured.
const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_DIRECTORY: &str = "/etc/apt/sources.list.d";

/// apt with lists of its own, which has a Debian release and its backports.
pub struct Apt {
    options: Vec<String>,
    /// The release's code name ("bookworm").
    release: String,
}

/// The part of an archive that a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The release.
    Release,
    /// The release's backports: newer versions, built for it.
    Backports,
}

impl Apt {
    /// Reads the lists of the system's release and its backports from the system's mirror.
    ///
    /// # Errors
    /// Fails on a system that is not Debian, or whose mirror cannot be reached.
    fn new() -> Result<Self> {
        let release = debian_release().context("this system is not Debian")?;
        let Source { mirror, key } = source(&release)?;
        let directory = root().join("target/apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let list = directory.join("sources.list");
        // What is installed on this system does not matter: a package's newest version here may
        // come from a suite that is not in these lists.
        let status = directory.join("status");
        fs::write(&status, "").with_context(|| format!("{} cannot be written", status.display()))?;
        let signed = key.map_or_else(String::new, |key| format!("[signed-by={key}] "));
        let lines = ["", "-backports"].map(|suite| format!("deb {signed}{mirror} {release}{suite} main\n"));
        fs::write(&list, lines.concat()).with_context(|| format!("{} cannot be written", list.display()))?;
        let set = |name: &str, value: &Path| ["-o".to_string(), format!("{name}={}", value.display())];
        let options = [
            set("Dir::State::Lists", &directory.join("lists")),
            set("Dir::State::status", &status),
            set("Dir::Cache", &directory.join("cache")),
            set("Dir::Etc::SourceList", &list),
            set("Dir::Etc::SourceParts", Path::new("/dev/null")),
            // The files are this user's; apt's own user may not be able to write them.
            ["-o".into(), "APT::Sandbox::User=root".into()],
            // A mirror that falls silent, in seconds.
            ["-o".into(), "Acquire::http::Timeout=30".into()],
            ["-o".into(), "Acquire::https::Timeout=30".into()],
        ];
        let apt = Self { options: options.into_iter().flatten().collect(), release };
        apt.run("apt-get", &["-qq", "update"]).context("the package lists cannot be read")?;
        Ok(apt)
    }

    /// Fetches packages and unpacks them into a directory.
    ///
    /// # Errors
    /// Fails if a package does not exist or cannot be fetched.
    pub fn unpack(&self, suite: Suite, packages: &[&str], into: &Path) -> Result<()> {
        eprintln!("aero: fetching Debian's {}", packages.join(", "));
        let target = match suite {
            Suite::Release => self.release.clone(),
            Suite::Backports => format!("{}-backports", self.release),
        };
        let fetched = Directory::new(root().join(format!("target/apt/fetch-{}", std::process::id())))?;
        let mut command = Command::new("apt-get");
        command.args(&self.options).args(["-q", "-t", &target, "download"]).args(packages);
        output(command.current_dir(&fetched.path))?;
        for entry in fs::read_dir(&fetched.path)? {
            output(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(into))?;
        }
        Ok(())
    }

    /// Returns a package and all that it depends on, and what those do.
    ///
    /// # Errors
    /// Fails if there is no such package.
    fn closure(&self, package: &str) -> Result<Vec<String>> {
        let kinds = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"];
        let without = kinds.map(|kind| format!("--no-{kind}"));
        let mut words = vec!["depends", "--recurse"];
        words.extend(without.iter().map(String::as_str));
        words.push(package);
        let described = self.run("apt-cache", &words).with_context(|| format!("there is no package `{package}`"))?;
        // The packages stand at the beginning of a line, those that others only provide in
        // brackets.
        let names = described.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()));
        Ok(names.filter(|name| !name.contains(':')).map(String::from).collect())
    }

    /// Returns the package that a package depends on whose name begins so.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn dependency(&self, package: &str, begins: &str) -> Result<String> {
        let described = self.run("apt-cache", &["depends", package])?;
        let mut names = described.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let found = names.find(|name| name.starts_with(begins));
        found.map(String::from).with_context(|| format!("{package} depends on no {begins}"))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(Command::new(program).args(&self.options).args(arguments))
    }
}

/// How long another `aero` may take that fetches packages.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Fills the directory `kept` once, by `fill` in another place: it is there only once it is whole.
/// Waits for another `aero` that fetches packages, because apt's lists have one user at a time.
///
/// # Errors
/// Fails if `fill` fails, or if the other `aero` takes too long.
pub fn keep(kept: &Path, fill: impl FnOnce(&Apt, &Path) -> Result<()>) -> Result<()> {
    if kept.is_dir() {
        return Ok(());
    }
    let directory = root().join("target/apt");
    fs::create_dir_all(&directory)?;
    // The system releases the lock when the file is closed, however this process ends.
    let lock = File::create(directory.join("lock"))?;
    let deadline = Instant::now() + FETCH_LIMIT;
    while lock.try_lock().is_err() {
        ensure!(Instant::now() < deadline, "another `aero` has been fetching packages for {FETCH_LIMIT:?}; end it");
        thread::sleep(Duration::from_millis(100));
    }
    if kept.is_dir() {
        return Ok(());
    }
    let parent = kept.parent().context("the root is no place for packages")?;
    fs::create_dir_all(parent)?;
    let unpacked = Directory::new(parent.join(format!("fetch-{}", std::process::id())))?;
    let whole = unpacked.path.join("whole");
    fs::create_dir_all(&whole)?;
    // Without packages, what needs them is left out, and is no failure.
    let apt = Apt::new().context(MissingTool("a mirror of Debian that apt can reach"))?;
    fill(&apt, &whole)?;
    fs::rename(&whole, kept).with_context(|| format!("{} cannot be made", kept.display()))
}

/// Returns a directory with a package of the release and all that it depends on, unpacked as they
/// would be installed. It is fetched once and kept.
///
/// # Errors
/// Fails if there is no such package, or if it cannot be fetched.
pub fn with_dependencies(package: &str) -> Result<PathBuf> {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    ensure!(
        is_name(package) && package.starts_with(|first: char| first.is_ascii_alphanumeric()),
        "`{package}` is no name of a package"
    );
    let kept = root().join("target/ros/packages").join(package);
    keep(&kept, |apt, into| {
        let packages = apt.closure(package)?;
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        apt.unpack(Suite::Release, &packages, into)
    })
    .with_context(|| format!("Debian's package {package} cannot be had"))?;
    Ok(kept)
}

/// Runs a command and returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be run"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the code name of the Debian release that this system is.
fn debian_release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_string())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

/// A place that packages come from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    mirror: String,
    /// The file with the key that signs its lists; apt's own keys if there is none.
    key: Option<String>,
}

/// Returns where this system gets a release from.
fn source(release: &str) -> Result<Source> {
    let entries = fs::read_dir(SOURCES_DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.push(SOURCES.into());
    files.sort();
    let found = files.iter().find_map(|file| source_in(&fs::read_to_string(file).ok()?, release));
    match found {
        Some(source) => Ok(source),
        None => bail!("apt's configuration names no mirror for {release}"),
    }
}

/// Finds the source of a release in a file of apt's, in either of its two formats
/// (sources.list(5)).
fn source_in(text: &str, release: &str) -> Option<Source> {
    let one_line = text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (mirror, suite) = (words.next()?, words.next()?);
        let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        (suite == release).then(|| Source { mirror: mirror.into(), key: key.map(String::from) })
    });
    let stanza = |stanza: &str| {
        let field = |name: &str| {
            let mut lines = stanza.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let is_the_release = field("Suites")?.split_whitespace().any(|suite| suite == release);
        let is_for_binaries = field("Types")?.split_whitespace().any(|kind| kind == "deb");
        let mirror = field("URIs")?.split_whitespace().next()?.to_string();
        // A key may also stand in the stanza itself; then apt's own keys must do.
        let key = field("Signed-By").filter(|key| key.starts_with('/')).map(String::from);
        (is_the_release && is_for_binaries).then_some(Source { mirror, key })
    };
    one_line.or_else(|| text.split("\n\n").find_map(stanza))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_apt_are_read() {
        let old = "# a comment\ndeb [arch=amd64 signed-by=/k.gpg] mirror:a sid main\ndeb mirror:b bookworm main\n";
        assert_eq!(source_in(old, "bookworm"), Some(Source { mirror: "mirror:b".into(), key: None }));
        assert_eq!(source_in(old, "sid"), Some(Source { mirror: "mirror:a".into(), key: Some("/k.gpg".into()) }));
        assert_eq!(source_in(old, "trixie"), None);
        let new = "Types: deb\nURIs: mirror:c\nSuites: bookworm bookworm-updates\nSigned-By: /d.gpg\n\nTypes: deb-src\n\
                   URIs: mirror:d\nSuites: trixie\n";
        assert_eq!(source_in(new, "bookworm"), Some(Source { mirror: "mirror:c".into(), key: Some("/d.gpg".into()) }));
        assert_eq!(source_in(new, "trixie"), None);
    }
}
