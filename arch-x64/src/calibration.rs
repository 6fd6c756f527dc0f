//! What elapses on the TSC and the local APIC timer while a reference clock runs.
//!
//! The clocks are read one after the other, and a hypervisor, an emulator's host or firmware may take the CPU away in between
//! for any time. So each reading says how long it took, and a run whose ends are in doubt is made again.

/// Length of a run: long enough for 0.01% (PM timer: 10,739 ticks), short enough for a quick boot.
const LENGTH_MS: u64 = 3;
/// Polls before the reference counts as stopped.
const POLLS: u32 = 1_000_000;
/// Runs before the best of them is taken.
const RUNS: u32 = 20;
/// A run is good if the doubt about its ends is at most this part of it.
const DOUBT: u64 = 200;

/// All clocks, read one after the other.
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
    /// Its rate.
    pub hz: u64,
    /// The bits it counts with.
    pub mask: u64,
}

/// What elapsed on the three clocks.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// On the reference.
    pub reference_ticks: u64,
    /// On the TSC.
    pub cycles: u64,
    /// On the APIC timer.
    pub apic_ticks: u64,
    /// Cycles by which the others may be wrong, together.
    doubt: u64,
}

impl Run {
    fn is_good(&self) -> bool {
        self.doubt <= self.cycles / DOUBT
    }

    /// True if it is relatively more certain than another.
    fn is_better_than(&self, other: &Self) -> bool {
        u128::from(self.doubt) * u128::from(other.cycles) < u128::from(other.doubt) * u128::from(self.cycles)
    }
}

/// Makes runs until one is good; the best of 20 if none is. `start` starts the APIC timer from its largest count, `read` reads
/// the clocks. `None` if the reference does not run.
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
    // In so long a pause the reference may have come round, and the APIC timer to its end.
    let is_useless = longest_pause > cycles / 2 || last.apic == 0;
    Some(Run {
        reference_ticks: since(&first, &last),
        cycles,
        apic_ticks: u64::from(first.apic.wrapping_sub(last.apic)),
        doubt: if is_useless { u64::MAX } else { doubt_at_start + doubt_at_end },
    })
}

/// The first reading after a tick of the reference, and how many cycles ago that may have been.
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

    /// Clocks whose readings take 300 ns each, and one of them longer.
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
        // A run has some 10,000 readings; where it stands still longer than both ends of it, near those ends.
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
