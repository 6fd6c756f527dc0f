//! `aero bench hrt`: runs parallel programs on the Aerokernel and as Linux processes in the same
//! QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use build::project::root;
use build::{Image, Which};
use build::{Isa, program};
use machine::Settings;
use machine::linux;
use machine::script;
use machine::status;
use machine::{Accelerator, Clock};

/// The programs, directories in `examples/`.
const PROGRAMS: [&str; 3] = ["forkjoin", "bsp", "actors"];
/// Runs with counted instructions have one worker each; with more workers, waiting would count too.
const ALONE: [&str; 3] = ["forkjoin all 1", "bsp stencil 1", "actors all 1"];
const LATENCIES: [&str; 3] = ["forkjoin latencies 2", "bsp latencies 2", "actors latencies 2"];
/// Larger runs, for which time is measured.
const TIMED: [&str; 5] = [
    "forkjoin quicksort:1000000",
    "forkjoin queens:12",
    "forkjoin gradient:24",
    "forkjoin bodies:512",
    "bsp stencil:512",
];
/// Number of runs of each timed program; the fastest counts.
const REPEATS: usize = 3;
/// Time limit for a machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Parsed output of a system.
#[derive(Default)]
struct Printed {
    results: BTreeMap<String, String>,
    /// The least cycles, by program and number of workers.
    took: BTreeMap<(String, usize), u64>,
    latencies: Vec<Latency>,
}

/// Latencies of one kind, in cycles.
#[derive(Clone, Serialize)]
struct Latency {
    name: String,
    count: u64,
    minimum: u64,
    median: u64,
    p95: u64,
    p99: u64,
    maximum: u64,
}

fn parse(output: &str) -> Printed {
    let mut printed = Printed::default();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["result", name, value] => {
                printed.results.insert(name.into(), value.into());
            }
            ["took", name, "workers", workers, "cycles", cycles] => {
                if let (Ok(workers), Ok(cycles)) = (workers.parse(), cycles.parse::<u64>()) {
                    let least = printed.took.entry((name.into(), workers)).or_insert(u64::MAX);
                    *least = cycles.min(*least);
                }
            }
            ["latency", name, ref figures @ ..] => {
                let figures: Vec<u64> = figures.iter().filter_map(|figure| figure.parse().ok()).collect();
                if let [count, minimum, median, p95, p99, maximum] = figures[..] {
                    printed.latencies.push(Latency { name: name.into(), count, minimum, median, p95, p99, maximum });
                }
            }
            _ => {}
        }
    }
    printed
}

/// Both systems, prepared to run the programs.
struct Systems {
    image: Image,
    linux: PathBuf,
    programs: Vec<PathBuf>,
    cpus: u32,
}

impl Systems {
    fn prepare(cpus: u32, kernel: Option<&Path>) -> Result<Self> {
        let linux = linux::kernel(kernel)?;
        let directories: Vec<PathBuf> = PROGRAMS.iter().map(|name| root().join("examples").join(name)).collect();
        let image = program::build(Which::X64, &directories, Isa::default())?;
        let programs = PROGRAMS.iter().zip(&directories);
        let programs = programs.map(|(name, directory)| linux::build(&directory.join("Cargo.toml"), name));
        Ok(Self { image, linux, programs: programs.collect::<Result<_>>()?, cpus })
    }

    fn ours(&self, commands: &[String], clock: Clock) -> Result<Printed> {
        let settings = Settings { cpus: self.cpus, clock, ..Settings::for_commands(LIMIT) };
        let script: Vec<String> = commands.iter().map(|command| format!("run {command}")).collect();
        let mut output = Vec::new();
        let outcome = script::run(&self.image, &settings, &script.join("; "), &mut output)?;
        let output = String::from_utf8_lossy(&output);
        if outcome.status != status::DONE {
            bail!("the programs did not run on the Aerokernel:\n{output}{}", outcome.report);
        }
        Ok(parse(&output))
    }

    fn linux(&self, commands: &[String], clock: Clock) -> Result<Printed> {
        let commands: Vec<String> = commands.iter().map(|command| format!("/{command}")).collect();
        let machine = linux::Settings {
            kernel: &self.linux,
            cpus: self.cpus,
            accelerator: Accelerator::Tcg,
            clock,
            words: "",
            limit: LIMIT,
        };
        Ok(parse(&machine.execute(linux::file_system_with(&self.programs, &commands)?)?))
    }

    fn both(&self, commands: &[String], clock: Clock) -> Result<(Printed, Printed)> {
        let (ours, linux) = (self.ours(commands, clock)?, self.linux(commands, clock)?);
        ensure!(!ours.results.is_empty() || !ours.latencies.is_empty(), "the programs printed no figures");
        for (name, value) in &ours.results {
            let theirs = linux.results.get(name).with_context(|| format!("{name} did not run on Linux"))?;
            ensure!(value == theirs, "{name} is {value} on the Aerokernel and {theirs} on Linux");
        }
        Ok((ours, linux))
    }
}

/// All figures, in the form that `--json` writes.
#[derive(Serialize)]
struct Report {
    instructions: Vec<Work>,
    latencies: Vec<Pair>,
    speedups: Vec<SpeedUp>,
}

/// Instructions of a program with one worker.
#[derive(Serialize)]
struct Work {
    name: String,
    ours: u64,
    linux: Option<u64>,
}

#[derive(Serialize)]
struct Pair {
    ours: Latency,
    linux: Option<Latency>,
}

/// Speed-up of a program with several workers over one worker.
#[derive(Serialize)]
struct SpeedUp {
    name: String,
    workers: usize,
    ours: f64,
    linux: f64,
}

