//! The timing of single operations, and helpers for benchmarks that use several CPUs.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};
use core::time::Duration;

use kernel::arch::*;
use kernel::cpu;
use kernel::thread::{self, Builder, JoinHandle};
use kernel::time::Deadline;
use report::{Counter, REPETITIONS, Samples};

/// Set by a test to make benchmarks omit the work they measure.
#[cfg(feature = "hollow")]
pub static HOLLOW: AtomicBool = AtomicBool::new(false);

/// Returns true if benchmarks omit the measured work, which tests that each of them notices. Always
/// false in an image.
#[inline(always)]
fn is_hollow() -> bool {
    #[cfg(feature = "hollow")]
    return HOLLOW.load(Ordering::Relaxed);
    #[cfg(not(feature = "hollow"))]
    false
}

/// Returns the deadline for an answer from another CPU or thread, after which the benchmark fails.
pub fn deadline() -> Deadline {
    Deadline::after(if is_hollow() { Duration::from_millis(50) } else { Duration::from_secs(5) })
}

/// Tells whether the user has interrupted the run.
pub type Interrupted<'a> = dyn Fn() -> bool + Sync + 'a;

/// A benchmark's environment.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The time counter.
    pub counter: Counter,
    /// Returns true once the user has interrupted the run.
    pub interrupted: &'a Interrupted<'a>,
}

/// A benchmark's result: its samples, or the reason for having none.
pub type Outcome = Result<Samples, String>;

/// Returns an error's text.
pub fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Returns the error `what` unless `condition` holds.
pub fn check(condition: bool, what: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.into()) }
}

/// Reads the time counter. The compiler moves no memory access across a reading.
#[inline(always)]
pub fn cycles() -> u64 {
    compiler_fence(Ordering::SeqCst);
    let now = Core::cycles_in_order();
    compiler_fence(Ordering::SeqCst);
    now
}

/// Performs the measured operation. Every operation that a figure stands for passes through here;
/// `None` where tests omit it.
#[inline(always)]
pub fn work<R>(operation: impl FnOnce() -> R) -> Option<R> {
    if is_hollow() { None } else { Some(operation()) }
}

impl<'a> Setting<'a> {
    /// Creates a setting, after examining the machine's counter.
    pub fn new(interrupted: &'a Interrupted<'a>) -> Self {
        Self { counter: Counter::examine(cycles, cycles), interrupted }
    }

    /// Creates room for the usual number of samples.
    pub fn samples(&self) -> Outcome {
        self.samples_of(REPETITIONS)
    }

    /// Creates room for `count` samples.
    pub fn samples_of(&self, count: usize) -> Outcome {
        Samples::new(self.counter, count).ok_or_else(|| "out of memory for the samples".into())
    }

    /// Times `operation` once per sample. The caller checks afterwards that it took effect.
    #[inline(always)]
    pub fn repeat_blindly(&self, mut operation: impl FnMut()) -> Outcome {
        let mut samples = self.samples()?;
        while !samples.is_complete() {
            let start = cycles();
            work(&mut operation);
            samples.add(start, cycles());
        }
        Ok(samples)
    }

    /// Times `operation` once per sample, and checks each result after its time is taken.
    #[inline(always)]
    pub fn repeat<R>(&self, mut operation: impl FnMut() -> R, mut is_right: impl FnMut(R) -> bool) -> Outcome {
        let mut samples = self.samples()?;
        let mut wrong = 0;
        while !samples.is_complete() {
            let start = cycles();
            let result = work(&mut operation);
            let end = cycles();
            samples.add(start, end);
            wrong += usize::from(!result.is_some_and(&mut is_right));
        }
        check(wrong == 0, "the measured operation did not happen, or went wrong")?;
        Ok(samples)
    }
}

/// Returns the CPU `steps` after this one.
pub fn cpu_after(steps: usize) -> usize {
    (cpu::this_index() + steps) % cpu::limit()
}

/// Returns all CPUs but this one, by distance.
pub fn other_cpus() -> impl Iterator<Item = usize> {
    (1..cpu::count()).map(cpu_after)
}

/// Waits until a thread blocks, and gives its CPU time to go idle.
pub fn wait_until_blocked<T>(handle: &JoinHandle<T>) -> Result<(), String> {
    let deadline = deadline();
    while handle.thread().state() != thread::State::Blocked {
        check(!deadline.has_passed(), "a thread that should block does not")?;
        // Sleeping lets the other CPUs run under any emulator, and reach their idle loops.
        thread::sleep(Duration::from_micros(20));
    }
    thread::sleep(Duration::from_micros(20));
    Ok(())
}

/// Polls `condition` without giving up the CPU, and fails with `what` at the deadline.
#[inline(always)]
pub fn spin_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    // Most answers come before reading the clock pays, and the reading would be measured too.
    for _ in 0..LOOKS_WITHOUT_CLOCK {
        if condition() {
            return Ok(());
        }
        Core::spin_hint();
    }
    spin_long(what, &mut condition)
}

const LOOKS_WITHOUT_CLOCK: usize = 1_000;

#[cold]
fn spin_long(what: &str, condition: &mut dyn FnMut() -> bool) -> Result<(), String> {
    let until = deadline();
    while !condition() {
        check(!until.has_passed(), what)?;
        Core::spin_hint();
    }
    Ok(())
}

/// Joins a thread, which must end before the deadline.
pub fn finish<T>(handle: JoinHandle<T>) -> Result<T, String> {
    let ended = handle.join_until(deadline()).map_err(|_| "a thread does not end")?;
    ended.map_err(text)
}

/// Threads that keep CPUs busy until dropped.
pub struct Spinners {
    handles: Vec<JoinHandle<()>>,
}

static SPIN: AtomicBool = AtomicBool::new(false);
static SPINNING: AtomicUsize = AtomicUsize::new(0);

impl Spinners {
    /// Starts a spinner on each of `cpus`; returns when all of them run.
    ///
    /// # Errors
    /// If a CPU does not run its spinner in time, or memory runs out.
    pub fn start(cpus: impl Iterator<Item = usize>) -> Result<Self, String> {
        SPIN.store(true, Ordering::Relaxed);
        SPINNING.store(0, Ordering::Relaxed);
        let mut spinners = Self { handles: Vec::new() };
        for cpu in cpus {
            let handle = Builder::new("bench-spinner").cpu(cpu).spawn(|| {
                SPINNING.fetch_add(1, Ordering::Relaxed);
                while SPIN.load(Ordering::Relaxed) {
                    Core::spin_hint();
                }
            });
            spinners.handles.push(handle.map_err(text)?);
        }
        let wanted = spinners.handles.len();
        spin_for("a CPU does not run threads", || SPINNING.load(Ordering::Relaxed) == wanted)?;
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        SPIN.store(false, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            // A spinner that does not end is abandoned.
            let _ = handle.join_until(deadline());
        }
    }
}
