//! `aero run`: unmodified Linux programs, split between a hybrid runtime and Linux.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use ::hvm::support;
use anyhow::{Context, Result, bail};
use build::{Which, image, runtime};
use machine::hvm::NoKvm;
use machine::memory::bytes_of;
use machine::ros::{self, Ros, Speed, Task, Tree};
use machine::status;
use multiverse::overrides::Override;

use crate::hvm::quoted;
use crate::terminal;

/// Time limit in an emulated Linux, and what that takes by itself.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
const LINUX_LIMIT: Duration = Duration::from_secs(60);
/// One, because with several the emulator loses a virtual machine now and then (`machine::ros`).
const LINUX_CPUS: u32 = 1;
const LINUX_MEMORY: &str = "4G";

/// Options of `aero run`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of CPUs that the hybrid runtime has for itself
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: u32,
    /// Memory that the hybrid runtime has for itself
    #[arg(long, default_value = "64M", value_name = "SIZE")]
    mem: String,
    /// Words for the kernel's command line
    #[arg(long, value_name = "ARGS", default_value = "")]
    append: String,
    /// Have calls of some of the program's functions go to functions in the hybrid runtime, which a
    /// file lists (docs/MULTIVERSE.md, Overrides)
    #[arg(long = "override", value_name = "FILE")]
    overrides: Option<PathBuf>,
    /// Have programs that the program executes, itself or in its children, run in hybrid runtimes
    /// of their own, with the same options but for overrides
    #[arg(long)]
    follow_exec: bool,
    /// What the program finds as its own name; it was executed by another one
    #[arg(long, hide = true)]
    argument_zero: Option<OsString>,
    /// The program ignores SIGPIPE, as the one did that executed it
    #[arg(long, hide = true)]
    ignore_pipes: bool,
    /// With overrides, microseconds for which the CPU of a thread that waits polls before it halts,
    /// while no more threads run than Linux has CPUs
    #[arg(long, default_value_t = 50, value_name = "US", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    poll: u64,
    /// Print at the end which system calls were forwarded, how often, and how long they took
    #[arg(long)]
    stats: bool,
    /// Put the hybrid runtime's console, telemetry, events and debugger's line where `aero hvm ps`,
    /// `console`, `top`, `trace` and `gdb` find them by the process's id
    #[arg(long)]
    share: bool,
    /// Do not run the program, but list what it asks for that it does not get there, as far as its
    /// file and its libraries show
    #[arg(long, conflicts_with_all = ["emulate", "stats", "share"])]
    check: bool,
    /// Do this in an emulated Linux that has a KVM (`aero ros`)
    #[arg(long)]
    emulate: bool,
    /// With --emulate, make the Linux's time counter count instructions
    #[arg(long, requires = "emulate")]
    icount: bool,
    /// With --emulate, put a file or a directory of this host into the Linux, at its own path or at
    /// PLACE. May be given several times. The program itself is there with its libraries
    #[arg(long = "with", value_name = "PATH[:PLACE]", requires = "emulate")]
    files: Vec<String>,
    /// With --emulate, put a package of Debian, with all that it depends on, into the Linux. May be
    /// given several times. The program is looked for there first
    #[arg(long = "package", value_name = "NAME", requires = "emulate")]
    packages: Vec<String>,
    /// With --emulate, seconds after which the Linux is ended; 60 unless given, but none at a
    /// terminal
    #[arg(long, value_name = "S", requires = "emulate", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// The runtime and the image, where they are not built
    #[arg(long, hide = true, num_args = 2)]
    built: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Runs `aero run`. Comes back only from an emulated Linux, or if the program cannot be run.
pub fn run(options: &Options) -> Result<u8> {
    if options.check {
        return check(options);
    }
    if !options.emulate {
        support::check().map_err(NoKvm::from)?;
    }
    if options.argument_zero.is_some() {
        return run_followed(options);
    }
    let overrides = options.overrides.as_deref().map_or(Ok(Vec::new()), multiverse::overrides::read)?;
    let name = options.program.first().context("there is no program to run")?;
    let packages = options.packages.iter().map(|name| Tree::of_package(name)).collect::<Result<Vec<_>>>()?;
    let program = match packages.iter().find_map(|package| packaged(name, package)) {
        Some(program) => program,
        None => Tree::at_own_path(&found(name)?)?,
    };
    let (runtime, image) = match &options.built[..] {
        [runtime, image] => (runtime.clone(), image.clone()),
        _ => (runtime::build()?, image::build(Which::Hrt)?.boot),
    };
    // In an emulated Linux, what is put there may be the program, or its interpreter.
    if !options.emulate || (packages.is_empty() && options.files.is_empty()) {
        multiverse::check::program(&program.host)?;
    }
    if options.emulate {
        return run_emulated(options, program, packages, &overrides, [runtime, image]);
    }
    start(options, &overrides, [runtime, image])
}

