//! `aero test`: every kind of test, one summary.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::boot::{self, Outcome, run_script};
use crate::image::{self, Which, cargo};
use crate::qemu::Accelerator;
use crate::status;

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// On the host
    Unit,
    /// Races, explored by a model checker
    Model,
    /// The kernel's suite in QEMU
    Kernel,
    /// The shell, by a pseudo-terminal
    E2e,
    /// Instructions of the Knights Corner image
    Knc,
    /// Two minutes of everything, in QEMU
    Soak,
}

const ALL: [Part; 6] = [Part::Unit, Part::Model, Part::Knc, Part::Kernel, Part::E2e, Part::Soak];
/// CPU counts of the kernel's suite.
const SUITE_CPUS: [u32; 3] = [1, 2, 4];

/// Runs the parts, or all; a part that fails does not keep the others from running.
pub fn run(parts: &[Part]) -> Result<u8> {
    let parts = if parts.is_empty() { &ALL } else { parts };
    let (mut passed, mut failed) = (0, 0);
    for &part in parts {
        let start = Instant::now();
        let result = run_part(part);
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                passed += 1;
                eprintln!("aero: {part:?} tests passed in {seconds:.1} s");
            }
            Err(error) => {
                failed += 1;
                eprintln!("aero: {part:?} tests FAILED in {seconds:.1} s: {error:#}");
            }
        }
    }
    println!("parts: {passed} passed, {failed} failed");
    Ok(if failed == 0 { status::DONE } else { status::FAILED })
}

fn run_part(part: Part) -> Result<()> {
    match part {
        Part::Unit => {
            let mut tests = cargo();
            tests.args(["test", "--quiet", "--workspace", "--exclude", "e2e", "--exclude", "model"]);
            tests.args([
                "--exclude",
                "image-x64",
                "--exclude",
                "image-knc",
                "--exclude",
                "arch-knc",
                "--exclude",
                "isa-audit",
            ]);
            succeed(tests)
        }
        Part::Model => {
            let mut tests = cargo();
            tests.args(["test", "--quiet", "--release", "-p", "model"]).env("RUSTFLAGS", "--cfg loom");
            tests.args(["--target-dir"]).arg(image::root().join("target/model"));
            succeed(tests)
        }
        Part::Kernel => {
            SUITE_CPUS.iter().try_for_each(|&cpus| suite(cpus, "test", 300))?;
            CRASHES.iter().try_for_each(crash)
        }
        Part::Soak => suite(2, "soak", 600),
        Part::E2e => {
            image::build(Which::X64)?;
            let mut tests = cargo();
            tests.args(["test", "--quiet", "-p", "e2e"]).env("AERO", std::env::current_exe()?);
            succeed(tests)
        }
        Part::Knc => {
            let image = image::build(Which::Knc)?;
            let mut tests = cargo();
            tests.args(["test", "--quiet", "-p", "isa-audit"]).env("KNC_IMAGE", image.debug);
            succeed(tests)
        }
    }
}

/// Runs a command of the suite image that must succeed.
fn suite(cpus: u32, command: &str, seconds: u64) -> Result<()> {
    let outcome = run_in_suite(cpus, command, seconds)?;
    ensure!(outcome.status == status::DONE, "with {cpus} CPUs: status {}\n{}", outcome.status, outcome.report);
    Ok(())
}

/// Runs a command of the suite image in QEMU.
fn run_in_suite(cpus: u32, command: &str, seconds: u64) -> Result<Outcome> {
    let image = image::build(Which::Suite)?;
    let options = boot::Options {
        cpus,
        mem: "512M".into(),
        accel: Accelerator::Auto,
        iso: false,
        run: Some(command.into()),
        timeout: Some(seconds),
        append: String::new(),
        icount: false,
        qemu: Vec::new(),
    };
    eprintln!("aero: `{command}` in the kernel, {cpus} CPUs");
    run_script(&image, &options, command, &mut std::io::stdout())
}

/// A command that crashes the kernel, what the report must say, and how often to try.
struct Crash {
    command: &'static str,
    reason: &'static str,
    times: usize,
}

const CRASHES: [Crash; 2] = [
    Crash { command: "crash frames", reason: "invalid opcode", times: 1 },
    Crash { command: "crash probing", reason: "while others probe", times: 5 },
];
const CRASH_CPUS: u32 = 4;

/// Crashes the suite image and looks whether the report is whole.
fn crash(crash: &Crash) -> Result<()> {
    for _ in 0..crash.times {
        let Outcome { status, report } = run_in_suite(CRASH_CPUS, crash.command, 60)?;
        ensure!(status == status::CRASHED, "`{}`: status {status}\n{report}", crash.command);
        let stopped = (1..CRASH_CPUS).map(|cpu| format!("CPU {cpu} was at:"));
        let parts = [crash.reason, "backtrace", "*** end of report ***"].map(String::from);
        for part in stopped.chain(parts) {
            ensure!(report.contains(&part), "`{}`: no \"{part}\" in the report:\n{report}", crash.command);
        }
    }
    Ok(())
}

fn succeed(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "see above");
    Ok(())
}
