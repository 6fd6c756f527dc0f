//! Runs the kernel's benchmarks, and Linux's in the same QEMU.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use report::{Meta, Row};
use serde::{Deserialize, Serialize};

use super::{Idle, reference};
use build::Image;
use build::project::root;
use machine::Settings;
use machine::linux;
use machine::qemu;
use machine::script;
use machine::status;
use machine::{Accelerator, Clock};

/// Time limit for a machine.
const LIMIT: Duration = Duration::from_secs(900);

/// The measurements of a run, in the form that `--json` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub meta: Meta,
    /// The results.
    pub results: Vec<Row>,
    /// Linux's report, if it was measured too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Box<Report>>,
}

impl Report {
    /// Returns the row with this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.results.iter().find(|row| row.name == name)
    }

    /// Returns Linux's row for one of our rows, if both were measured.
    pub fn linux_row(&self, name: &str) -> Option<&Row> {
        self.linux.as_ref()?.row(reference::find(name)?.linux?)
    }

    /// Extracts the report from a machine's output.
    fn find_in(output: &str) -> Result<Self> {
        let begin = output.find("{\"meta\"").context("there is no report in the output")?;
        let end = output[begin..].find(report::END).context("the report has no end")? + begin + report::END.len();
        let report: Self = serde_json::from_str(&output[begin..end]).context("the report is malformed")?;
        ensure!(!report.results.is_empty(), "the report has no results");
        Ok(report)
    }
}

/// The machine to measure on.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory of the Aerokernel's machine, in MiB. Linux's machine has [`linux::MEMORY`].
    pub memory: u32,
    /// True for KVM, where cycles are counted. Otherwise QEMU's emulator counts instructions.
    pub kvm: bool,
    /// What idle CPUs do.
    pub idle: Idle,
}

impl Setting {
    /// Creates the setting that the user asked for.
    ///
    /// # Errors
    /// Fails if KVM is asked for and cannot be used.
    pub fn new(cpus: u32, accelerator: Accelerator) -> Result<Self> {
        let is_usable = qemu::kvm_is_usable();
        let kvm = match accelerator {
            Accelerator::Auto => is_usable,
            Accelerator::Kvm => true,
            Accelerator::Tcg => false,
        };
        ensure!(
            !kvm || is_usable,
            "KVM cannot be used here: /dev/kvm must be there and open to you, and the CPU must have VMX or SVM; without `--accel kvm` \
             instructions are counted"
        );
        Ok(Self { cpus, memory: 256, kvm, idle: Idle::Halt })
    }

    /// Returns the words for both kernels' command lines.
    fn words(self) -> &'static str {
        match self.idle {
            Idle::Halt => "",
            Idle::Poll => "idle=poll",
        }
    }

    fn accelerator(self) -> Accelerator {
        if self.kvm { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// Runs a `bench` command of the kernel and returns the report it prints.
pub fn ours(image: &Image, setting: Setting, command: &str) -> Result<Report> {
    ours_with(image, setting, command, Vec::new())
}

/// Runs a `bench` command as [`ours`] does, with further arguments for QEMU.
pub fn ours_with(image: &Image, setting: Setting, command: &str, qemu: Vec<String>) -> Result<Report> {
    let settings = Settings {
        cpus: setting.cpus,
        memory: format!("{}M", setting.memory),
        accelerator: setting.accelerator(),
        clock: if setting.kvm { Clock::Real } else { Clock::Instructions },
        append: setting.words().into(),
        arguments: qemu,
        ..Settings::for_commands(LIMIT)
    };
    let mut output = Vec::new();
    let outcome = script::run(image, &settings, command, &mut output)?;
    let output = String::from_utf8_lossy(&output);
    if outcome.status != status::DONE {
        bail!("`{command}` failed:\n{output}{}", outcome.report);
    }
    Report::find_in(&output).with_context(|| format!("`{command}` printed:\n{output}"))
}

/// Runs the benchmarks of `bench/linux` that correspond to our benchmarks with these names. Runs
/// all, including those without a counterpart, if `names` is empty. Returns `None` if none of the
/// names has a counterpart.
pub fn linux(kernel: &Path, setting: Setting, names: &[String]) -> Result<Option<Report>> {
    let wanted: Vec<&str> = names.iter().filter_map(|name| reference::find(name)?.linux).collect();
    if wanted.is_empty() && !names.is_empty() {
        return Ok(None);
    }
    let program = linux::build(&root().join("bench/linux/Cargo.toml"), "primitives")?;
    let command = format!("/primitives {}", wanted.join(" "));
    let files = linux::file_system_with(&[program], &[command.trim_end().to_string()])?;
    let machine = linux::Settings {
        kernel,
        cpus: setting.cpus,
        accelerator: setting.accelerator(),
        clock: if setting.kvm { Clock::Real } else { Clock::Instructions },
        words: setting.words(),
        limit: LIMIT,
    };
    let output = machine.execute(files)?;
    Report::find_in(&output).with_context(|| format!("the benchmarks on Linux printed:\n{output}")).map(Some)
}

/// Reads a report from a file.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report of `aero bench --json`", path.display()))
}

/// Writes a report to a file, one row per line, so that differences are readable.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    std::fs::write(path, to_json(report)?).with_context(|| format!("{} cannot be written", path.display()))
}

fn to_json(report: &Report) -> Result<String> {
    let rows: Vec<String> = report.results.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let linux = match &report.linux {
        Some(linux) => format!(",\n\"linux\": {}", to_json(linux)?.trim_end()),
        None => String::new(),
    };
    let meta = serde_json::to_string(&report.meta)?;
    Ok(format!("{{\"meta\": {meta},\n\"results\": [\n{}\n]{linux}}}\n", rows.join(",\n")))
}

/// Returns the path of the committed baseline.
pub fn baseline() -> PathBuf {
    root().join("bench/baseline.json")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Returns a report with rows of these medians.
    pub fn report(medians: &[(&str, u64)]) -> Report {
        let row = |&(name, median): &(&str, u64)| {
            format!(
                r#"{{"name": "{name}", "unit": "instructions", "count": 3, "min": {median}, "median": {median}, "p95": {median},
                   "p99": {median}, "p999": {median}, "max": {median}, "stddev": 0.5, "histogram": [[{median}, 3]]}}"#
            )
        };
        let rows: Vec<String> = medians.iter().map(row).collect();
        let text = format!(
            "aero> bench\n{{\"meta\": {{\"system\": \"Aerokernel\", \"accelerator\": \"tcg\", \"cpu\": \"x\", \"cpus\": 2, \
             \"clock_hz\": 1000000000, \"icount\": true, \"overhead\": 3, \"warm_up\": 50}}, \"results\": [\n{}\n]}}\naero> ",
            rows.join(",\n")
        );
        Report::find_in(&text).expect("it is a report")
    }

    #[test]
    fn a_report_is_found_in_output_and_survives_a_file() {
        let mut first = report(&[("empty", 0), ("mutex_uncontended", 10)]);
        first.linux = Some(Box::new(report(&[("pthread_mutex", 55)])));
        let again: Report = serde_json::from_str(&to_json(&first).unwrap()).unwrap();
        assert_eq!(again.results, first.results);
        assert_eq!(again.linux_row("mutex_uncontended").map(|row| row.median), Some(55));
        assert_eq!(again.linux_row("empty").map(|row| row.median), None);
        assert!(Report::find_in("the kernel crashed").is_err());
        assert!(Report::find_in("{\"meta\": {}, \"results\": []}").is_err());
    }
}
