//! Scaling: the cost of operations on all of the machine's CPUs, with a growing number of threads.
//!
//! All CPUs do the same operation at once, repeatedly; the result is the cost of one operation on
//! one CPU. A counter of executed instructions covers all CPUs together, so its total is divided by
//! their number; a clock's time is not.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt::Write;
use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel::collective::Collective;
use kernel::cpu;
use kernel::memory::{self, Placement};
use kernel::thread::{self, Builder, JoinHandle};
use kernel::wait::{Event, Semaphore};
use report::{Row, Samples};

use crate::harness::Interrupted;
use crate::harness::{Outcome, Setting, check, cpu_after, cycles, deadline, finish, text, wait_until_blocked};
use crate::output::Rows;
use crate::{Alone, BenchError, Format, events, meta};

/// The smallest number of waiting threads.
pub const FEWEST_THREADS: usize = 10;
/// The numbers of waiting threads.
const THREADS: [usize; 5] = [FEWEST_THREADS, 100, 1_000, 10_000, 100_000];
/// Operations per CPU between two readings of the counter.
const OPERATIONS: usize = 500;
/// Number of samples.
const ROUNDS: usize = 5;
/// Number of broadcasts, each a sample of its own.
const BROADCASTS: usize = 50;
/// Stack size of a thread that only waits.
const STACK: usize = 4096;

/// An operation that every CPU performs; it returns false if it went wrong.
struct Operation {
    name: &'static str,
    run: fn(&State) -> bool,
}

/// A worker's own state on its CPU.
struct State {
    /// The event that a waiter on this CPU waits for.
    signal: Arc<Event>,
    /// The number of times the waiter has run.
    woken: Arc<AtomicUsize>,
}

const OPERATIONS_OF_A_CPU: [Operation; 3] = [
    Operation { name: "create_join", run: |_| thread::spawn("bench", || 7).is_ok_and(|handle| handle.join() == Ok(7)) },
    Operation {
        name: "event",
        run: |state| {
            let before = state.woken.load(Ordering::Relaxed);
            state.signal.signal();
            thread::yield_now();
            state.woken.load(Ordering::Relaxed) == before + 1
        },
    },
    Operation {
        name: "allocate",
        run: |_| {
            let layout = Layout::new::<[u64; 8]>();
            let block = memory::allocate(black_box(layout), Placement::Near);
            // SAFETY: the block was just allocated with this layout, and nothing else uses it.
            block.is_ok_and(|at| unsafe {
                memory::free(at, layout);
                true
            })
        },
    },
];

/// Threads that wait until dropped.
struct Crowd {
    end: Arc<Event>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new() -> Self {
        Self { end: Arc::new(Event::new()), threads: Vec::new() }
    }

    /// Adds threads until there are `size`; fails where memory runs out, keeping those it has.
    fn grow(&mut self, size: usize) -> Result<(), String> {
        while self.threads.len() < size {
            let end = self.end.clone();
            self.threads.try_reserve(1).map_err(text)?;
            let builder = Builder::new("bench-crowd").cpu(cpu_after(self.threads.len())).stack_size(STACK);
            self.threads.push(builder.spawn(move || end.wait()).map_err(text)?);
        }
        self.threads.iter().rev().take(cpu::count()).try_for_each(wait_until_blocked)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end.latch();
        for handle in self.threads.drain(..) {
            // A thread that does not end is abandoned.
            let _ = finish(handle);
        }
    }
}

/// Returns the divisor for a duration of all CPUs together.
fn sharers(setting: &Setting<'_>) -> u64 {
    if setting.counter.counts_instructions { cpu::count() as u64 } else { 1 }
}

fn samples(setting: &Setting<'_>) -> Outcome {
    Samples::with_warm_up(setting.counter, ROUNDS, 1).ok_or_else(|| "out of memory for the samples".into())
}

/// Runs an operation on all CPUs at once.
fn on_all_cpus(setting: &Setting<'_>, run: fn(&State) -> bool) -> Outcome {
    let mut samples = samples(setting)?;
    while !samples.is_complete() {
        let start = Arc::new(Event::new());
        let done = Arc::new(Semaphore::new(0));
        let workers: Result<Vec<_>, String> =
            (0..cpu::count()).map(|steps| worker(cpu_after(steps), run, &start, &done)).collect();
        // On an error, the workers that exist must still be released.
        let all = workers.and_then(|workers| workers.iter().try_for_each(wait_until_blocked).map(|()| workers));
        let begin = cycles();
        start.latch();
        let workers = all?;
        for _ in &workers {
            done.down_until(deadline()).map_err(|_| "a CPU does not finish")?;
        }
        let end = cycles();
        for worker in workers {
            finish(worker)??;
        }
        samples.add_shared(begin, end, OPERATIONS as u64 * sharers(setting));
    }
    Ok(samples)
}