/// Starts a program that another one has executed. What cannot be split runs natively: it was
/// executed, and is there.
fn run_followed(options: &Options) -> Result<u8> {
    let name = options.program.first().context("there is no program to run")?;
    let is_possible = support::check().is_ok() && multiverse::check::program(Path::new(name)).is_ok();
    if let [runtime, image] = &options.built[..]
        && is_possible
    {
        return start(options, &[], [runtime.clone(), image.clone()]);
    }
    bail!("{} cannot be executed: {}", Path::new(name).display(), program(options).execute())
}

fn program(options: &Options) -> multiverse::Program<'_> {
    multiverse::Program {
        line: &options.program,
        own_name: options.argument_zero.as_deref(),
        ignores_pipes: options.ignore_pipes,
    }
}

/// Becomes the program, split.
fn start(options: &Options, overrides: &[Override], [runtime, image]: [PathBuf; 2]) -> Result<u8> {
    let memory = bytes_of(&options.mem).with_context(|| format!("`--mem {}` is no size, such as 64M", options.mem))?;
    let mut words = vec![
        format!("cpus={}", options.cpus),
        format!("memory={memory}"),
        format!("stats={}", u8::from(options.stats)),
        format!("share={}", u8::from(options.share)),
        format!("line={}", options.append),
        format!("poll={}", options.poll),
    ];
    words.extend(overrides.iter().map(|one| format!("override={one}")));
    if options.follow_exec {
        let command = [path::absolute(std::env::current_exe()?)?, path::absolute(&runtime)?, path::absolute(&image)?];
        let [command, runtime, image] = command.each_ref().map(|path| path.display());
        let start = [command.to_string(), "run".into(), "--follow-exec".into()];
        let built = ["--built".into(), runtime.to_string(), image.to_string()];
        let switches = [(options.stats, "--stats"), (options.share, "--share")];
        let switches = switches.into_iter().filter(|(is_on, _)| *is_on).map(|(_, word)| word.to_string());
        let values = [
            format!("--cpus={}", options.cpus),
            format!("--mem={}", options.mem),
            format!("--append={}", options.append),
        ];
        let line = start.into_iter().chain(built).chain(switches).chain(values);
        words.extend(line.map(|word| format!("follow={word}")));
    }
    multiverse::launch(&runtime, &image, &words, &program(options))?;
    Ok(status::FAILED)
}

/// Runs the program's command line in an emulated Linux at this terminal. Returns its exit status.
fn attend(linux: &ros::Settings<'_>, line: &str, limit: Option<Duration>) -> Result<u8> {
    let task = Task::Marked { line, size: terminal::size() };
    let mut marks = Marks::default();
    let limit = limit.map(|limit| limit + LINUX_LIMIT);
    let status = crate::ros::attend(linux, task, ros::BEGINS, limit, &mut |bytes| marks.take(bytes))?;
    Ok(marks.status().unwrap_or(status))
}

/// Takes the output of a marked command out of the machine's.
#[derive(Default)]
struct Marks {
    /// What may be the beginning of a mark, or what is behind the last one.
    held: Vec<u8>,
    has_begun: bool,
    has_ended: bool,
}

impl Marks {
    /// Returns the command's output of these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        if !self.has_begun {
            let Some(at) = position(&self.held, ros::BEGINS) else { return Vec::new() };
            self.held.drain(..at + ros::BEGINS.len());
            self.has_begun = true;
        }
        if self.has_ended {
            return Vec::new();
        }
        if let Some(at) = position(&self.held, ros::ENDS) {
            self.has_ended = true;
            let output = self.held.drain(..at).collect();
            self.held.drain(..ros::ENDS.len());
            return output;
        }
        // A mark's first half may be the last byte.
        let rest = usize::from(self.held.last() == ros::ENDS.as_bytes().first());
        self.held.drain(..self.held.len() - rest).collect()
    }

    /// The command's exit status, once it has come.
    fn status(&self) -> Option<u8> {
        let digits: String = self.held.iter().map(|&byte| char::from(byte)).take_while(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|_| self.has_ended)
    }
}

