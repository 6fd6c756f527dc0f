//! The part of docs/PERFORMANCE.md that is generated from the baseline.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use report::Row;

use super::measure::{self, Report};
use super::reference;
use super::table::{self, grouped, ratio};
use build::project::root;

/// Markers around the generated part.
const BEGIN: &str = "<!-- Generated from bench/baseline.json by `./aero bench --record`; a test compares. -->\n";
const END: &str = "<!-- End of the generated part. -->\n";

fn path() -> PathBuf {
    root().join("docs/PERFORMANCE.md")
}

/// Returns the path of the picture of the distributions that the document shows.
pub fn picture() -> PathBuf {
    root().join("docs/latencies.svg")
}

/// Writes the baseline's figures into the document.
pub fn update() -> Result<()> {
    let text = fs::read_to_string(path()).context("docs/PERFORMANCE.md cannot be read")?;
    let report = measure::read(&measure::baseline())?;
    fs::write(path(), with_figures(&text, &report)?).context("docs/PERFORMANCE.md cannot be written")
}

/// Returns the document with a report's figures in its generated part.
fn with_figures(text: &str, report: &Report) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("docs/PERFORMANCE.md has no generated part")?;
    let (_, after) = rest.split_once(END).context("docs/PERFORMANCE.md has no end of the generated part")?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", figures(report)?))
}

fn figures(report: &Report) -> Result<String> {
    let mut text = String::from("![Latencies of primitives on both systems](latencies.svg)\n\n");
    let dash = || "-".to_string();
    for meta in std::iter::once(&report.meta).chain(report.linux.as_ref().map(|linux| &linux.meta)) {
        writeln!(text, "- {}", table::heading(meta))?;
    }
    writeln!(
        text,
        "\n| benchmark | what | median | p99 | max | at most | Linux | p99 | Linux / ours | Nautilus / ours |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
    for row in &report.results {
        let known = reference::find(&row.name).with_context(|| format!("nothing is known of {}", row.name))?;
        let linux = report.linux_row(&row.name);
        writeln!(
            text,
            "| {} | {} | **{}** | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.about,
            grouped(row.median),
            grouped(row.p99),
            grouped(row.max),
            known.at_most.map_or_else(dash, grouped),
            linux.map_or_else(dash, |linux| format!("{} ({})", grouped(linux.median), linux.name)),
            linux.map_or_else(dash, |linux| grouped(linux.p99)),
            linux.map_or_else(dash, |linux| ratio(linux.median, row.median)),
            known.nautilus.map_or_else(dash, |nautilus| ratio(nautilus, row.median)),
        )?;
    }
    if let Some(linux) = &report.linux {
        let only = linux
            .results
            .iter()
            .filter(|row| !reference::REFERENCES.iter().any(|reference| reference.linux == Some(row.name.as_str())));
        let only: Vec<String> = only.map(|row| format!("{} {}", row.name, grouped(row.median))).collect();
        writeln!(text, "\nMeasured on Linux only: {}.", only.join(", "))?;
    }
    writeln!(text, "\n### Means, where they say more than medians\n")?;
    writeln!(text, "Rows of which at least one in twenty takes twice as long as the median.\n")?;
    writeln!(text, "| benchmark | median | p95 | mean | Linux's mean | Linux / ours |\n|---|---|---|---|---|---|")?;
    for row in report.results.iter().filter(|row| row.p95 >= 2 * row.median && row.p95 > 0) {
        let (mean, linux) = (row.mean.thousandths, report.linux_row(&row.name).map(|row| row.mean.thousandths));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            grouped(row.median),
            grouped(row.p95),
            grouped(mean / 1000),
            linux.map_or_else(dash, |linux| grouped(linux / 1000)),
            linux.map_or_else(dash, |linux| ratio(linux, mean)),
        )?;
    }
    writeln!(text, "\n### How far from the floor\n")?;
    writeln!(
        text,
        "The shortest sequence of instructions that could do the job, and where ours go (`./aero bench --profile NAME`) if they are more than twice as many.\n"
    )?;
    writeln!(text, "| benchmark | floor | ours | ours / floor | the shortest way | where ours go |")?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for row in report.results.iter().filter(|row| !row.is_share()) {
        let Some(known) = reference::find(&row.name) else { continue };
        let rest = if row.median > 2 * known.floor { known.rest } else { "" };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {rest} |",
            row.name,
            grouped(known.floor),
            grouped(row.median),
            ratio(row.median, known.floor),
            known.shortest,
        )?;
    }
    writeln!(text, "\n### Less than ten times below Linux, or twice below Nautilus\n")?;
    for row in report.results.iter().filter(|row| is_close(report, row)) {
        let known = reference::find(&row.name).map_or("", |known| known.close);
        writeln!(text, "- **{}**: {known}.", row.name)?;
    }
    Ok(text)
}

/// Returns true for a duration that is not ten times below Linux's or not twice below Nautilus's.
fn is_close(report: &Report, row: &Row) -> bool {
    if row.is_share() {
        return false;
    }
    let linux = report.linux_row(&row.name).is_some_and(|linux| linux.median < 10 * row.median);
    let nautilus = reference::find(&row.name).and_then(|known| known.nautilus);
    linux || nautilus.is_some_and(|nautilus| nautilus < 2 * row.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_baselines_figures() {
        let text = fs::read_to_string(path()).unwrap();
        let report = measure::read(&measure::baseline()).unwrap();
        let current = with_figures(&text, &report).unwrap();
        assert!(text == current, "docs/PERFORMANCE.md is not what bench/baseline.json gives; `./aero bench --record`");
    }

    #[test]
    fn whatever_is_far_from_its_floor_is_explained() {
        let report = measure::read(&measure::baseline()).unwrap();
        for row in &report.results {
            let known = reference::find(&row.name).unwrap_or_else(|| panic!("nothing is known of {}", row.name));
            assert!(row.median <= 2 * known.floor || !known.rest.is_empty(), "{} is not explained", row.name);
            assert!(known.at_most.is_none_or(|most| row.median <= most), "{} is above its limit", row.name);
            assert!(!is_close(&report, row) || !known.close.is_empty(), "{} is not explained", row.name);
        }
    }

    #[test]
    fn what_one_cpu_does_alone_takes_about_as_long_each_time() {
        let report = measure::read(&measure::baseline()).unwrap();
        let takes_others = ["remote", "_contended", "barrier", "broadcast", "round_trip"];
        for row in report.results.iter().filter(|row| !takes_others.iter().any(|word| row.name.contains(word))) {
            assert!(row.max <= 3 * row.median, "{}: at most {}, half of them {}", row.name, row.max, row.median);
        }
    }
}