type Worker = JoinHandle<Result<(), String>>;

fn worker(cpu: usize, run: fn(&State) -> bool, start: &Arc<Event>, done: &Arc<Semaphore>) -> Result<Worker, String> {
    let (start, done) = (start.clone(), done.clone());
    let body = move || {
        let state = State { signal: Arc::new(Event::new()), woken: Arc::new(AtomicUsize::new(0)) };
        let (signal, woken) = (state.signal.clone(), state.woken.clone());
        let waiter = thread::spawn("bench-waiter", move || {
            loop {
                signal.wait();
                if woken.fetch_add(1, Ordering::Relaxed) >= usize::MAX / 2 {
                    return;
                }
            }
        });
        let waiter = waiter.map_err(text)?;
        thread::yield_now();
        start.wait();
        let wrong = (0..OPERATIONS).filter(|_| !run(&state)).count();
        done.up();
        state.woken.store(usize::MAX / 2, Ordering::Relaxed);
        state.signal.signal();
        finish(waiter)?;
        check(wrong == 0, "an operation went wrong")
    };
    Builder::new("bench").cpu(cpu).spawn(body).map_err(text)
}

/// Times a barrier of all CPUs.
fn barrier(setting: &Setting<'_>) -> Outcome {
    let cpus = cpu::count();
    let mut samples = samples(setting)?;
    while !samples.is_complete() {
        let collective = Arc::new(Collective::new(cpus).map_err(text)?);
        let mut partners = Vec::new();
        for steps in 1..cpus {
            let theirs = collective.clone();
            let meet = move || (0..=OPERATIONS).try_for_each(|_| theirs.barrier(deadline()).map(drop));
            partners.push(Builder::new("bench").cpu(cpu_after(steps)).spawn(meet).map_err(text)?);
        }
        // The first barrier is not timed: the members reach it as they start.
        let mut met = collective.barrier(deadline());
        let start = cycles();
        for _ in 0..OPERATIONS {
            met = met.and_then(|_| collective.barrier(deadline()));
        }
        let end = cycles();
        for partner in partners {
            finish(partner)?.map_err(text)?;
        }
        met.map_err(text)?;
        samples.add_shared(start, end, OPERATIONS as u64 * sharers(setting));
    }
    Ok(samples)
}

/// Times a broadcast to a waiter on every CPU, until all have run.
fn broadcast(setting: &Setting<'_>) -> Outcome {
    let samples = Samples::with_warm_up(setting.counter, BROADCASTS, 1).ok_or("out of memory for the samples")?;
    Ok(events::broadcast_into(samples)?.divided_by(sharers(setting)))
}

/// Measures with increasing numbers of threads, up to `most`, and writes the results. Names are the
/// operation's with the number of threads, as in `create_join@1000`.
///
/// # Errors
/// See [`BenchError`].
pub fn run(most: usize, format: Format, interrupted: &Interrupted<'_>, out: &mut dyn Write) -> Result<(), BenchError> {
    let _alone = Alone::claim()?;
    let setting = Setting::new(interrupted);
    let meta = meta(&setting);
    let mut writer = Rows::begin(&meta, format, out)?;
    let failed = |reason| BenchError::Failed("scale", reason);
    let mut crowd = Crowd::new();
    for threads in THREADS.into_iter().filter(|&threads| threads <= most) {
        if let Err(reason) = crowd.grow(threads) {
            writer.remark(&format!("{} threads fit into memory: {reason}", crowd.threads.len()))?;
            break;
        }
        for operation in &OPERATIONS_OF_A_CPU {
            if interrupted() {
                return Err(BenchError::Interrupted);
            }
            let samples = on_all_cpus(&setting, operation.run).map_err(failed)?;
            writer.row(&Row::new(&format!("{}@{threads}", operation.name), "on every CPU at once", samples))?;
        }
        let (met, told) = (barrier(&setting).map_err(failed)?, broadcast(&setting).map_err(failed)?);
        writer.row(&Row::new(&format!("barrier@{threads}"), "of all CPUs", met))?;
        writer.row(&Row::new(&format!("broadcast@{threads}"), "to a waiter on every CPU", told))?;
    }
    writer.end()?;
    Ok(())
}
