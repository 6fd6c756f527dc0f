//! The building blocks of runtimes: fibers, tasks, trace events.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::fiber::{Fiber, Fibers};
use kernel::lock::{InterruptGuard, SpinLock};
use kernel::task::{Place, Pool, Priority};
use kernel::wait::Event;
use kernel::{cpu, trace};
use report::Samples;
use wire::trace::EventKind;

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, cycles, deadline, text, work};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "fiber_switch", about: "fiber to fiber by yield, one way", cpus: 1, run: fiber_switch },
    Benchmark { name: "fiber_create_run", about: "fiber created, run empty, joined", cpus: 1, run: fiber_create_run },
    Benchmark {
        name: "task_queue_run",
        about: "from queueing a task to its first instruction, worker awake",
        cpus: 1,
        run: task,
    },
    Benchmark { name: "trace_event", about: "an event recorded by the tracer", cpus: 1, run: trace_event },
];

fn fiber_switch(setting: &Setting<'_>) -> Outcome {
    static LEFT_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let fibers = Fibers::of_this_thread().ok_or("not a thread")?;
    let partner = fibers
        .create(move || {
            let mut switches = 0;
            while !STOP.load(Ordering::Relaxed) {
                LEFT_AT.store(cycles(), Ordering::Relaxed);
                fibers.yield_now();
                switches += 1;
            }
            switches
        })
        .map_err(text)?;
    fibers.yield_now();
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        work(|| fibers.yield_now());
        let now = cycles();
        samples.add(LEFT_AT.load(Ordering::Relaxed), now);
    }
    STOP.store(true, Ordering::Relaxed);
    let switches: usize = partner.join();
    check(switches >= samples.rounds(), "fewer switches happened than were measured")?;
    Ok(samples)
}

fn fiber_create_run(setting: &Setting<'_>) -> Outcome {
    let fibers = Fibers::of_this_thread().ok_or("not a thread")?;
    let mut number = 0usize;
    let samples = setting.repeat(
        || {
            number += 1;
            let inside = number;
            (number, fibers.create(move || inside).map(Fiber::join))
        },
        |(number, result)| result == Ok(number),
    )?;
    check(number == samples.rounds(), "a fiber did not run")?;
    Ok(samples)
}

/// A chain of tasks on one worker: each records when it began, and queues the next.
struct Chain {
    pool: Pool,
    cpu: usize,
    state: SpinLock<Option<Samples>>,
    done: Event,
}

/// Queues the next task of the chain.
fn queue_link(chain: &'static Chain) {
    let start = cycles();
    let task = move || {
        let now = cycles();
        link(chain, start, now);
    };
    let queued = work(|| chain.pool.queue(Place::Pinned(chain.cpu), Priority::Normal, task));
    if !matches!(queued, Some(Ok(()))) {
        chain.done.signal();
    }
}

/// Records a task's start and queues the next. Kept out of line, so that the task's first
/// instruction reads the counter.
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

fn task(setting: &Setting<'_>) -> Outcome {
    let pool = Pool::new().map_err(text)?;
    let state = SpinLock::new(Some(setting.samples()?));
    let chain = Chain { pool, cpu: cpu::this_index(), state, done: Event::new() };
    let chain: &'static Chain = Box::leak(Box::new(chain));
    queue_link(chain);
    let waited = chain.done.wait_until(deadline()).map_err(text);
    let samples = chain.state.lock().take();
    waited?;
    // SAFETY: the pointer comes from the box leaked above. The last task has signalled, and its
    // worker uses only the pool's shared part, which lives until dropping the pool has ended its
    // workers.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(chain).cast_mut()) });
    samples.filter(Samples::is_complete).ok_or_else(|| "the chain of tasks broke".into())
}

fn trace_event(setting: &Setting<'_>) -> Outcome {
    let was_on = trace::is_on();
    trace::start().map_err(text)?;
    let interrupts = InterruptGuard::new();
    let samples = setting.repeat_blindly(|| trace::event(EventKind::Mark, 1, 2));
    drop(interrupts);
    let (kept, lost) = trace::counts();
    if !was_on {
        trace::stop();
    }
    let samples = samples?;
    check(kept + lost >= samples.rounds(), "marks are not in the trace")?;
    Ok(samples)
}