fn position(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

/// Libraries that offer everything, so that what they ask for says nothing of a program.
const GENERAL: [&str; 6] = ["libc.so", "libpthread.so", "libm.so", "libdl.so", "librt.so", "ld-linux"];

/// Lists what the program asks for that it does not get.
fn check(options: &Options) -> Result<u8> {
    let name = options.program.first().context("there is no program to check")?;
    let (program, bytes) = multiverse::check::program(&found(name)?)?;
    let mut files = vec![(program.clone(), bytes)];
    for library in ros::libraries(&program)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !GENERAL.iter().any(|general| name.starts_with(general)) {
            files.push(multiverse::check::program(&library)?);
        }
    }
    let mut is_clean = true;
    for (file, bytes) in files {
        let findings = multiverse::check::findings(&bytes).with_context(|| format!("{} is damaged", file.display()))?;
        for finding in findings {
            is_clean = false;
            println!("{}: {finding}", file.display());
        }
    }
    if is_clean {
        println!("{}: nothing is known that it would not get", program.display());
    }
    Ok(status::DONE)
}

/// Runs the program in an emulated Linux, by this very program.
fn run_emulated(
    options: &Options,
    program: Tree,
    packages: Vec<Tree>,
    overrides: &[Override],
    built: [PathBuf; 2],
) -> Result<u8> {
    let [runtime, image] = built;
    let name = |path: &Path| format!("./{}", path.file_name().unwrap_or_default().display());
    let aero = std::env::current_exe()?;
    let mut words = vec![name(&aero), "run".into(), "--built".into(), name(&runtime), name(&image)];
    words.extend([format!("--cpus={}", options.cpus), format!("--mem={}", options.mem)]);
    words.push(format!("--poll={}", options.poll));
    let mut trees = packages;
    if let Some(file) = &options.overrides {
        let libraries = overrides.iter().filter_map(|one| one.target.as_ref()?.library.as_deref());
        let needed = std::iter::once(file.as_path()).chain(libraries).map(Tree::at_own_path);
        let needed = needed.collect::<Result<Vec<_>>>()?;
        words.extend(needed.first().map(|file| format!("--override={}", file.place.display())));
        trees.extend(needed);
    }
    for (is_on, word) in
        [(options.stats, "--stats"), (options.share, "--share"), (options.follow_exec, "--follow-exec")]
    {
        words.extend(is_on.then(|| word.into()));
    }
    words.extend([format!("--append={}", options.append), "--".into(), program.place.display().to_string()]);
    words.extend(options.program.iter().skip(1).map(|word| word.to_string_lossy().into_owned()));
    let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let files = [aero, runtime, image];
    if program.host == program.place {
        // A link to the program, and what it leads to.
        trees.extend([Tree::at_own_path(&program.host.canonicalize()?)?, program]);
    }
    for file in &options.files {
        trees.push(Tree::parse(file)?);
    }
    let (cpus, speed) = if options.icount { (1, Speed::Counted) } else { (LINUX_CPUS, Speed::Fast) };
    let linux = ros::Settings { cpus, memory: LINUX_MEMORY, speed, files: &files, trees: &trees };
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if is_terminal && !options.icount {
        return attend(&linux, &line, options.timeout.map(Duration::from_secs));
    }
    let limit = options.timeout.map_or(DEFAULT_LIMIT, Duration::from_secs);
    Ros::execute(&linux, &line, limit + LINUX_LIMIT, &mut std::io::stdout())
}

/// The program of a package, by its name or its path there.
fn packaged(program: &OsString, package: &Tree) -> Option<Tree> {
    let given = Path::new(program);
    let directories = if given.is_absolute() { &["/"][..] } else { &["usr/local/bin", "usr/bin", "bin", "usr/games"] };
    let mut places = directories.iter().map(|directory| Path::new(directory).join(given));
    places.find_map(|place| {
        let inside = place.strip_prefix("/").unwrap_or(&place).to_path_buf();
        let host = package.host.join(&inside);
        host.symlink_metadata().is_ok().then(|| Tree { host, place: Path::new("/").join(inside) })
    })
}

/// The absolute path of a program, which is looked for as a shell does.
fn found(program: &OsString) -> Result<PathBuf> {
    let given = Path::new(program);
    if given.components().count() > 1 {
        return Ok(path::absolute(given)?);
    }
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&places).map(|place| place.join(given)).find(|path| path.is_file());
    Ok(path::absolute(found.with_context(|| format!("there is no program `{}`", given.display()))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_output_and_status_are_between_the_marks() {
        let whole = b"the Linux\n\x02\x02one \x03 two\r\n\x03\x0342\r\nswitched off";
        for size in 1..whole.len() {
            let mut marks = Marks::default();
            let output: Vec<u8> = whole.chunks(size).flat_map(|bytes| marks.take(bytes)).collect();
            assert_eq!(String::from_utf8_lossy(&output), "one \x03 two\r\n", "in pieces of {size}");
            assert_eq!(marks.status(), Some(42));
        }
        assert_eq!(Marks::default().status(), None);
    }
}
