//! `aero gdb`: runs the kernel in QEMU, with gdb attached to the kernel's own stub.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use build::project::{MissingTool, root};
use build::{Image, Which, program};
use machine::files::gdb_path;
use machine::{Machine, status};
use wire::command_line::{GDB, RUN};
use wire::console::{GDB_CAN_ATTACH, WAITING_FOR_GDB};

use crate::boot;

/// Options of `aero gdb`.
#[derive(clap::Args, Clone, Debug)]
#[command(mut_arg("qemu", |argument| argument.value_name("GDB ARGUMENTS").help("Further arguments for gdb")))]
pub struct Options {
    /// How to boot.
    #[command(flatten)]
    boot: boot::Options,
    /// Show gdb the CPUs as its threads, not the kernel's threads
    #[arg(long)]
    cpus_only: bool,
}

/// Messages with which the kernel announces that it listens to gdb.
const LISTENS: [&str; 2] = [GDB_CAN_ATTACH, WAITING_FOR_GDB];
/// Time limit for that message.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);

/// Runs `aero gdb`.
pub fn run(options: &Options) -> Result<u8> {
    let mut boot = options.boot.clone();
    let arguments = std::mem::take(&mut boot.qemu);
    let image = program::build(Which::X64, &boot.hrt, boot.isa)?;
    let socket = boot.gdb.take().flatten().map_or_else(gdb_path, Ok)?;
    let console = gdb_path()?.with_extension("console");
    boot.gdb = Some(Some(socket.clone()));
    let mut words = boot.append.clone();
    if options.cpus_only {
        words += &format!(" {}", GDB.with("cpus"));
    }
    if let Some(script) = boot.run.take() {
        // Without `wait`, commands would run and end the machine before gdb is attached.
        words += &format!(" {} {}", GDB.with("wait"), RUN.with(script));
    }
    let mut machine = machine::start(&image, &boot.settings(), &words)?;
    let mut log = File::create(&console).with_context(|| format!("{} cannot be written", console.display()))?;
    wait_until_it_listens(&mut *machine, &mut log)?;
    let output = std::mem::replace(machine.output(), std::sync::mpsc::channel().1);
    thread::spawn(move || output.iter().try_for_each(|bytes| log.write_all(&bytes)));
    eprintln!("aero: the kernel's console goes to {}", console.display());
    let ended = attach(&image, &socket, &[], &arguments);
    drop(machine);
    let _ = fs::remove_file(&console);
    ended
}

/// Runs gdb with a kernel's symbols, at the kernel's line. `before` are gdb's commands before it
/// connects.
pub fn attach(image: &Image, socket: &Path, before: &[String], arguments: &[String]) -> Result<u8> {
    let mut gdb = Command::new("gdb");
    gdb.env("AERO_GDB_PROGRAMS", programs_of(image)).env("AERO_GDB_RUST", rust_printers());
    gdb.arg("-q").arg(&image.debug).arg("-x").arg(root().join("gdb/aerokernel.py"));
    for command in before {
        gdb.arg("-ex").arg(command);
    }
    gdb.arg("-ex").arg(format!("target remote {}", socket.display())).args(arguments);
    // Ctrl-C at the terminal belongs to gdb.
    // SAFETY: signal only sets what happens on SIGINT: ignored in this process, back to the default
    // in gdb. It is async-signal-safe, so the closure may call it between fork and exec.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        gdb.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    match gdb.status() {
        Ok(ended) if ended.success() => Ok(status::DONE),
        Ok(_) => Ok(status::FAILED),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MissingTool("gdb").into()),
        Err(error) => Err(error).context("gdb cannot be run"),
    }
}

/// Returns the list of programs and their files for `gdb/aerokernel.py`.
fn programs_of(image: &Image) -> String {
    image.programs.iter().map(|(name, file)| format!("{name}={}\n", file.display())).collect()
}

/// Returns the directory of rustc's pretty printers for gdb, or an empty string if rustc cannot be
/// run.
fn rust_printers() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc).args(["--print", "sysroot"]).output();
    asked.map_or_else(
        |_| String::new(),
        |said| format!("{}/lib/rustlib/etc", String::from_utf8_lossy(&said.stdout).trim()),
    )
}

fn wait_until_it_listens(machine: &mut dyn Machine, log: &mut File) -> Result<()> {
    let deadline = Instant::now() + LISTEN_LIMIT;
    let mut seen = String::new();
    while !LISTENS.iter().any(|words| seen.contains(words)) {
        match machine.output().recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                log.write_all(&bytes)?;
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the kernel did not accept gdb within {} s:\n{seen}", LISTEN_LIMIT.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended:\n{seen}"),
        }
    }
    Ok(())
}
