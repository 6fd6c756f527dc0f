//! `aero hvm`: the Aerokernel beside Linux, in a hybrid virtual machine.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::hvm::lines::Line;
use ::hvm::support;
use anyhow::{Context, Result};
use build::project::{self, cargo, root};
use build::{Image, Which, image};
use machine::hvm::NoKvm;
use machine::ros::{Ros, Speed, Task};
use machine::source_lines::SourceLines;
use machine::{MachineKind, Settings, ros, status};
use wire::console::PROMPT;

use crate::{boot, hvm_console, hvm_gdb, hvm_trace, terminal, top};

/// Default time limit for commands.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// Time limit for the kernel's benchmarks.
const BENCH_LIMIT: Duration = Duration::from_secs(120);
/// The beginnings of the names of the kernel's benchmarks that can be counted: all but `noise`. An
/// emulator with one thread for all CPUs, as counting needs, delivers an interrupt of a virtual
/// machine in it twice now and then, and that one takes thousands of them.
const COUNTED: &str = "empty mutex spinlock semaphore interrupt syscall timer alloc page memory program thread context \
                       yield migration event condvar broadcast message ipi remote barrier fiber task trace";
/// Time in addition for an emulated Linux to boot and end.
const LINUX_LIMIT: Duration = Duration::from_secs(60);
/// CPUs and memory of an emulated Linux.
const LINUX_CPUS: u32 = 2;
const LINUX_MEMORY: &str = "2G";

/// `aero hvm`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Boot the kernel as a hybrid runtime beside this process, on KVM, and attach this terminal to
    /// its console (Ctrl-A x ends it)
    Boot(Options),
    /// Run a demonstration of what a hybrid runtime does for a process
    Demo {
        /// sum: adds numbers that Linux has in memory, in place. callback: functions in the hybrid
        /// runtime that print, allocate and read files
        #[arg(default_value = "sum")]
        which: Demo,
        /// Do this in an emulated Linux that has a KVM (`aero ros`)
        #[arg(long)]
        emulate: bool,
    },
    /// List the processes that have put the lines of a hybrid runtime on sockets
    Ps,
    /// Attach this terminal to the console of a process's hybrid runtime (Ctrl-A x leaves it)
    Console {
        #[command(flatten)]
        of: hvm_console::Which,
        /// Type these commands, print what they say, and leave
        #[arg(long, value_name = "CMD; CMD")]
        run: Option<String>,
    },
    /// Show a live view of a process's hybrid runtime: CPUs, threads, execution groups
    Top {
        #[command(flatten)]
        of: hvm_console::Which,
        #[command(flatten)]
        looks: top::Looks,
    },
    /// Debug a process's hybrid runtime: gdb at its CPUs, with the kernel's symbols and the
    /// process's
    Gdb {
        #[command(flatten)]
        of: hvm_console::Which,
        /// The image that the process has booted; the one built here if none is given
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// Further arguments for gdb
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Record what a process's hybrid runtime does, as a trace for Perfetto
    Trace {
        #[command(flatten)]
        of: hvm_console::Which,
        /// The file for the trace
        #[arg(long, value_name = "FILE", default_value = "hrt-trace.json")]
        to: PathBuf,
        /// Seconds to record
        #[arg(long = "for", value_name = "S", default_value_t = 1.0)]
        seconds: f64,
    },
    /// Measure what it costs to go from a process to its hybrid runtime and back
    Bench {
        /// Measure the kernel's own primitives instead, as `aero bench` does on a PC
        #[arg(long)]
        kernel: bool,
        /// Do this in an emulated Linux whose time counter counts instructions
        #[arg(long)]
        emulate: bool,
    },
}

/// The demonstrations, examples of the library.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Demo {
    /// `hvm-sum`
    Sum,
    /// `hvm-callback`
    Callback,
}

/// Options of `aero hvm boot`.
#[derive(clap::Args)]
pub struct Options {
    /// The image; built if none is given
    image: Option<PathBuf>,
    /// Number of CPUs of the hybrid runtime
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    cpus: u32,
    /// Memory that the hybrid runtime has for itself
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    mem: String,
    /// Run commands at the kernel's prompt, print only their output, and end
    #[arg(long, value_name = "CMD; CMD")]
    run: Option<String>,
    /// Seconds after which the hybrid runtime is ended; for --run 60 unless given
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Words for the kernel's command line
    #[arg(long, value_name = "ARGS", default_value = "")]
    append: String,
    /// Do this in an emulated Linux that has a KVM (`aero ros`)
    #[arg(long)]
    emulate: bool,
    /// Leave no file after a crash, because the Linux that this runs in ends with it
    #[arg(long, hide = true)]
    no_crash_file: bool,
}

/// Runs `aero hvm`.
pub fn run(command: Command) -> Result<u8> {
    let options = match command {
        Command::Boot(options) => options,
        Command::Demo { which: Demo::Sum, emulate } => return example("hvm-sum", emulate.then_some(Speed::Fast)),
        Command::Demo { which: Demo::Callback, emulate } => {
            return example("hvm-callback", emulate.then_some(Speed::Fast));
        }
        Command::Ps => return hvm_console::list(),
        Command::Console { of, run } => return hvm_console::attend(of, run.as_deref()),
        Command::Top { of, looks } => return top::look_at(&hvm_console::socket(of, Line::Telemetry)?, &looks),
        Command::Gdb { of, image, arguments } => return hvm_gdb::run(of, image, &arguments),
        Command::Trace { of, to, seconds } => return hvm_trace::run(of, &to, seconds),
        Command::Bench { kernel: true, emulate } => return bench_kernel(emulate),
        Command::Bench { kernel: false, emulate } => return example("hvm-bench", emulate.then_some(Speed::Counted)),
    };
    let image = match &options.image {
        Some(path) => Image { boot: path.clone(), debug: path.clone(), programs: Vec::new() },
        None => image::build(Which::Hrt)?,
    };
    let limit = options.timeout.map(Duration::from_secs);
    let settings = Settings {
        kind: MachineKind::Hvm,
        cpus: options.cpus,
        memory: options.mem,
        append: options.append,
        keeps_crash_file: !options.no_crash_file,
        ..Settings::for_commands(limit.unwrap_or(DEFAULT_LIMIT))
    };
    match (options.emulate, &options.run) {
        (false, script) => {
            boot::run_image(&image, &settings, &boot::Task { script: script.as_deref(), limit, json: None })
        }
        (true, Some(script)) => run_emulated(&image, &settings, script, &mut std::io::stdout()),
        (true, None) => attend_emulated(&image, &settings, limit),
    }
}

