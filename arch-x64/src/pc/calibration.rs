//! Measures how far the TSC and the local APIC timer advance while a reference clock runs.
//!
//! The clocks are read one after the other, and a hypervisor, an emulator's host or the firmware
//! may take the CPU away in between for any time. Each reading therefore records how long it took,
//! and a run with uncertain ends is repeated.

/// Length of a run in ms: long enough for 0.01% (10,739 ticks of the PM timer), short enough for a
/// quick boot.
const LENGTH_MS: u64 = 3;
/// Polls until the reference counts as stopped.
const POLLS: u32 = 1_000_000;
/// Maximum number of runs, of which the best is taken if none is good.
const RUNS: u32 = 20;
/// A run is good if the uncertainty of its ends is at most one part in this many of its length.
const DOUBT: u64 = 200;

/// One reading of all clocks, taken one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The TSC before the others were read.
    pub before: u64,
    /// The reference clock, counting up.
    pub reference: u64,
    /// The APIC timer, counting down to 0, where it stops.
    pub apic: u32,
    /// The TSC after the others were read.
    pub after: u64,
}

/// A clock of a known rate.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Rate in Hz.
    pub hz: u64,
    /// Mask of the bits that count.
    pub mask: u64,
}

/// Elapsed counts of the three clocks.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Ticks of the reference.
    pub reference_ticks: u64,
    /// Cycles of the TSC.
    pub cycles: u64,
    /// Ticks of the APIC timer.
    pub apic_ticks: u64,
    /// Cycles by which the other two counts may be wrong in total.
    doubt: u64,
}

impl Run {
    fn is_good(&self) -> bool {
        self.doubt <= self.cycles / DOUBT
    }

    /// True if this run is relatively more certain than another.
    fn is_better_than(&self, other: &Self) -> bool {
        u128::from(self.doubt) * u128::from(other.cycles) < u128::from(other.doubt) * u128::from(self.cycles)
    }
}

/// Repeats runs until one is good; takes the best of 20 if none is. `start` starts the APIC timer
/// from its largest count, and `read` reads the clocks. `None` if the reference does not run.
pub fn measure(reference: Reference, mut start: impl FnMut(), mut read: impl FnMut() -> Reading) -> Option<Run> {
    let mut best: Option<Run> = None;
    for _ in 0..RUNS {
        start();
        let run = run(reference, &mut read)?;
        if best.is_none_or(|best| run.is_better_than(&best)) {
            best = Some(run);
        }
        if run.is_good() {
            break;
        }
    }
    best
}

fn run(reference: Reference, read: &mut impl FnMut() -> Reading) -> Option<Run> {
    let since = |from: &Reading, to: &Reading| to.reference.wrapping_sub(from.reference) & reference.mask;
    let (first, doubt_at_start) = next_tick(read)?;
    let (mut previous, mut longest_pause) = (first, 0);
    (0..POLLS).find(|_| {
        let now = read();
        longest_pause = longest_pause.max(now.after - previous.after);
        previous = now;
        since(&first, &now) >= reference.hz * LENGTH_MS / 1000
    })?;
    let (last, doubt_at_end) = next_tick(read)?;
    let cycles = last.after - first.after;
    // During so long a pause the reference may have wrapped and the APIC timer may have expired.
    let is_useless = longest_pause > cycles / 2 || last.apic == 0;
    Some(Run {
        reference_ticks: since(&first, &last),
        cycles,
        apic_ticks: u64::from(first.apic.wrapping_sub(last.apic)),
        doubt: if is_useless { u64::MAX } else { doubt_at_start + doubt_at_end },
    })
}

/// Returns the first reading after a tick of the reference, and the maximum age of that tick in
/// cycles.
fn next_tick(read: &mut impl FnMut() -> Reading) -> Option<(Reading, u64)> {
    let mut previous = read();
    for _ in 0..POLLS {
        let now = read();
        if now.reference != previous.reference {
            return Some((now, now.after - previous.before));
        }
        previous = now;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CYCLE_HZ: u64 = 2_500_000_000;
    const APIC_HZ: u64 = 1_000_000_000;
    const PM_TIMER: Reference = Reference { hz: 3_579_545, mask: 0xff_ffff };

    /// Simulates clocks whose readings take 300 ns each, except for one that takes longer.
    fn run_with_stall(at: u64, nanoseconds: u64) -> Run {
        let (now, reads, started) =
            (core::cell::Cell::new(4_600_000_000u64), core::cell::Cell::new(0), core::cell::Cell::new(0));
        let pass = || {
            reads.set(reads.get() + 1);
            now.set(now.get() + if reads.get() == at { nanoseconds } else { 300 });
            now.get()
        };
        let count = |nanoseconds: u64, hz: u64| (u128::from(nanoseconds) * u128::from(hz) / 1_000_000_000) as u64;
        let run = measure(
            PM_TIMER,
            || started.set(now.get()),
            || Reading {
                before: count(pass(), CYCLE_HZ),
                reference: count(pass(), PM_TIMER.hz) & PM_TIMER.mask,
                apic: u32::MAX - count(pass() - started.get(), APIC_HZ).min(u64::from(u32::MAX)) as u32,
                after: count(pass(), CYCLE_HZ),
            },
        );
        run.expect("the reference runs")
    }

    fn assert_right(run: &Run, what: &str) {
        let hertz = |ticks: u64| ticks as f64 * PM_TIMER.hz as f64 / run.reference_ticks as f64;
        for (measured, wanted) in [(hertz(run.cycles), CYCLE_HZ), (hertz(run.apic_ticks), APIC_HZ)] {
            let error = (measured / wanted as f64 - 1.0).abs();
            assert!(error < 0.005, "{what}: {measured} Hz instead of {wanted}: {run:?}");
        }
    }

    #[test]
    fn a_machine_that_stands_still_at_any_moment_changes_nothing() {
        // A run has some 10,000 readings. Cover the stalls near both of its ends densely.
        let moments = (1..=60).chain((9_900..10_200).step_by(1)).chain((1..10_000).step_by(97));
        for at in moments {
            for nanoseconds in [20_000, 500_000, 50_000_000, 4_500_000_000, 7_000_000_000] {
                let run = run_with_stall(at, nanoseconds);
                assert_right(&run, &format!("{nanoseconds} ns at reading {at}"));
            }
        }
    }

    #[test]
    fn a_reference_that_stands_still_is_none() {
        let mut cycles = 0;
        let read = || {
            cycles += 100;
            Reading { before: cycles, reference: 5, apic: 5, after: cycles + 50 }
        };
        assert!(measure(PM_TIMER, || (), read).is_none());
    }
}
