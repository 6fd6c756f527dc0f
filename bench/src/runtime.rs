//! What runtimes are made of: fibers, tasks, groups, vector state.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::{Architecture, Machine};
use kernel::group::Group;
use kernel::task::{Place, Pool, Priority};
use kernel::thread::Builder;
use kernel::time::{Deadline, cycles};
use kernel::wait::Event;
use kernel::{cpu, fiber};

use crate::{Benchmark, REPETITIONS, Samples, WARM_UP};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "fiber-switch", about: "fiber to fiber by yield, one way", cpus: 1, run: fiber_switch },
    Benchmark { name: "fiber-create-run", about: "fiber made, run empty, joined", cpus: 1, run: fiber_create_run },
    Benchmark { name: "task", about: "task queued and run by the worker's own loop", cpus: 1, run: task },
    Benchmark { name: "group-barrier", about: "barrier of a group on 2 CPUs", cpus: 2, run: group_barrier },
    Benchmark {
        name: "vectors",
        about: "what a preempted thread with vector state costs more",
        cpus: 1,
        run: || Samples::of(|| Machine::keep_vectors(nothing, 0)),
    },
];

extern "C" fn nothing(_: usize) {}

/// Longest wait for the other side before the benchmark counts as failed.
const LIMIT: Duration = Duration::from_secs(5);

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn fiber_switch() -> Result<Samples, String> {
    static LEFT_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let partner = fiber::create(|| {
        while !STOP.load(Ordering::Relaxed) {
            LEFT_AT.store(cycles(), Ordering::Relaxed);
            fiber::yield_now();
        }
    })
    .map_err(text)?;
    fiber::yield_now();
    let mut samples = Samples::new()?;
    while !samples.is_complete() {
        fiber::yield_now();
        let now = cycles();
        samples.add(LEFT_AT.load(Ordering::Relaxed), now);
    }
    STOP.store(true, Ordering::Relaxed);
    partner.join();
    Ok(samples)
}

fn fiber_create_run() -> Result<Samples, String> {
    let mut ran = 0u64;
    let mut failed = false;
    let samples = Samples::of(|| match fiber::create(|| ran += 1) {
        Ok(fiber) => fiber.join(),
        Err(_) => failed = true,
    })?;
    if failed || ran < REPETITIONS as u64 {
        return Err("a fiber did not run".into());
    }
    Ok(samples)
}

fn task() -> Result<Samples, String> {
    static RAN: AtomicU64 = AtomicU64::new(0);
    RAN.store(0, Ordering::Relaxed);
    let pool = Arc::new(Pool::new().map_err(text)?);
    // In a task, so that the worker is awake and there is nobody to be woken.
    let done = Arc::new((Event::new(), kernel::lock::SpinLock::new(None)));
    let (theirs, inner) = (done.clone(), pool.clone());
    let here = cpu::this_index();
    let measure = move || {
        let samples = Samples::of(|| {
            let queued = inner.queue(Place::Pinned(here), Priority::Normal, || {
                RAN.fetch_add(1, Ordering::Relaxed);
            });
            if queued.is_ok() {
                inner.run_one();
            }
        });
        *theirs.1.lock() = Some(samples);
        theirs.0.signal();
    };
    pool.queue(Place::Pinned(here), Priority::Normal, measure).map_err(text)?;
    done.0.wait_until(Deadline::after(LIMIT)).map_err(text)?;
    let samples = done.1.lock().take().ok_or("no samples came")??;
    if RAN.load(Ordering::Relaxed) < REPETITIONS as u64 {
        return Err("a task did not run".into());
    }
    Ok(samples)
}

fn group_barrier() -> Result<Samples, String> {
    let group = Arc::new(Group::new(2).map_err(text)?);
    let theirs = group.clone();
    let other = (cpu::this_index() + 1) % cpu::limit();
    let rounds = REPETITIONS + WARM_UP;
    let partner = Builder::new("bench")
        .cpu(other)
        .spawn(move || (0..rounds).try_for_each(|_| theirs.barrier(Deadline::after(LIMIT)).map(drop)));
    let partner = partner.map_err(text)?;
    let mut samples = Samples::new()?;
    for _ in 0..rounds {
        let deadline = Deadline::after(LIMIT);
        let start = cycles();
        let met = group.barrier(deadline);
        samples.add(start, cycles());
        met.map_err(text)?;
    }
    partner.join().map_err(text)?.map_err(text)?;
    Ok(samples)
}
