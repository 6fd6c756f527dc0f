//! What runtimes are made of: fibers, tasks, groups, vector state.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::{Architecture, Machine};
use kernel::group::Group;
use kernel::lock::{InterruptGuard, SpinLock};
use kernel::task::{Place, Pool, Priority};
use kernel::thread::Builder;
use kernel::time::{Deadline, cycles};
use kernel::wait::Event;
use kernel::{cpu, fiber, trace};
use trace_format::Kind;

use crate::{Benchmark, REPETITIONS, Samples, WARM_UP};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "fiber-switch", about: "fiber to fiber by yield, one way", cpus: 1, run: fiber_switch },
    Benchmark { name: "fiber-create-run", about: "fiber made, run empty, joined", cpus: 1, run: fiber_create_run },
    Benchmark {
        name: "task",
        about: "from queueing a task to its first instruction, worker awake",
        cpus: 1,
        run: task,
    },
    Benchmark { name: "group-barrier", about: "barrier of a group on 2 CPUs", cpus: 2, run: group_barrier },
    Benchmark { name: "trace-event", about: "an event recorded by the tracer", cpus: 1, run: trace_event },
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

/// A chain of tasks on one worker: each notes when it began, and queues the next.
struct Chain {
    pool: Pool,
    cpu: usize,
    state: SpinLock<Option<Samples>>,
    done: Event,
}

/// Queues a task that notes when it began.
fn queue_link(chain: &'static Chain) {
    let start = cycles();
    let task = move || {
        let now = cycles();
        link(chain, start, now);
    };
    if chain.pool.queue(Place::Pinned(chain.cpu), Priority::Normal, task).is_err() {
        chain.done.signal();
    }
}

/// Not a part of the task's own code, whose first instruction is what counts.
#[inline(never)]
fn link(chain: &'static Chain, queued_at: u64, began_at: u64) {
    let complete = match chain.state.lock().as_mut() {
        Some(samples) => {
            samples.add(queued_at, began_at);
            samples.is_complete()
        }
        None => true,
    };
    if complete { chain.done.signal() } else { queue_link(chain) }
}

fn task() -> Result<Samples, String> {
    let pool = Pool::new().map_err(text)?;
    let state = SpinLock::new(Some(Samples::new()?));
    let chain = Chain { pool, cpu: cpu::this_index(), state, done: Event::new() };
    let chain: &'static Chain = Box::leak(Box::new(chain));
    queue_link(chain);
    let waited = chain.done.wait_until(Deadline::after(LIMIT)).map_err(text);
    let samples = chain.state.lock().take();
    waited?;
    // SAFETY: leaked above; the last task has signalled, and its worker needs only the pool's own shared part.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(chain).cast_mut()) });
    samples.filter(Samples::is_complete).ok_or_else(|| "the chain of tasks broke".into())
}

fn trace_event() -> Result<Samples, String> {
    let was_on = trace::is_on();
    trace::start().map_err(text)?;
    let interrupts = InterruptGuard::new();
    let samples = Samples::of(|| trace::event(Kind::Mark, 1, 2));
    drop(interrupts);
    let (kept, lost) = trace::counts();
    if !was_on {
        trace::stop();
    }
    if kept + lost < REPETITIONS {
        return Err("marks are not in the trace".into());
    }
    samples
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
