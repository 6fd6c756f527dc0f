//! `aero test`: every kind of test, one summary.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::boot::{self, run_script};
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
        Part::Kernel => SUITE_CPUS.iter().try_for_each(|&cpus| suite(cpus, "test", 300)),
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

/// Runs a command of the suite image in QEMU.
fn suite(cpus: u32, command: &str, seconds: u64) -> Result<()> {
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
    let outcome = run_script(&image, &options, command, &mut std::io::stdout())?;
    anyhow::ensure!(outcome.status == status::DONE, "with {cpus} CPUs: status {}\n{}", outcome.status, outcome.report);
    Ok(())
}

fn succeed(mut command: Command) -> Result<()> {
    let status = command.status().context("cargo cannot be run")?;
    anyhow::ensure!(status.success(), "see above");
    Ok(())
}
