//! The runtime's own cost: fork and join of an empty task, and the time until another worker has
//! stolen one; for comparison, the cost of a thread for the task.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Samples, cycles, pause, say};

use crate::parallel::join;
use crate::worker::{Worker, run_with};

/// Number of searches before a worker sleeps: never.
const NEVER_SLEEPS: usize = usize::MAX;

/// Measures the latencies and prints them.
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

/// Times a thread in place of a task.
fn threads() -> Samples {
    let mut samples = Samples::new();
    for _ in 0..Samples::wanted() {
        let start = cycles();
        platform::spawn("empty", 0, || ()).join();
        samples.add(start, cycles());
    }
    samples
}

/// Times a fork whose task another worker steals, either asleep or searching for work: until the
/// task's first instruction there, and until the join.
fn stolen(worker: &Worker, from_sleep: bool) -> (Samples, Samples) {
    let (mut steal, mut whole) = (Samples::new(), Samples::new());
    for _ in 0..Samples::wanted() {
        while from_sleep && worker.sleepers() == 0 {
            pause();
        }
        if from_sleep {
            // A worker is announced as a sleeper before it sleeps; give it time to do so.
            (0..2000).for_each(|_| pause());
        }
        let began = AtomicU64::new(0);
        let start = cycles();
        join(
            worker,
            // Occupies this worker until the other one has started the task.
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
