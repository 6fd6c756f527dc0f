//! `aero bench`: the kernel's own benchmarks under an instruction-counting QEMU, beside Linux, Nautilus and the limits.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::bench_hrt;
use crate::boot::{self, run_script};
use crate::hrt::Isa;
use crate::image::{self, Which};
use crate::qemu::Accelerator;
use crate::status;

/// Options of `aero bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Benchmarks whose names begin so; all if none is given. `hrt`: parallel programs, beside themselves as Linux processes
    names: Vec<String>,
    /// Number of CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// Write the figures to a file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The Linux kernel to compare with, a bzImage; Debian's cloud kernel, fetched by apt-get, if none is given
    #[arg(long, value_name = "FILE")]
    linux: Option<PathBuf>,
}

/// What others need, and what ours may at most, in guest instructions. Linux 6.1 and Nautilus were measured under the
/// same emulator; `docs/PERFORMANCE.md` says how.
struct Reference {
    name: &'static str,
    linux: Option<u64>,
    nautilus: Option<u64>,
    at_most: u64,
}

const fn reference(name: &'static str, linux: Option<u64>, nautilus: Option<u64>, at_most: u64) -> Reference {
    Reference { name, linux, nautilus, at_most }
}

const REFERENCES: [Reference; 25] = [
    reference("mutex", Some(62), None, 16),
    reference("semaphore", None, Some(131), 20),
    reference("allocate-64", Some(132), Some(692), 60),
    reference("allocate-4096", Some(283), Some(589), 80),
    reference("interrupt", None, Some(218), 90),
    reference("timer-set", None, Some(145), 120),
    reference("timer-cancel", None, Some(81), 60),
    reference("timer-lateness", Some(3_458), None, 300),
    reference("spawn", Some(13_042), Some(2_651), 400),
    reference("spawn-cold", None, Some(128_709), 3_000),
    reference("spawn-join", Some(37_926), Some(4_218), 900),
    reference("spawn-join-other", None, Some(6_499), 1_400),
    reference("yield", Some(1_626), Some(581), 90),
    reference("migrate", Some(22_370), None, 1_200),
    reference("event", Some(2_968), Some(830), 180),
    reference("event-other", Some(3_768), None, 450),
    reference("condition", Some(3_186), Some(884), 200),
    reference("ipi", Some(1_475), Some(490), 250),
    reference("call", None, Some(509), 260),
    reference("fiber-switch", None, None, 30),
    reference("fiber-create-run", None, None, 250),
    reference("task", None, None, 80),
    reference("group-barrier", None, None, 250),
    reference("trace-event", None, None, 30),
    reference("vectors", None, None, 250),
];

#[derive(Serialize)]
struct Row {
    name: String,
    median: u64,
    p99: u64,
    minimum: u64,
    maximum: u64,
    linux: Option<u64>,
    nautilus: Option<u64>,
    at_most: Option<u64>,
}

/// Runs `aero bench`.
pub fn run(options: &Options) -> Result<u8> {
    if options.names == ["hrt"] {
        return bench_hrt::run(options.cpus, options.linux.as_deref(), options.json.as_deref());
    }
    let image = image::build(Which::X64)?;
    let boot = boot::Options {
        cpus: options.cpus,
        mem: "256M".into(),
        accel: Accelerator::Tcg,
        iso: false,
        run: Some(String::new()),
        timeout: Some(300),
        append: String::new(),
        hrt: Vec::new(),
        isa: Isa::default(),
        trace: None,
        icount: true,
        qemu: Vec::new(),
    };
    let mut output = Vec::new();
    let script = format!("uptime; bench {}", options.names.join(" "));
    let outcome = run_script(&image, &boot, &script, &mut output)?;
    let output = String::from_utf8_lossy(&output);
    if outcome.status != status::DONE {
        bail!("the benchmarks did not run:\n{output}{}", outcome.report);
    }
    let rows: Vec<Row> = output.lines().filter_map(parse_row).collect();
    if rows.is_empty() {
        bail!("the benchmarks printed no figures:\n{output}");
    }
    println!(
        "guest instructions (QEMU TCG, -icount shift=0,sleep=off, -cpu max,-erms, {} CPUs), 1,000 times each",
        options.cpus
    );
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "benchmark", "median", "p99", "max", "at most", "Linux", "Nautilus"
    );
    for row in &rows {
        let figure = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let mark = match row.at_most {
            Some(limit) if row.median > limit => "  over its limit",
            Some(_) if 2 * row.p99 > 3 * row.median => "  p99 over 1.5 times the median",
            _ => "",
        };
        println!(
            "{:<18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}{mark}",
            row.name,
            row.median,
            row.p99,
            row.maximum,
            figure(row.at_most),
            figure(row.linux),
            figure(row.nautilus)
        );
    }
    if let Some(line) = output.lines().find(|line| line.starts_with("up ")) {
        println!("boot: {line} (a microsecond is a thousand instructions)");
    }
    println!("image: {} bytes", fs::metadata(&image.boot)?.len());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(status::DONE)
}

/// A line of the kernel's table: name, median, p99, minimum, maximum, text.
fn parse_row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_string();
    let mut number = || words.next()?.parse().ok();
    let (median, p99, minimum, maximum) = (number()?, number()?, number()?, number()?);
    let known = REFERENCES.iter().find(|reference| reference.name == name);
    Some(Row {
        median,
        p99,
        minimum,
        maximum,
        linux: known.and_then(|reference| reference.linux),
        nautilus: known.and_then(|reference| reference.nautilus),
        at_most: known.map(|reference| reference.at_most),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let row = parse_row("mutex                         9       10        8       11  mutex lock").unwrap();
        assert_eq!((row.median, row.p99, row.minimum, row.maximum, row.linux), (9, 10, 8, 11, Some(62)));
        assert!(parse_row("benchmark   median   p99   min  max  cycles").is_none());
        assert!(parse_row("call                   needs 2 CPUs").is_none());
    }
}
