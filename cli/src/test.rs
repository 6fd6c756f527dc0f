//! `aero test`: every kind of test, one summary.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::bench_hrt;
use crate::boot::{Options, Outcome, run_script};
use crate::hrt::Isa;
use crate::image::{self, Which, cargo};
use crate::linux;
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
    /// x2APIC and the TSC deadline, which only KVM has; skipped where that is not
    Kvm,
    /// Programs beside themselves as Linux processes in QEMU; skipped where no Linux kernel can be had
    Linux,
    /// Two minutes of everything, in QEMU
    Soak,
}

const ALL: [Part; 8] =
    [Part::Unit, Part::Model, Part::Knc, Part::Kernel, Part::Kvm, Part::E2e, Part::Linux, Part::Soak];
/// CPU counts of the kernel's suite.
const SUITE_CPUS: [u32; 3] = [1, 2, 4];

/// Runs the parts, or all; a part that fails does not keep the others from running.
pub fn run(parts: &[Part]) -> Result<u8> {
    let parts = if parts.is_empty() { &ALL } else { parts };
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    for &part in parts {
        let start = Instant::now();
        let result = run_part(part);
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(Ran::Whole) => {
                passed += 1;
                eprintln!("aero: {part:?} tests passed in {seconds:.1} s");
            }
            Ok(Ran::Not(reason)) => {
                skipped += 1;
                eprintln!("aero: {part:?} tests SKIPPED: {reason}");
            }
            Err(error) => {
                failed += 1;
                eprintln!("aero: {part:?} tests FAILED in {seconds:.1} s: {error:#}");
            }
        }
    }
    println!("parts: {passed} passed, {skipped} skipped, {failed} failed");
    Ok(if failed == 0 { status::DONE } else { status::FAILED })
}

/// What became of a part that did not fail.
enum Ran {
    Whole,
    /// The machine cannot run it, for this reason.
    Not(String),
}

fn run_part(part: Part) -> Result<Ran> {
    let result = match part {
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
        Part::Kvm => return kvm(),
        Part::Linux => return linux(),
    };
    result.map(|()| Ran::Whole)
}

/// Runs a command of the suite image that must succeed.
fn suite(cpus: u32, command: &str, seconds: u64) -> Result<()> {
    let outcome = run_in_suite(&Options { cpus, ..suite_options(seconds) }, command, &mut std::io::stdout())?;
    ensure!(outcome.status == status::DONE, "with {cpus} CPUs: status {}\n{}", outcome.status, outcome.report);
    Ok(())
}

fn suite_options(seconds: u64) -> Options {
    Options {
        cpus: 2,
        mem: "512M".into(),
        accel: Accelerator::Auto,
        iso: false,
        run: None,
        timeout: Some(seconds),
        append: String::new(),
        hrt: Vec::new(),
        isa: Isa::default(),
        trace: None,
        icount: false,
        qemu: Vec::new(),
    }
}

/// Runs a command of the suite image in QEMU.
fn run_in_suite(options: &Options, command: &str, out: &mut dyn Write) -> Result<Outcome> {
    let image = image::build(Which::Suite)?;
    eprintln!("aero: `{command}` in the kernel, {} CPUs", options.cpus);
    run_script(&image, options, command, out)
}

/// A plain CPU with what TCG does not have. `-cpu host` is more than a KVM that is itself emulated can do.
const KVM_CPU: &str = "kvm64,+x2apic,+tsc-deadline";
/// A KVM that cannot do this in the time given is of no use.
const KVM_PROBE: (&str, u64) = ("uptime", 60);
const KVM_TESTS: &str = "timers; irqs; test suite::calls; test suite::time; test suite::waiting";

/// The tests that concern inter-processor interrupts and timers, on KVM.
fn kvm() -> Result<Ran> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Ran::Not(format!("/dev/kvm cannot be opened: {error}")));
    }
    let qemu = ["-cpu", KVM_CPU].map(String::from).to_vec();
    let options = |seconds| Options { accel: Accelerator::Kvm, qemu: qemu.clone(), ..suite_options(seconds) };
    let (command, seconds) = KVM_PROBE;
    let probe = run_in_suite(&options(seconds), command, &mut std::io::sink())?;
    if probe.status != status::DONE {
        return Ok(Ran::Not(format!("KVM here does not run `{command}` in {seconds} s: {}", probe.report)));
    }
    let mut output = Vec::new();
    let outcome = run_in_suite(&options(300), KVM_TESTS, &mut output)?;
    let output = String::from_utf8_lossy(&output);
    print!("{output}");
    ensure!(outcome.status == status::DONE, "status {}\n{}", outcome.status, outcome.report);
    for part in ["timer TSC deadline", "controllers: x2APIC"] {
        ensure!(output.contains(part), "the machine has no \"{part}\"");
    }
    Ok(Ran::Whole)
}

/// Programs give the same results on Linux in the same QEMU, and both systems' figures are understood.
fn linux() -> Result<Ran> {
    let kernel = match linux::kernel(None) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(Ran::Not(format!("there is no Linux kernel: {error:#}"))),
    };
    let compared = bench_hrt::compare(2, &kernel, &LINUX_TESTS)?;
    ensure!(compared.results == 4, "{} results were compared instead of 4", compared.results);
    ensure!(compared.latencies == 2, "{} latencies were compared instead of 2", compared.latencies);
    Ok(Ran::Whole)
}

const LINUX_TESTS: [&str; 5] = [
    "forkjoin quicksort:5000 2",
    "forkjoin bodies:20 2",
    "bsp stencil:16 2",
    "actors ring:5 2",
    "forkjoin latencies 1",
];

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
        let options = Options { cpus: CRASH_CPUS, ..suite_options(60) };
        let Outcome { status, report } = run_in_suite(&options, crash.command, &mut std::io::stdout())?;
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
