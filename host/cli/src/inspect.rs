//! `aero inspect`: examines a crashed kernel's state with the console's commands.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use view::execute::execute_on;
use wire::crash_file::CrashFile;

use build::image::built_x64;
use build::{Image, pack, program};
use machine::source_lines::SourceLines;
use machine::{qmp, status};

use crate::core_file;

/// Options of `aero inspect`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The file; `aero boot` says where it is
    file: PathBuf,
    /// Commands, instead of a prompt
    #[arg(value_name = "CMD; CMD")]
    commands: Option<String>,
    /// Write it as a core file, which gdb and LLDB open beside the kernel's file
    #[arg(long, value_name = "OUT", conflicts_with = "commands")]
    core: Option<PathBuf>,
    /// With all of the machine's memory, while it still is at its post-mortem prompt
    #[arg(long, requires = "core")]
    memory: bool,
}

const PROMPT: &str = "inspect> ";

/// Standard output, with file and line added to backtraces.
struct Out {
    lines: SourceLines,
}

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        io::stdout().write_all(&self.lines.add(text.as_bytes())).map_err(|_| fmt::Error)
    }
}

/// Returns the paths of the last built image, without debug information if the image is newer than
/// the crash file.
fn image_of(options: &Options, crash: &CrashFile) -> Image {
    let mut image = built_x64();
    let written = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let programs = crash.snapshot.iter().flat_map(|snapshot| &snapshot.programs);
    image.programs = programs.map(|program| (program.name.clone(), program::debug_path(&program.name))).collect();
    if written(&image.debug) > written(&options.file) {
        eprintln!("aero: the kernel was built again since: no source lines");
        image.debug = PathBuf::new();
        image.programs.clear();
    }
    image
}

/// Writes a core file and prints how to open it.
fn write_core(options: &Options, crash: &CrashFile, out: &Path) -> Result<u8> {
    let debug = image_of(options, crash).debug;
    let image = debug.file_name().and_then(|name| name.to_str()).unwrap_or("aerokernel").to_string();
    if options.memory {
        let socket = qmp::socket_beside(&options.file).context(
            "the crash file's path is too long for a socket beside it: a copy of the project with a shorter one has it",
        )?;
        let dump = pack::own_name(&std::path::absolute(out)?);
        let written =
            qmp::dump_memory(&socket, &dump).and_then(|()| core_file::write_with_memory(out, crash, &image, &dump));
        // The dump does not exist if QEMU refused it.
        let _ = fs::remove_file(&dump);
        written?;
    } else {
        core_file::write(out, crash, &image)?;
    }
    let debug = if debug.as_os_str().is_empty() { "KERNEL".into() } else { debug.display().to_string() };
    println!("gdb {debug} {}", out.display());
    Ok(status::DONE)
}

/// Runs `aero inspect`.
pub fn run(options: &Options) -> Result<u8> {
    let path = options.file.display();
    let bytes = fs::read(&options.file).with_context(|| format!("{path} cannot be read"))?;
    ensure!(!bytes.is_empty(), "{path} is empty: the machine runs still, or was ended before it could crash");
    let crash = CrashFile::read(&bytes).map_err(|error| anyhow!("{path}: {error}"))?;
    if let Some(out) = &options.core {
        return write_core(options, &crash, out);
    }
    let mut lines = SourceLines::new(&image_of(options, &crash));
    lines.set_image_start(crash.snapshot.as_ref().map_or(0, |snapshot| snapshot.machine.image.0));
    let mut out = Out { lines };
    if let Some(commands) = &options.commands {
        return Ok(execute_on(commands, &crash, &mut out));
    }
    let is_terminal = io::stdin().is_terminal();
    writeln!(out, "CPU {} crashed: {}", crash.header.cpu, crash.header.what)?;
    if crash.snapshot.is_none() {
        writeln!(out, "its state could not be recorded any more")?;
    }
    if is_terminal {
        writeln!(out, "`help` lists the commands; Ctrl-D ends")?;
    }
    let mut status = 0;
    let mut input = io::stdin().lock();
    loop {
        if is_terminal {
            write!(out, "{PROMPT}")?;
            io::stdout().flush()?;
        }
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(status);
        }
        status = execute_on(line.trim(), &crash, &mut out);
    }
}
