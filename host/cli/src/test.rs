//! `aero test`: runs every kind of test and prints one summary.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use build::project::{MissingTool, cargo, root};
use build::{Image, Which, image};
use build::{Isa, program};
use machine::Accelerator;
use machine::linux;
use machine::qemu;
use machine::script::{self, Outcome};
use machine::status;
use machine::{MachineKind, Settings};

use crate::bench;
use crate::hvm::run_emulated;

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
    /// The kernel's suite on an Intel CPU in Bochs: x2APIC, the TSC deadline, AVX-512
    Bochs,
    /// x2APIC, the TSC deadline and figures in cycles on KVM; skipped where there is none
    Kvm,
    /// The kernel's suite as a hybrid runtime beside Linux: on this host's KVM where it is usable,
    /// and in an emulated Linux
    Hvm,
    /// Programs of the distribution in kernel mode, in an emulated Linux: Racket, SBCL, Python's
    /// own tests, redis and others, which are fetched. About an hour, and only if it is named
    Multiverse,
    /// The benchmarks: no row worse than in bench/baseline.json, none below what is possible
    Bench,
    /// Programs beside themselves as Linux processes in QEMU; skipped where no Linux kernel can be
    /// had
    Linux,
    /// A minute of everything, in QEMU, and two hundred gdbs; with --long a thousand
    Soak,
}

/// The parts that run if none is named.
const ALL: [Part; 11] = [
    Part::Unit,
    Part::Model,
    Part::Knc,
    Part::Kernel,
    Part::Bench,
    Part::Bochs,
    Part::Kvm,
    Part::Hvm,
    Part::E2e,
    Part::Linux,
    Part::Soak,
];
/// Numbers of CPUs that the kernel's suite runs with.
const SUITE_CPUS: [u32; 3] = [1, 2, 4];
const BOCHS_CPUS: u32 = 2;

/// Runs the given parts, or the usual ones if none is given; soak tests long if wanted. A failed
/// part does not keep the others from running.
pub fn run(parts: &[Part], is_long: bool) -> Result<u8> {
    let parts = if parts.is_empty() { &ALL } else { parts };
    let (mut passed, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for &part in parts {
        let start = Instant::now();
        let result = run_part(part, is_long);
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(Ran::Whole) => {
                passed += 1;
                eprintln!("aero: {part:?} tests passed in {seconds:.1} s");
            }
            Ok(Ran::Not(reason)) => {
                skipped.push(part);
                eprintln!("aero: {part:?} tests SKIPPED: {reason}");
            }
            Err(error) => {
                failed.push(part);
                eprintln!("aero: {part:?} tests FAILED in {seconds:.1} s: {error:#}");
            }
        }
    }
    println!(
        "parts: {passed} passed, {} skipped{}, {} failed{}",
        skipped.len(),
        names(&skipped),
        failed.len(),
        names(&failed)
    );
    Ok(if failed.is_empty() { status::DONE } else { status::FAILED })
}

