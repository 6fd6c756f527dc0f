//! Judges a run: finds rows that are worse than in an earlier run, above their limits, or below
//! what is possible.

use anyhow::{Result, ensure};

use super::measure::Report;
use super::reference;

/// How much worse than the baseline a median may be, in percent, and a share, in permille.
const TOLERANCE: u64 = 5;
const SHARE_TOLERANCE: u64 = 5;

/// Returns descriptions of the rows of `now` that are worse than in `before`.
///
/// # Errors
/// Fails for reports that cannot be compared: instructions with cycles, different numbers of CPUs,
/// different idle loops, or cycles of different machines.
pub fn regressions(now: &Report, before: &Report) -> Result<Vec<String>> {
    ensure!(
        now.meta.icount == before.meta.icount && now.meta.cpus == before.meta.cpus,
        "a run of {} CPUs that counts {} cannot be compared with a baseline of {} CPUs that counted {}",
        now.meta.cpus,
        unit(now),
        before.meta.cpus,
        unit(before)
    );
    ensure!(
        now.meta.idle_polls == before.meta.idle_polls,
        "a run with `--idle poll` and one without cannot be compared"
    );
    let machine = |report: &Report| format!("{}, accelerator {}", report.meta.cpu, report.meta.accelerator);
    ensure!(
        now.meta.icount || machine(now) == machine(before),
        "cycles of one machine ({}) cannot be compared with those of another ({})",
        machine(now),
        machine(before)
    );
    let worse = |row: &&report::Row| {
        let earlier = before.row(&row.name)?;
        if row.is_share() {
            return (row.median + SHARE_TOLERANCE < earlier.median)
                .then(|| format!("{}: {} of a thousand instead of {}", row.name, row.median, earlier.median));
        }
        let most = earlier.median + earlier.median * TOLERANCE / 100;
        let percent = 100.0 * (row.median as f64 / earlier.median.max(1) as f64 - 1.0);
        (row.median > most)
            .then(|| format!("{}: {} instead of {}, {percent:.0}% worse", row.name, row.median, earlier.median))
    };
    Ok(now.results.iter().filter_map(|row| worse(&row)).collect())
}

fn unit(report: &Report) -> &'static str {
    if report.meta.icount { "instructions" } else { "cycles" }
}

/// Returns descriptions of the rows of `before` that `now` lacks.
pub fn missing(now: &Report, before: &Report) -> Vec<String> {
    let gone = before.results.iter().filter(|row| now.row(&row.name).is_none());
    gone.map(|row| format!("{}: the baseline has it, this run does not", row.name)).collect()
}

/// Returns descriptions of the rows of `now` that `before` lacks.
pub fn unrecorded(now: &Report, before: &Report) -> Vec<String> {
    let new = now.results.iter().filter(|row| before.row(&row.name).is_none());
    new.map(|row| format!("{}: the baseline does not have it", row.name)).collect()
}

/// Returns descriptions of the rows without a reference, which nothing could judge.
pub fn unreferenced(now: &Report) -> Vec<String> {
    let unknown = now.results.iter().filter(|row| reference::find(&row.name).is_none());
    unknown.map(|row| format!("{}: host/cli/src/bench/reference.rs has no row for it", row.name)).collect()
}

/// Returns descriptions of the rows whose medians no code could reach, which means that the
/// benchmark does not do its work. Applies only to counted instructions.
pub fn impossible(now: &Report) -> Vec<String> {
    let too_low = now.results.iter().filter_map(|row| {
        let reference = reference::find(&row.name)?;
        (row.median < reference.floor).then(|| match row.is_share() {
            true => format!("{}: {} of a thousand, where it must be {}", row.name, row.median, reference.floor),
            false => format!(
                "{}: {} instructions, where the shortest way takes {} ({}): the benchmark does not do its work",
                row.name, row.median, reference.floor, reference.shortest
            ),
        })
    });
    if now.meta.icount { too_low.collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::report;
    use super::*;

    #[test]
    fn what_is_more_than_a_twentieth_worse_is_named() {
        let before = report(&[("a", 100), ("b", 100), ("c", 0), ("d", 10)]);
        let now = report(&[("a", 105), ("b", 106), ("c", 1), ("e", 10)]);
        let named = regressions(&now, &before).unwrap();
        assert_eq!(named.len(), 2, "{named:?}");
        assert!(named[0].starts_with("b: 106 instead of 100, 6%") && named[1].starts_with("c: 1"), "{named:?}");
        assert_eq!((missing(&now, &before).len(), unrecorded(&now, &before).len()), (1, 1));
    }

    #[test]
    fn a_row_without_a_reference_is_named() {
        let named = unreferenced(&report(&[("empty", 0), ("nobody_knows", 1)]));
        assert_eq!(named, ["nobody_knows: host/cli/src/bench/reference.rs has no row for it"]);
    }

    #[test]
    fn of_shares_less_is_worse() {
        let share = |median| {
            let mut report = report(&[("memory_usable_64", median)]);
            report.results[0].unit = report::PERMILLE.into();
            report
        };
        assert_eq!(regressions(&share(980), &share(960)).unwrap(), Vec::<String>::new());
        let worse = regressions(&share(960), &share(980)).unwrap();
        assert_eq!(worse, ["memory_usable_64: 960 of a thousand instead of 980"]);
        assert_eq!(impossible(&share(940)), ["memory_usable_64: 940 of a thousand, where it must be 950"]);
    }

    #[test]
    fn instructions_are_not_compared_with_cycles() {
        let before = report(&[("a", 100)]);
        let mut now = before.clone();
        now.meta.icount = false;
        assert!(regressions(&now, &before).is_err());
    }

    #[test]
    fn a_benchmark_without_its_body_is_found_out() {
        let hollow = report(&[("mutex_uncontended", 0), ("context_switch", 84), ("of no reference", 0)]);
        let named = impossible(&hollow);
        assert_eq!(named.len(), 1);
        assert!(named[0].contains("does not do its work"), "{named:?}");
    }
}
