//! What the runtime itself costs: fork and join of an empty task, and how long until another worker has stolen one; beside
//! them, what a thread for the task would cost.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Samples, cycles, pause, say};

use crate::parallel::join;
use crate::worker::{Worker, run_with};

/// Looks around before a worker sleeps, where it shall not.
const NEVER_SLEEPS: usize = usize::MAX;

/// Measures and prints.
pub fn run(workers: usize) {
    run_with(1, 0, |worker| fork_join(worker).report("fork-join"));
    threads().report("thread-spawn-join");
    if workers < 2 {
        return say!("latency steal and fork-join-stolen need 2 workers");
    }
    let (steal, whole) = run_with(2, NEVER_SLEEPS, |worker| stolen(worker, false));
    steal.report("steal-awake");
    whole.report("fork-join-stolen-awake");
    let (steal, whole) = run_with(2, 0, |worker| stolen(worker, true));
    steal.report("steal-asleep");
    whole.report("fork-join-stolen-asleep");
}

fn fork_join(worker: &Worker) -> Samples {
    let mut samples = Samples::new();
    for _ in 0..Samples::wanted() {
        let start = cycles();
        join(worker, |_| black_box(0), |_| black_box(0));
        samples.add(start, cycles());
    }
    samples
}

/// A thread instead of a task.
fn threads() -> Samples {
    let mut samples = Samples::new();
    for _ in 0..Samples::wanted() {
        let start = cycles();
        platform::spawn("empty", 0, || ()).join();
        samples.add(start, cycles());
    }
    samples
}

/// A fork whose task another worker takes, who sleeps before or looks around: until its first instruction there, and until
/// the join.
fn stolen(worker: &Worker, from_sleep: bool) -> (Samples, Samples) {
    let (mut steal, mut whole) = (Samples::new(), Samples::new());
    for _ in 0..Samples::wanted() {
        while from_sleep && worker.sleepers() == 0 {
            pause();
        }
        if from_sleep {
            // Announced is not yet asleep: give the other one time to be.
            (0..2000).for_each(|_| pause());
        }
        let began = AtomicU64::new(0);
        let start = cycles();
        join(
            worker,
            // Stays here until the other one has taken the task.
            |_| {
                while began.load(Ordering::Relaxed) == 0 {
                    pause();
                }
            },
            |_| began.store(cycles(), Ordering::Relaxed),
        );
        let end = cycles();
        steal.add(start, began.load(Ordering::Relaxed));
        whole.add(start, end);
    }
    (steal, whole)
}
