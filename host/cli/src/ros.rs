//! `aero ros`: a Debian Linux with a KVM that can be relied on, for a shell or a command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use machine::ros::{Ros, Settings, Speed, Task, Tree};
use machine::{Machine, status};

use crate::session::{Session, Stop};
use crate::terminal::{self, RawTerminal};

/// The shell's prompt.
const PROMPT: &str = "# ";

/// Options of `aero ros`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Number of CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory, as QEMU takes it
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    mem: String,
    /// Make its time counter count instructions, so that figures repeat; it is several times slower
    #[arg(long)]
    icount: bool,
    /// Put a file of this host into the Linux, into the directory where commands run; a program
    /// with its libraries. A directory, or PATH:PLACE, keeps its path or is at PLACE. May be given
    /// several times
    #[arg(long = "with", value_name = "PATH[:PLACE]")]
    files: Vec<String>,
    /// Put a package of Debian, with all that it depends on, into the Linux as it would be
    /// installed. May be given several times
    #[arg(long = "package", value_name = "NAME")]
    packages: Vec<String>,
    /// Seconds after which the machine is ended; for a command 300 unless given
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Run this command line instead of a shell, print its output, and end with its status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Default time limit of a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Runs `aero ros`.
pub fn run(options: &Options) -> Result<u8> {
    let speed = if options.icount { Speed::Counted } else { Speed::Fast };
    let is_tree = |path: &&String| path.contains(':') || Path::new(path).is_dir();
    let (trees, files): (Vec<&String>, Vec<&String>) = options.files.iter().partition(is_tree);
    let mut trees = trees.into_iter().map(|path| Tree::parse(path)).collect::<Result<Vec<_>>>()?;
    for package in &options.packages {
        trees.push(Tree::of_package(package)?);
    }
    let files: Vec<PathBuf> = files.into_iter().map(PathBuf::from).collect();
    let settings = Settings { cpus: options.cpus, memory: &options.mem, speed, files: &files, trees: &trees };
    let limit = options.timeout.map(Duration::from_secs);
    if !options.command.is_empty() {
        let line = options.command.join(" ");
        return Ros::execute(&settings, &line, limit.unwrap_or(COMMAND_LIMIT), &mut std::io::stdout());
    }
    attend(&settings, Task::Shell { size: terminal::size() }, PROMPT, limit, &mut |bytes| bytes.to_vec())
}

/// Boots a Linux for a task at the terminal, which listens once it has said `ready`. `show` turns
/// its output into what is shown of it.
///
/// # Errors
/// Fails as [`Ros::start`] does, or if the Linux does not end in time or in order.
pub fn attend(
    settings: &Settings<'_>,
    task: Task<'_>,
    ready: &str,
    limit: Option<Duration>,
    show: &mut dyn FnMut(&[u8]) -> Vec<u8>,
) -> Result<u8> {
    let mut ros = Ros::start(settings, task)?;
    let terminal = RawTerminal::enter();
    if terminal.is_interactive() {
        eprint!("aero: booting a Linux; Ctrl-A x ends it, Ctrl-A Ctrl-A sends Ctrl-A\r\n");
    }
    let session =
        Session { is_interactive: terminal.is_interactive(), ready, at_end_of_input: b"\nexit\n".into(), limit, show };
    let (stop, _) = session.attend(&mut ros)?;
    let end = ros.end()?;
    drop(terminal);
    match stop {
        Stop::Quit => Ok(status::DONE),
        Stop::TimedOut => bail!("the Linux did not end in time and was stopped; --timeout S gives it more"),
        Stop::Ended if end.is_switched_off => Ok(status::DONE),
        Stop::Ended => bail!("{}", end.how),
    }
}
