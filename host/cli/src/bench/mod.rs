//! `aero bench`: measures the kernel's primitives and compares them with Linux's in the same QEMU,
//! with limits and with an earlier run.
//!
//! - [`measure`]: runs both systems; [`reference`]: the reference figures of each row; [`judge`]:
//!   finds what is wrong with a run.
//! - [`table`], [`plot`], [`document`]: results for the terminal, as a picture, and in
//!   docs/PERFORMANCE.md.
//! - [`profile`]: the functions that a benchmark's instructions belong to.
//! - [`scale`]: costs with many CPUs and threads; [`programs`]: whole programs, compared with
//!   themselves on Linux; [`split`]: programs of the distribution in kernel mode.

pub mod document;
mod judge;
mod measure;
mod plot;
mod profile;
pub mod programs;
mod reference;
mod scale;
mod split;
mod table;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use build::{Which, image};
use machine::Accelerator;
use machine::linux;
use machine::status;
use measure::Setting;

/// Options of `aero bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Benchmarks, by their names or how they begin; all if none is given. `scale`: with up to 64
    /// CPUs and 100,000 threads. `hrt`: parallel programs, beside themselves as Linux processes.
    /// `programs`: a distribution's programs in kernel mode (`aero run`), beside themselves
    names: Vec<String>,
    /// Number of CPUs; for `scale` the most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// tcg: instructions are counted, by QEMU's emulator. kvm: cycles of the real CPU. auto: kvm
    /// where it can be used
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accelerator,
    /// What idle CPUs do, on both systems
    #[arg(long, value_enum, default_value = "halt")]
    idle: Idle,
    /// Measure another system's primitives too, in the same QEMU
    #[arg(long, value_enum)]
    compare: Option<Other>,
    /// Write the figures to a file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the distributions, or for `scale` the curves, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Compare with an earlier run's JSON: exit status 1 if a median is more than 5% worse. Without
    /// names, what that run had
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Measure everything on both systems, and write it to bench/baseline.json and
    /// docs/PERFORMANCE.md
    #[arg(long, conflicts_with_all = ["names", "cpus", "accel", "idle", "compare", "baseline"])]
    record: bool,
    /// Run a command, and print the CPU time that it took
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    timed: Vec<OsString>,
    /// Print which functions a benchmark's instructions are in
    #[arg(long, value_name = "NAME", conflicts_with_all = ["names", "accel", "compare", "baseline", "record", "json", "plot"])]
    profile: Option<String>,
    /// The Linux kernel to compare with, a bzImage; Debian's cloud kernel, fetched by apt-get, if
    /// none is given
    #[arg(long, value_name = "FILE")]
    linux: Option<PathBuf>,
}

impl Options {
    /// Fails if an option is given that `scale` or `hrt` does not support.
    fn refuse_others(&self, name: &str, further: &[(&str, bool)]) -> Result<()> {
        ensure!(self.names.len() == 1, "`aero bench {name}` takes no further names");
        let common = [("--compare", self.compare.is_some()), ("--baseline", self.baseline.is_some())];
        let given = common.iter().chain(further).find(|(_, is_given)| *is_given);
        ensure!(given.is_none(), "`aero bench {name}` has no {}", given.map_or("", |option| option.0));
        Ok(())
    }
}

/// A system to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Other {
    /// A Linux kernel with our static programs
    Linux,
}

/// What idle CPUs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Idle {
    /// They sleep until an interrupt comes
    Halt,
    /// They look for work all the time
    Poll,
}

/// Default number of CPUs.
const CPUS: u32 = 2;

/// Runs `aero bench`.
pub fn run(options: &Options) -> Result<u8> {
    if let [program, arguments @ ..] = &options.timed[..] {
        return split::timed(program, arguments);
    }
    match options.names.first().map(String::as_str) {
        Some("hrt") => {
            options
                .refuse_others("hrt", &[("--plot", options.plot.is_some()), ("--idle", options.idle != Idle::Halt)])?;
            programs::run(options.cpus.unwrap_or(CPUS), options.linux.as_deref(), options.json.as_deref())
        }
        Some("programs") => {
            let others = options.cpus.is_some() || options.json.is_some() || options.plot.is_some();
            ensure!(
                !others && options.compare.is_none(),
                "`aero bench programs` takes names of programs, and no option"
            );
            split::run(&options.names[1..])
        }
        Some("scale") => {
            let further = [("--linux", options.linux.is_some()), ("--idle", options.idle != Idle::Halt)];
            options.refuse_others("scale", &further)?;
            scale::run(options.cpus, options.accel, options.json.as_deref(), options.plot.as_deref())
        }
        _ => primitives(options, Rows::AsAsked),
    }
}