/// Runs `aero bench hrt`.
pub fn run(cpus: u32, kernel: Option<&Path>, json: Option<&Path>) -> Result<u8> {
    ensure!(cpus >= 2, "programs are compared on at least 2 CPUs");
    let systems = Systems::prepare(cpus, kernel)?;
    let alone: Vec<String> = ALONE.iter().chain(&LATENCIES).map(|command| (*command).into()).collect();
    let (ours, linux) = systems.both(&alone, Clock::Instructions)?;
    let instructions = ours.took.iter().map(|(key, &cycles)| Work {
        name: key.0.clone(),
        ours: cycles,
        linux: linux.took.get(key).copied(),
    });
    let latencies = ours.latencies.iter().map(|latency| Pair {
        ours: latency.clone(),
        linux: linux.latencies.iter().find(|other| other.name == latency.name).cloned(),
    });
    let mut report =
        Report { instructions: instructions.collect(), latencies: latencies.collect(), speedups: Vec::new() };
    println!(
        "guest instructions, one worker (QEMU TCG, -icount shift=0,sleep=off, -cpu max,-erms); results equal on both\n\
         {:<24} {:>14} {:>14} {:>7}",
        "program", "Aerokernel", "Linux", "ratio"
    );
    for work in &report.instructions {
        let (linux, ratio) = work.linux.map_or(("-".into(), String::new()), |linux| {
            (linux.to_string(), format!("{:.2}", linux as f64 / work.ours as f64))
        });
        println!("{:<24} {:>14} {linux:>14} {ratio:>7}", work.name, work.ours);
    }
    print_latencies(&report.latencies);
    let timed: Vec<String> = (1..=systems.cpus)
        .flat_map(|workers| TIMED.map(|program| format!("{program} {workers}")))
        .flat_map(|command| std::iter::repeat_n(command, REPEATS))
        .collect();
    let (ours, linux) = systems.both(&timed, Clock::Real)?;
    report.speedups = speedups(&ours, &linux);
    println!(
        "\nspeed-up by time over one worker (QEMU TCG, a host thread for each CPU; the fastest of {REPEATS} runs)\n\
         {:<24} {:>8} {:>12} {:>12}",
        "program", "workers", "Aerokernel", "Linux"
    );
    for row in &report.speedups {
        println!("{:<24} {:>8} {:>12.2} {:>12.2}", row.name, row.workers, row.ours, row.linux);
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(status::DONE)
}

/// Summary of a comparison.
pub struct Compared {
    /// Number of results, all equal on both systems.
    pub results: usize,
    /// Number of latencies that both systems measured.
    pub latencies: usize,
}

/// Runs commands on both systems with counted instructions.
///
/// # Errors
/// Fails if a command does not run or its results differ.
pub fn compare(cpus: u32, kernel: &Path, commands: &[&str]) -> Result<Compared> {
    let commands: Vec<String> = commands.iter().map(|command| (*command).into()).collect();
    let (ours, linux) = Systems::prepare(cpus, Some(kernel))?.both(&commands, Clock::Instructions)?;
    let has = |latency: &&Latency| linux.latencies.iter().any(|other| other.name == latency.name);
    Ok(Compared { results: ours.results.len(), latencies: ours.latencies.iter().filter(has).count() })
}

fn print_latencies(pairs: &[Pair]) {
    println!(
        "\nguest instructions between events, as above, on 2 CPUs\n{:<26} {:<11} {:>8} {:>8} {:>8} {:>8} {:>10} {:>7}",
        "latency", "", "min", "median", "p95", "p99", "max", "ratio"
    );
    for pair in pairs {
        let row = |name: &str, system: &str, latency: &Latency, ratio: &str| {
            println!(
                "{name:<26} {system:<11} {:>8} {:>8} {:>8} {:>8} {:>10} {ratio:>7}",
                latency.minimum, latency.median, latency.p95, latency.p99, latency.maximum
            );
        };
        row(&pair.ours.name, "Aerokernel", &pair.ours, "");
        if let Some(linux) = &pair.linux {
            let ratio = linux.median as f64 / pair.ours.median.max(1) as f64;
            row("", "Linux", linux, &format!("{ratio:.1}"));
        }
    }
}

fn speedups(ours: &Printed, linux: &Printed) -> Vec<SpeedUp> {
    let factor = |printed: &Printed, name: &str, workers| {
        let cycles = |workers| printed.took.get(&(name.to_string(), workers)).copied();
        Some(cycles(1)? as f64 / cycles(workers)? as f64)
    };
    let more = ours.took.keys().filter(|(_, workers)| *workers > 1);
    more.filter_map(|(name, workers)| {
        let (ours, linux) = (factor(ours, name, *workers)?, factor(linux, name, *workers)?);
        Some(SpeedUp { name: name.clone(), workers: *workers, ours, linux })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_print_is_understood() {
        let printed = parse(
            "result queens:9 0160\ntook queens:9 workers 1 cycles 100\ntook queens:9 workers 1 cycles 90\n\
             took queens:9 workers 2 cycles 60\nlatency barrier 1000 1 2 3 4 5\nlatency steal needs 2 workers\n",
        );
        assert_eq!(printed.results["queens:9"], "0160");
        assert_eq!(printed.took[&("queens:9".into(), 1)], 90);
        assert_eq!((printed.latencies.len(), printed.latencies[0].p99), (1, 4));
        let ratios = speedups(&printed, &printed);
        assert_eq!((ratios.len(), ratios[0].ours), (1, 1.5));
    }
}
