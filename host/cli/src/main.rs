//! The `aero` command.
//!
//! - [`image`]: builds the kernel; [`pack`]: makes a boot image of it; [`knc`]: the one for Knights Corner.
//! - [`card`]: a Knights Corner card; [`bzimage`]: its image; [`rings`]: its console.
//!   [`scratch`]: files that are not kept.
//! - [`hrt`]: builds programs and puts them into it; [`header`]: their interface in C.
//! - [`boot`]: runs it in QEMU; [`running`]: QEMU as a process; [`qemu`]: its arguments; [`terminal`]: between QEMU and the person;
//!   [`source_lines`]: adds file:line to backtraces; [`gdb`]: runs it with a gdb attached, at a [`gdb_line`].
//! - [`trace_file`]: a trace for Perfetto. [`inspect`]: what a crashed kernel has left, also as a [`core_file`]; [`qmp`]: its memory.
//! - [`top`]: a live view of a running one; [`top_view`]: what it shows.
//! - [`bench`]: measures, also [`linux`]; [`test`]: tests, also in [`bochs`]. [`iso`]: CDs that boot.

mod archive;
mod bench;
mod bochs;
mod boot;
mod bzimage;
mod c_library;
mod c_program;
mod card;
mod core_file;
mod gdb;
mod gdb_line;
mod header;
mod hrt;
mod image;
mod inspect;
mod iso;
mod knc;
mod linux;
mod memory;
mod pack;
mod qemu;
mod qmp;
mod rings;
mod running;
mod scratch;
mod source_lines;
mod terminal;
mod test;
mod top;
mod top_view;
mod trace_file;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit statuses, the same for every subcommand.
mod status {
    /// Everything succeeded.
    pub const DONE: u8 = 0;
    /// A command or test failed.
    pub const FAILED: u8 = 1;
    /// The kernel crashed or hung.
    pub const CRASHED: u8 = 3;
    /// A tool is missing.
    pub const MISSING_TOOL: u8 = 4;
    /// Whoever read our output has gone: what a shell makes of a program that SIGPIPE ends.
    pub const PIPE_CLOSED: u8 = 141;
}

/// The Aerokernel: a thin kernel layer for hybrid runtimes.
#[derive(Parser)]
#[command(name = "aero", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
aero doctor        what is here, what is missing, and the exact command that installs it

Exit status: 0 done, 1 a command or test failed, 2 wrong usage, 3 the kernel crashed or hung, 4 a tool is missing.";

#[derive(Subcommand)]
enum Command {
    /// Build the kernel images
    Build {
        /// Which
        #[arg(value_enum, default_value = "x64")]
        image: image::Which,
        /// Put the program of a directory into the image: a Rust crate, or C or C++ files. May be given several times
        #[arg(long, value_name = "DIR")]
        hrt: Vec<PathBuf>,
        /// The instructions programs may use
        #[arg(long, value_enum, default_value = "x86-64")]
        isa: hrt::Isa,
    },
    /// Boot the kernel in QEMU and attach this terminal to its serial line (Ctrl-A x ends it)
    Boot(boot::Options),
    /// Boot the kernel in QEMU and attach gdb to its own stub; what stands behind `--` is for gdb
    Gdb(gdb::Options),
    /// Watch a running kernel that was booted with --telemetry (q quits)
    Top(top::Options),
    /// Look at what a crashed kernel has left, with the console's commands
    Inspect(inspect::Options),
    /// Measure the kernel's primitives, beside Linux's and an earlier run; `bench scale`, `bench hrt`
    Bench(bench::Options),
    /// The kernel for Knights Corner (Xeon Phi), on a card that QEMU plays
    #[command(subcommand)]
    Knc(card::Command),
    /// Run the tests: all, or the named parts
    Test {
        /// unit: on the host. model: races, explored. kernel: in QEMU. e2e: the shell, by a pseudo-terminal.
        /// bench: no primitive dearer than in bench/baseline.json. knc: instructions of the Knights Corner image. bochs: the suite
        /// with x2APIC, the TSC deadline and AVX-512, in Bochs. kvm: the same with figures in cycles, where there is KVM. linux: programs
        /// beside themselves on Linux, where its kernel can be had. soak: two minutes of everything
        #[arg(value_enum)]
        parts: Vec<test::Part>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Build { image, hrt, isa } => hrt::build(image, &hrt, isa).map(|built| {
            if !hrt.is_empty() {
                println!("{}", built.boot.display());
            }
            status::DONE
        }),
        Command::Boot(options) => boot::run(&options),
        Command::Gdb(options) => gdb::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Knc(command) => card::run(command),
        Command::Test { parts } => test::run(&parts),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        // It has had enough, as `head` has.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(status::PIPE_CLOSED),
        Err(error) => {
            eprintln!("aero: {error:#}");
            let missing = error.downcast_ref::<MissingTool>().is_some();
            ExitCode::from(if missing { status::MISSING_TOOL } else { status::FAILED })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_one = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_one))
}

/// A program that is not installed.
#[derive(Debug)]
struct MissingTool(&'static str);

impl std::fmt::Display for MissingTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is missing; `./aero doctor` says how to install it", self.0)
    }
}

impl std::error::Error for MissingTool {}