/// Measures all benchmarks and compares them with the committed baseline.
///
/// # Errors
/// Fails if a benchmark does not run, or if rows are worse than in the baseline, missing or
/// unrecorded.
pub fn check() -> Result<()> {
    let options = Options {
        names: Vec::new(),
        timed: Vec::new(),
        cpus: None,
        accel: Accelerator::Tcg,
        idle: Idle::Halt,
        compare: None,
        json: None,
        plot: None,
        baseline: Some(measure::baseline()),
        record: false,
        profile: None,
        linux: None,
    };
    let status = primitives(&options, Rows::All)?;
    ensure!(status == status::DONE, "rows are out of bounds: see above; `./aero bench --record` accepts them");
    Ok(())
}

/// The rows measured if no names are given and there is a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// The rows of the baseline.
    AsAsked,
    /// All rows. The baseline must contain each of them.
    All,
}

fn primitives(options: &Options, rows: Rows) -> Result<u8> {
    ensure!(
        options.linux.is_none() || options.compare.is_some() || options.record,
        "--linux names the kernel to compare with: with `--compare linux` or `--record`"
    );
    let setting = Setting { idle: options.idle, ..Setting::new(options.cpus.unwrap_or(CPUS), options.accel)? };
    let baseline = options.baseline.as_deref().map(measure::read).transpose()?;
    let names: Vec<String> = match &baseline {
        Some(baseline) if options.names.is_empty() && rows == Rows::AsAsked => {
            baseline.results.iter().map(|row| row.name.clone()).collect()
        }
        _ => options.names.clone(),
    };
    let image = image::build(Which::X64)?;
    if let Some(name) = &options.profile {
        profile::run(&image, setting, name)?;
        return Ok(status::DONE);
    }
    let mut report = measure::ours(&image, setting, &format!("bench --json {}", names.join(" ")))?;
    if options.compare == Some(Other::Linux) || options.record {
        let kernel = linux::kernel(options.linux.as_deref())?;
        // A given name may stand for several benchmarks.
        let measured: Vec<String> = match options.names.is_empty() {
            true => Vec::new(),
            false => report.results.iter().map(|row| row.name.clone()).collect(),
        };
        report.linux = measure::linux(&kernel, setting, &measured)?.map(Box::new);
    }
    table::write(&report, &mut io::stdout().lock())?;
    println!("image: {} bytes", fs::metadata(&image.boot)?.len());
    if let Some(path) = &options.json {
        measure::write(&report, path)?;
    }
    if let Some(path) = &options.plot {
        plot::distributions(&report, path)?;
    }
    let mut wrong = judge::impossible(&report);
    wrong.extend(judge::unreferenced(&report));
    if options.record && wrong.is_empty() {
        measure::write(&report, &measure::baseline())?;
        document::update()?;
        plot::distributions(&report, &document::picture())?;
    }
    if let Some(baseline) = &baseline {
        wrong.extend(judge::regressions(&report, baseline)?);
        if options.names.is_empty() {
            wrong.extend(judge::missing(&report, baseline));
        }
        if rows == Rows::All {
            wrong.extend(judge::unrecorded(&report, baseline));
        }
    }
    for line in &wrong {
        eprintln!("aero: {line}");
    }
    if let (Some(path), true) = (&options.baseline, wrong.is_empty()) {
        println!("no row is more than 5% worse than in {}", path.display());
    }
    Ok(if wrong.is_empty() { status::DONE } else { status::FAILED })
}

/// Measures primitives that both systems have on both of them. On KVM, idle CPUs poll: where KVM is
/// itself emulated, a halted CPU can miss its wake-up.
///
/// # Errors
/// Fails if a benchmark does not run on both systems, or if the figures are not in the
/// accelerator's unit.
pub fn compare(kernel: &std::path::Path, names: &[&str], accelerator: Accelerator) -> Result<()> {
    let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
    let idle = if accelerator == Accelerator::Kvm { Idle::Poll } else { Idle::Halt };
    let setting = Setting { idle, ..Setting::new(CPUS, accelerator)? };
    let image = image::build(Which::X64)?;
    let mut report = measure::ours(&image, setting, &format!("bench --json {}", names.join(" ")))?;
    report.linux = measure::linux(kernel, setting, &names)?.map(Box::new);
    table::write(&report, &mut io::stdout().lock())?;
    let linux = report.linux.as_ref().context("Linux has none of them")?;
    let is_counted = accelerator == Accelerator::Tcg;
    for (system, meta) in [("Aerokernel", &report.meta), ("Linux", &linux.meta)] {
        ensure!(meta.icount == is_counted, "{system}'s figures are not {accelerator:?}'s: {}", table::heading(meta));
    }
    let lone = names.iter().find(|name| report.row(name).is_none() || report.linux_row(name).is_none());
    ensure!(lone.is_none(), "{} was not measured on both systems", lone.map_or("", String::as_str));
    Ok(())
}