/// Measures the kernel's primitives in an HRT, here or in an emulated Linux.
fn bench_kernel(emulate: bool) -> Result<u8> {
    let image = image::build(Which::Hrt)?;
    // With one CPU, figures that count instructions have no part of another one's.
    let cpus = if emulate { 1 } else { LINUX_CPUS };
    let settings =
        Settings { kind: MachineKind::Hvm, cpus, memory: "256M".into(), ..Settings::for_commands(BENCH_LIMIT) };
    if !emulate {
        let task = boot::Task { script: Some("bench"), limit: Some(BENCH_LIMIT), json: None };
        return boot::run_image(&image, &settings, &task);
    }
    let timeout = format!("--timeout={}", BENCH_LIMIT.as_secs());
    let line = line_of(&image, &settings, &[format!("--run=bench {COUNTED}"), timeout])?;
    let out = &mut io::stdout();
    in_linux(&image, cpus, Speed::Counted, |linux| Ros::execute(linux, &line, BENCH_LIMIT + LINUX_LIMIT, out))
}

/// Builds an example of the library and runs it, here or in an emulated Linux of this speed.
fn example(name: &str, emulated: Option<Speed>) -> Result<u8> {
    let image = image::build(Which::Hrt)?;
    let directory = root().join("target/hvm");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "-p", "aero-hvm", "--example", name, "--target-dir"]).arg(&directory);
    project::run(build)?;
    let program = directory.join("release/examples").join(name);
    if let Some(speed) = emulated {
        let line = format!("./{name} ./{}", image.boot.file_name().unwrap_or_default().display());
        // With one CPU, figures that count instructions have no part of another one's.
        let cpus = if speed == Speed::Counted { 1 } else { LINUX_CPUS };
        let linux = ros::Settings { cpus, memory: LINUX_MEMORY, speed, files: &[image.boot, program], trees: &[] };
        return Ros::execute(&linux, &line, DEFAULT_LIMIT + LINUX_LIMIT, &mut std::io::stdout());
    }
    support::check().map_err(NoKvm::from)?;
    let status = std::process::Command::new(&program).arg(&image.boot).status();
    let status = status.with_context(|| format!("{} cannot be run", program.display()))?;
    Ok(if status.success() { status::DONE } else { status::FAILED })
}

/// Boots an image as a hybrid runtime in an emulated Linux, by this very program, runs the commands
/// of a script, and writes their output as it comes. Returns the exit status.
///
/// # Errors
/// Fails as [`Ros::execute`] does.
pub fn run_emulated(image: &Image, settings: &Settings, script: &str, out: &mut dyn Write) -> Result<u8> {
    let timeout = format!("--timeout={}", settings.limit.as_secs());
    let line = line_of(image, settings, &[format!("--run={script}"), timeout])?;
    // The Linux has the image without its debug information.
    let mut out = WithLines { lines: SourceLines::new(image), out };
    in_linux(image, LINUX_CPUS, Speed::Fast, |linux| Ros::execute(linux, &line, settings.limit + LINUX_LIMIT, &mut out))
}

/// Boots an image as a hybrid runtime in an emulated Linux, with this terminal at its console.
fn attend_emulated(image: &Image, settings: &Settings, limit: Option<Duration>) -> Result<u8> {
    let line = line_of(image, settings, &[])?;
    let task = Task::Terminal { line: &line, size: terminal::size() };
    let (mut lines, limit) = (SourceLines::new(image), limit.map(|limit| limit + LINUX_LIMIT));
    in_linux(image, LINUX_CPUS, Speed::Fast, |linux| {
        crate::ros::attend(linux, task, PROMPT, limit, &mut |bytes| lines.add(bytes))
    })
}

/// Output with file and line in its backtraces.
struct WithLines<'a> {
    lines: SourceLines,
    out: &'a mut dyn Write,
}

impl Write for WithLines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(&self.lines.add(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the command line that boots the image in the Linux.
fn line_of(image: &Image, settings: &Settings, further: &[String]) -> Result<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut words = vec![format!("./{}", name(&std::env::current_exe()?)), "hvm".into(), "boot".into()];
    words.extend([name(&image.boot), format!("--cpus={}", settings.cpus), format!("--mem={}", settings.memory)]);
    words.extend([format!("--append={}", settings.append), "--no-crash-file".into()]);
    words.extend_from_slice(further);
    Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// Does something in a Linux that has the image and this very program.
fn in_linux<T>(
    image: &Image,
    cpus: u32,
    speed: Speed,
    work: impl FnOnce(&ros::Settings<'_>) -> Result<T>,
) -> Result<T> {
    let files = [image.boot.clone(), std::env::current_exe()?];
    work(&ros::Settings { cpus, memory: LINUX_MEMORY, speed, files: &files, trees: &[] })
}

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        assert_eq!(quoted("a b;$c"), "'a b;$c'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
