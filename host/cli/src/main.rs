//! The `aero` command.
//!
//! - [`boot`]: runs the kernel on a machine, with a [`terminal`] or for commands; [`gdb`]: with gdb
//!   attached; [`knc`]: on a card; [`hvm`]: beside Linux. [`mod@run`]: runs Linux programs in it.
//!   [`ros`]: runs a Linux beside which it can run. [`session`]: a person or a pipe at a machine's
//!   console.
//! - [`trace_file`]: writes a trace for Perfetto. [`inspect`]: examines a crashed kernel's state,
//!   also as a [`core_file`].
//! - [`top`]: a live view of a running kernel; [`top_view`]: its contents. [`bench`]: measures;
//!   [`test`]: tests.

mod bench;
mod boot;
mod core_file;
mod gdb;
mod hvm;
mod hvm_console;
mod hvm_gdb;
mod hvm_trace;
mod inspect;
mod knc;
mod ros;
mod run;
mod session;
mod terminal;
mod test;
mod top;
mod top_view;
mod trace_file;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use build::project::MissingTool;
use build::{Isa, Which, program};
use clap::{Parser, Subcommand};
use machine::hvm::NoKvm;
use machine::status;

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
        image: Which,
        /// Put the program of a directory into the image: a Rust crate, or C or C++ files. May be
        /// given several times
        #[arg(long, value_name = "DIR")]
        hrt: Vec<PathBuf>,
        /// The instructions programs may use
        #[arg(long, value_enum, default_value = "x86-64")]
        isa: Isa,
    },
    /// Boot the kernel in QEMU and attach this terminal to its serial line (Ctrl-A x ends it)
    Boot(boot::Options),
    /// Boot the kernel in QEMU and attach gdb to its own stub; what stands behind `--` is for gdb
    Gdb(gdb::Options),
    /// Watch a running kernel that was booted with --telemetry (q quits)
    Top(top::Options),
    /// Look at what a crashed kernel has left, with the console's commands
    Inspect(inspect::Options),
    /// Measure the kernel's primitives, beside Linux's and an earlier run; `bench scale`,
    /// `bench hrt`, `bench programs`
    Bench(bench::Options),
    /// The kernel for Knights Corner (Xeon Phi), on a card that QEMU plays
    #[command(subcommand)]
    Knc(knc::Command),
    /// The kernel as a hybrid runtime beside Linux, in a hybrid virtual machine on KVM
    #[command(subcommand)]
    Hvm(hvm::Command),
    /// Run a Linux program in kernel mode: its code in a hybrid runtime, its system calls made by
    /// Linux
    Run(run::Options),
    /// Boot a Linux with a KVM that can be relied on, in QEMU, for a shell or for the command
    /// behind `--`
    Ros(ros::Options),
    /// Run the tests: all, or the named parts
    Test {
        /// unit: on the host. model: races, explored. kernel: in QEMU. e2e: the shell, by a
        /// pseudo-terminal. bench: no primitive dearer than in bench/baseline.json. knc:
        /// instructions of the Knights Corner image. bochs: the suite with x2APIC, the TSC deadline
        /// and AVX-512, in Bochs. kvm: the same with figures in cycles, where there is KVM. hvm:
        /// the suite as a hybrid runtime beside Linux. multiverse: programs of the distribution in
        /// kernel mode, only if it is named. linux: programs beside themselves on Linux, where its
        /// kernel can be had. soak: a minute of everything
        #[arg(value_enum)]
        parts: Vec<test::Part>,
        /// Make soak take several minutes, with a thousand gdbs
        #[arg(long)]
        long: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Build { image, hrt, isa } => program::build(image, &hrt, isa).map(|built| {
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
        Command::Knc(command) => knc::run(command),
        Command::Hvm(command) => hvm::run(command),
        Command::Run(options) => run::run(&options),
        Command::Ros(options) => ros::run(&options),
        Command::Test { parts, long } => test::run(&parts, long),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        // The reader closed the pipe early, as `head` does, so no message is due.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(status::PIPE_CLOSED),
        Err(error) => {
            eprintln!("aero: {error:#}");
            let missing = error.is::<MissingTool>() || error.is::<NoKvm>();
            ExitCode::from(if missing { status::MISSING_TOOL } else { status::FAILED })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_one = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_one))
}
