//! Prints results as a table for the terminal.

use std::io::{self, Write};

use super::measure::Report;
use super::reference;
use report::{Meta, Row};

/// Returns a line that names the unit of the figures and the machine, so that an emulator's figures
/// cannot be mistaken for hardware's.
pub fn heading(meta: &Meta) -> String {
    let Meta { system, accelerator, cpu, cpus, clock_hz, icount, warm_up, .. } = meta;
    let unit = match icount {
        true => "guest instructions (QEMU TCG, -icount shift=0,sleep=off, -cpu max,-erms), not time",
        false => "cycles",
    };
    let megahertz = (clock_hz + 500_000) / 1_000_000;
    let idle = meta.idle_words();
    format!(
        "{system}: {unit}; {cpus} CPUs{idle}, {cpu}, accelerator {accelerator}, clock {megahertz} MHz; {warm_up} times to warm up"
    )
}

/// Writes the table.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", heading(&report.meta))?;
    let Some(linux) = &report.linux else { return write_ours(report, out) };
    writeln!(out, "{}", heading(&linux.meta))?;
    writeln!(
        out,
        "{:<26} {:>7} {:>8} {:>8}   {:<30} {:>8} {:>8} {:>9} {:>7}",
        "benchmark", "median", "p99", "max", "on Linux", "median", "p99", "max", "ratio"
    )?;
    for row in &report.results {
        write!(out, "{:<26} {:>7} {:>8} {:>8}   ", row.name, row.median, row.p99, row.max)?;
        match report.linux_row(&row.name) {
            Some(other) => writeln!(
                out,
                "{:<30} {:>8} {:>8} {:>9} {:>7}",
                other.name,
                other.median,
                other.p99,
                other.max,
                if row.is_share() { "-".into() } else { ratio(other.median, row.median) }
            )?,
            None => writeln!(out, "nothing there does this")?,
        }
    }
    let is_ours = |row: &&Row| !reference::REFERENCES.iter().any(|reference| reference.linux == Some(&row.name));
    for row in linux.results.iter().filter(is_ours) {
        writeln!(
            out,
            "{:<53}   {:<30} {:>8} {:>8} {:>9}",
            "nothing here does this", row.name, row.median, row.p99, row.max
        )?;
    }
    Ok(())
}

fn write_ours(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<26} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9} {:>6} {:>7} {:>7} {:>8}",
        "benchmark", "min", "median", "p95", "p99", "p99.9", "max", "stddev", "times", "floor", "limit", "Nautilus"
    )?;
    for row in &report.results {
        // The references are instruction counts, so they do not apply to cycles.
        let known = reference::find(&row.name).filter(|_| report.meta.icount);
        let figure = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let limit = known.and_then(|known| known.at_most);
        let mark = match limit {
            Some(limit) if row.median > limit => "  over its limit",
            _ => "",
        };
        let stddev = row.stddev.to_string();
        writeln!(
            out,
            "{:<26} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {stddev:>9} {:>6} {:>7} {:>7} {:>8}{mark}",
            row.name,
            row.min,
            row.median,
            row.p95,
            row.p99,
            row.p999,
            row.max,
            row.count,
            figure(known.map(|known| known.floor)),
            figure(limit),
            figure(known.and_then(|known| known.nautilus)),
        )?;
    }
    Ok(())
}

/// Formats a number in groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// Formats `theirs` divided by `ours`, or `-` if `ours` is 0.
pub fn ratio(theirs: u64, ours: u64) -> String {
    match (theirs, ours) {
        (_, 0) => "-".into(),
        (theirs, ours) if theirs >= 10 * ours => format!("{:.0}", theirs as f64 / ours as f64),
        (theirs, ours) => format!("{:.1}", theirs as f64 / ours as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::report;
    use super::*;

    #[test]
    fn rows_without_a_counterpart_say_so() {
        let mut both = report(&[("mutex_uncontended", 10), ("trace_event", 29)]);
        both.linux = Some(Box::new(report(&[("pthread_mutex", 55), ("fork_exec_wait", 500_000)])));
        let mut text = Vec::new();
        write(&both, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("not time") && text.contains("accelerator tcg"), "{text}");
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap();
        assert!(line("mutex_uncontended").ends_with("5.5"), "{text}");
        assert!(line("trace_event").ends_with("nothing there does this"), "{text}");
        assert!(line("fork_exec_wait").starts_with("nothing here does this"), "{text}");
    }

    #[test]
    fn ratios() {
        assert_eq!((grouped(1), grouped(10_000)), ("1".into(), "10,000".into()));
        assert_eq!((ratio(55, 10), ratio(1000, 3), ratio(5, 0)), ("5.5".into(), "333".into(), "-".into()));
    }
}