/// Formats parts as ` (Kvm, Linux)`, or as nothing if there are none.
fn names(parts: &[Part]) -> String {
    let names: Vec<String> = parts.iter().map(|part| format!("{part:?}")).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// The result of a part that did not fail.
enum Ran {
    Whole,
    /// The part was skipped, for this reason.
    Not(String),
}

fn run_part(part: Part, is_long: bool) -> Result<Ran> {
    let result = match part {
        Part::Unit => unit(),
        Part::Bench => bench::check(),
        Part::Multiverse => {
            let mut tests = cargo();
            tests
                .args(["test", "--quiet", "--no-fail-fast", "-p", "aero-test-e2e", "--test", "multiverse_programs"])
                .args(["--", "--ignored", "--test-threads", "1"])
                .env("AERO", std::env::current_exe()?);
            succeed(tests)
        }
        Part::Model => {
            let mut tests = cargo();
            tests.args(["test", "--quiet", "--release", "-p", "aero-test-races"]).env("RUSTFLAGS", "--cfg loom");
            tests.args(["--target-dir"]).arg(root().join("target/model"));
            succeed(tests)
        }
        Part::Kernel => {
            SUITE_CPUS.iter().try_for_each(|&cpus| suite(cpus, "test", 300))?;
            let polling = Settings { append: "idle=poll".into(), ..suite_settings(300) };
            succeed_in_suite(
                &polling,
                "test kernel_tests::calls; test kernel_tests::threads; test kernel_tests::waiting",
            )?;
            CRASHES.iter().try_for_each(crash)
        }
        Part::Soak => suite(2, "soak", 600).and_then(|()| {
            image::build(Which::X64)?;
            let mut tests = cargo();
            tests.args(["test", "--quiet", "-p", "aero-test-e2e", "--test", "gdb_soak", "--", "--ignored"]);
            tests.env("AERO", std::env::current_exe()?);
            tests.env("AERO_SOAK_CYCLES", if is_long { "1000" } else { "200" });
            succeed(tests)
        }),
        Part::E2e => {
            image::build(Which::X64)?;
            image::build(Which::Knc)?;
            let mut tests = cargo();
            tests
                .args(["test", "--quiet", "--no-fail-fast", "-p", "aero-test-e2e"])
                .env("AERO", std::env::current_exe()?);
            succeed(tests)
        }
        Part::Knc => {
            let image = image::build(Which::Knc)?;
            let mut tests = cargo();
            tests.args(["test", "--quiet", "-p", "aero-test-knc-isa"]).env("KNC_IMAGE", image.debug);
            succeed(tests)
        }
        Part::Bochs => bochs(),
        Part::Kvm => return kvm(),
        Part::Hvm => return hvm(),
        Part::Linux => return linux(),
    };
    result.map(|()| Ran::Whole)
}

/// Crates that only make sense on the kernel's side or in a program, and those with parts of their
/// own.
const NOT_UNIT: [&str; 10] = [
    "aero-multiverse-runtime",
    "aero-test-e2e",
    "aero-test-races",
    "aero-image-x64",
    "aero-image-knc",
    "aero-arch-knc",
    "aero-image-hrt",
    "aero-hvm-platform",
    "aero-hvm-transport",
    "aero-test-knc-isa",
];

/// Runs the unit tests of all other crates.
fn unit() -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--quiet", "--workspace"]);
    NOT_UNIT.iter().for_each(|name| {
        tests.args(["--exclude", name]);
    });
    succeed(tests)?;
    let mut tests = cargo();
    tests.args(["test", "--quiet", "-p", "aero-bench", "--features", "hollow", "--test", "hollow"]);
    succeed(tests)
}

/// Runs a command of the suite image that must succeed.
fn suite(cpus: u32, command: &str, seconds: u64) -> Result<()> {
    succeed_in_suite(&Settings { cpus, ..suite_settings(seconds) }, command)
}

fn succeed_in_suite(settings: &Settings, command: &str) -> Result<()> {
    let outcome = run_in_suite(settings, command, &mut std::io::stdout())?;
    ensure!(
        outcome.status == status::DONE,
        "with {} CPUs: status {}\n{}",
        settings.cpus,
        outcome.status,
        outcome.report
    );
    Ok(())
}

fn suite_settings(seconds: u64) -> Settings {
    Settings { accelerator: Accelerator::Auto, ..Settings::for_commands(Duration::from_secs(seconds)) }
}

/// Runs a command of the suite image in QEMU.
fn run_in_suite(settings: &Settings, command: &str, out: &mut dyn Write) -> Result<Outcome> {
    let image = image::build(Which::Suite)?;
    eprintln!("aero: `{command}` in the kernel, {} CPUs", settings.cpus);
    script::run(&image, settings, command, out)
}

/// The commands of the suite that concern inter-processor interrupts and timers.
const INTERRUPT_TESTS: &str =
    "timers; irqs; test kernel_tests::calls; test kernel_tests::time; test kernel_tests::waiting";
/// Text that the kernel prints on a machine with x2APIC and the TSC deadline timer.
const INTEL: [&str; 2] = ["timer TSC deadline", "controllers: x2APIC"];
/// Time limit for a script in Bochs, which normally takes a tenth of it.
const BOCHS_LIMIT: Duration = Duration::from_secs(600);

/// Runs the whole suite, and vector registers up to AVX-512, on an Intel CPU in Bochs.
fn bochs() -> Result<()> {
    let suite = image::build(Which::Suite)?;
    succeed_in_bochs(&suite, "timers; irqs; test", &INTEL)?;
    // One image, because booting takes most of the time. QEMU's emulator raises no x87 exception
    // (SDM Vol. 1, 8.7).
    let programs = ["vectors", "misbehave"].map(|name| root().join("tests/programs").join(name));
    let image = program::build(Which::X64, &programs, Isa::V4)?;
    let parts = ["AVX-512", " 0 wrong", "victim and culprit ended: (true, true)"];
    succeed_in_bochs(&image, "log; run vectors 50 200; run misbehave x87", &parts)
}

/// Runs commands in Bochs that must succeed and print the given parts.
fn succeed_in_bochs(image: &Image, script: &str, parts: &[&str]) -> Result<()> {
    eprintln!("aero: `{script}` in Bochs, {BOCHS_CPUS} CPUs");
    let mut output = Vec::new();
    let settings = Settings { kind: MachineKind::Bochs, cpus: BOCHS_CPUS, ..Settings::for_commands(BOCHS_LIMIT) };
    let outcome = script::run(image, &settings, script, &mut output)?;
    check(&outcome, &output, parts)
}

