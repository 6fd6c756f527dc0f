//! `aero hvm`: the Aerokernel beside Linux, in a hybrid virtual machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use build::{Image, Which, image};
use machine::ros::{Ros, Task};
use machine::{MachineKind, Settings, ros};
use wire::console::PROMPT;

use crate::{boot, terminal};

/// Default time limit for commands.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// Time in addition for an emulated Linux to boot and end.
const LINUX_LIMIT: Duration = Duration::from_secs(60);
/// Memory of an emulated Linux.
const LINUX_MEMORY: &str = "2G";

/// `aero hvm`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Boot the kernel as a hybrid runtime beside this process, on KVM, and attach this terminal to
    /// its console (Ctrl-A x ends it)
    Boot(Options),
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
}

/// Runs `aero hvm`.
pub fn run(command: Command) -> Result<u8> {
    let Command::Boot(options) = command;
    let image = match &options.image {
        Some(path) => Image { boot: path.clone(), debug: path.clone(), programs: Vec::new() },
        None => image::build(Which::Hrt)?,
    };
    if options.emulate { boot_emulated(&image, &options) } else { boot_here(&image, &options) }
}

fn boot_here(image: &Image, options: &Options) -> Result<u8> {
    let limit = options.timeout.map(Duration::from_secs);
    let settings = Settings {
        kind: MachineKind::Hvm,
        cpus: options.cpus,
        memory: options.mem.clone(),
        append: options.append.clone(),
        ..Settings::for_commands(limit.unwrap_or(DEFAULT_LIMIT))
    };
    boot::run_image(image, &settings, &boot::Task { script: options.run.as_deref(), limit, json: None })
}

/// Does the same in an emulated Linux, with this very program.
fn boot_emulated(image: &Image, options: &Options) -> Result<u8> {
    let own = std::env::current_exe()?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut words = vec![format!("./{}", name(&own)), "hvm".into(), "boot".into(), name(&image.boot)];
    words.extend(["--cpus".into(), options.cpus.to_string(), "--mem".into(), options.mem.clone()]);
    words.extend([format!("--append={}", options.append)]);
    words.extend(options.run.iter().map(|script| format!("--run={script}")));
    words.extend(options.timeout.map(|limit| format!("--timeout={limit}")));
    let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let settings = ros::Settings { cpus: 2, memory: LINUX_MEMORY, files: &[image.boot.clone()], programs: &[own] };
    let limit = options.timeout.map(|limit| Duration::from_secs(limit) + LINUX_LIMIT);
    match options.run {
        Some(_) => {
            let limit = limit.unwrap_or(DEFAULT_LIMIT + LINUX_LIMIT);
            Ros::execute(&settings, &line.join(" "), limit, &mut std::io::stdout())
        }
        None => {
            let task = Task::Terminal { line: &line.join(" "), size: terminal::size() };
            crate::ros::attend(&settings, task, PROMPT, limit)
        }
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