/// Prints a machine's output. Fails unless the machine ended well and the output contains the given
/// parts.
fn check(outcome: &Outcome, output: &[u8], parts: &[&str]) -> Result<()> {
    let output = String::from_utf8_lossy(output);
    print!("{output}");
    ensure!(outcome.status == status::DONE, "status {}\n{}", outcome.status, outcome.report);
    for part in parts {
        ensure!(output.contains(part), "the machine has no \"{part}\"");
    }
    Ok(())
}

/// Runs the suite's interrupt and timer tests, and compares figures in cycles with Linux's, on this
/// host's KVM.
fn kvm() -> Result<Ran> {
    if !qemu::kvm_is_usable() {
        return Ok(Ran::Not("there is no KVM here; `aero test bochs` covers what QEMU's emulator has not".into()));
    }
    let settings = Settings { accelerator: Accelerator::Kvm, ..suite_settings(120) };
    let mut output = Vec::new();
    let outcome = run_in_suite(&settings, INTERRUPT_TESTS, &mut output)?;
    check(&outcome, &output, &INTEL)?;
    match linux::kernel(None) {
        Ok(kernel) => bench::compare(&kernel, &KVM_PRIMITIVES, Accelerator::Kvm).map(|()| Ran::Whole),
        Err(error) => Ok(Ran::Not(format!("the suite passed, but there is no Linux for figures in cycles: {error:#}"))),
    }
}

/// Runs the kernel's suite as a hybrid runtime, on this host's KVM and in an emulated Linux.
fn hvm() -> Result<Ran> {
    let image = image::build(Which::HrtSuite)?;
    let settings = |cpus| Settings { kind: MachineKind::Hvm, cpus, ..Settings::for_commands(HVM_LIMIT) };
    match ::hvm::support::check() {
        Ok(()) => {
            for cpus in HVM_CPUS {
                let outcome = script::run(&image, &settings(cpus), "test", &mut std::io::stdout())?;
                ensure!(outcome.status == status::DONE, "{cpus} CPUs: status {}\n{}", outcome.status, outcome.report);
            }
        }
        Err(error) => eprintln!("aero: not on this host's KVM: {error}"),
    }
    for cpus in HVM_CPUS {
        eprintln!("aero: `test` as a hybrid runtime in an emulated Linux, {cpus} CPUs");
        match run_emulated(&image, &settings(cpus), "test", &mut std::io::stdout()) {
            Ok(status) => ensure!(status == status::DONE, "with {cpus} CPUs: status {status}"),
            Err(error) if error.is::<MissingTool>() => return Ok(Ran::Not(format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    Ok(Ran::Whole)
}

/// Numbers of CPUs of the hybrid runtime. An emulated Linux has two.
const HVM_CPUS: [u32; 2] = [1, 2];
/// Time limit for the suite as a hybrid runtime.
const HVM_LIMIT: Duration = Duration::from_secs(300);

/// Primitives that involve one CPU only, whose figures vary least.
const KVM_PRIMITIVES: [&str; 6] =
    ["empty", "thread_create_join", "context_switch", "event_wake_local", "timer_set", "mutex_uncontended"];

/// Checks that programs give the same results on Linux in the same QEMU, and that both systems'
/// figures can be parsed.
fn linux() -> Result<Ran> {
    let kernel = match linux::kernel(None) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(Ran::Not(format!("there is no Linux kernel: {error:#}"))),
    };
    let compared = bench::programs::compare(2, &kernel, &LINUX_TESTS)?;
    ensure!(compared.results == 4, "{} results were compared instead of 4", compared.results);
    ensure!(compared.latencies == 2, "{} latencies were compared instead of 2", compared.latencies);
    bench::compare(&kernel, &LINUX_PRIMITIVES, Accelerator::Tcg)?;
    Ok(Ran::Whole)
}

/// One primitive of each kind.
const LINUX_PRIMITIVES: [&str; 6] =
    ["empty", "mutex_uncontended", "context_switch", "event_wake_remote_idle", "page_unmap", "message_ping_pong_local"];

const LINUX_TESTS: [&str; 5] = [
    "forkjoin quicksort:5000 2",
    "forkjoin bodies:20 2",
    "bsp stencil:16 2",
    "actors ring:5 2",
    "forkjoin latencies 1",
];

/// A command that crashes the kernel, the reason that the report must contain, and the number of
/// attempts.
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

/// Crashes the suite image and checks that the report is complete.
fn crash(crash: &Crash) -> Result<()> {
    for _ in 0..crash.times {
        let settings = Settings { cpus: CRASH_CPUS, ..suite_settings(60) };
        let Outcome { status, report, .. } = run_in_suite(&settings, crash.command, &mut std::io::stdout())?;
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
