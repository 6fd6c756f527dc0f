//! A program's memory: what a block costs, and how much can be had, in permille of what is free, as blocks of one size.

use alloc::string::String;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use kernel::lock::SpinLock;
use kernel::memory::{self, Placement};
use kernel::program;
use kernel::time::Deadline;
use report::Samples;

use crate::Benchmark;
use crate::harness::{Outcome, Setting, check, text, work};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    of("program_alloc_free_64", "a program allocates and frees 64 B", |s| allocate(s, 64)),
    of("program_alloc_free_4096", "a program allocates and frees 4 KiB", |s| allocate(s, 4096)),
    of("memory_usable_64", "of all free memory, as blocks of 64 B", |s| usable(s, 64)),
    of("memory_usable_100", "of all free memory, as blocks of 100 B", |s| usable(s, 100)),
    of("memory_usable_1024", "of all free memory, as blocks of 1 KiB", |s| usable(s, 1024)),
    of("memory_usable_4096", "of all free memory, as blocks of 4 KiB", |s| usable(s, 4096)),
    of("memory_usable_5000", "of all free memory, as blocks of 5,000 B", |s| usable(s, 5000)),
    of("memory_usable_64k", "of all free memory, as blocks of 64 KiB", |s| usable(s, 64 << 10)),
    of("memory_usable_1m", "of all free memory, as blocks of 1 MiB", |s| usable(s, 1 << 20)),
    of("memory_usable_3m", "of all free memory, as blocks of 3 MiB", |s| usable(s, 3 << 20)),
];

const fn of(name: &'static str, about: &'static str, run: fn(&Setting) -> Outcome) -> Benchmark {
    Benchmark { name, about, cpus: 1, run }
}

/// How long the program may take; millions of blocks under an emulator.
const LIMIT: Duration = Duration::from_secs(60);

/// What the program has measured.
static MEASURED: SpinLock<Option<(Setting, Outcome)>> = SpinLock::new(None);

fn allocate(setting: &Setting, size: usize) -> Outcome {
    SIZE.store(size, Ordering::Relaxed);
    *MEASURED.lock() = Some((*setting, Err("the program did not measure".into())));
    run(measure)?;
    MEASURED.lock().take().map_or_else(|| Err("the program left nothing".into()), |(_, outcome)| outcome)
}

/// The program that does so.
fn measure() -> i32 {
    let size = SIZE.load(Ordering::Relaxed);
    let setting = MEASURED.lock().as_ref().map(|(setting, _)| *setting);
    // SAFETY: the program lives while its thread runs, and is not kept beyond that.
    let (Some(program), Some(setting)) = (unsafe { program::current() }, setting) else { return 1 };
    let heap = program.heap();
    let operation = || {
        let at = heap.allocate(size, align_of::<u128>(), Placement::Near).ok()?;
        // SAFETY: just allocated, used by nobody.
        unsafe { heap.free(at) }.ok()
    };
    let outcome = setting.repeat(operation, |freed| freed.is_some());
    *MEASURED.lock() = Some((setting, outcome));
    0
}

/// Runs a program to its end.
fn run(main: fn() -> i32) -> Result<(), String> {
    let program = program::start_function("bench", main).map_err(text)?;
    check(program.wait_until(Deadline::after(LIMIT)).is_ok(), "the program did not end")
}

/// Size of the blocks, and how many there were.
static SIZE: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

/// The program: takes blocks until there is no memory, and leaves them to its end.
fn fill() -> i32 {
    let size = SIZE.load(Ordering::Relaxed);
    // SAFETY: the program lives while its thread runs, and is not kept beyond that.
    let Some(program) = (unsafe { program::current() }) else { return 1 };
    let mut blocks = 0;
    while let Some(Ok(_)) = work(|| program.heap().allocate(size, align_of::<u128>(), Placement::Near)) {
        blocks += 1;
    }
    BLOCKS.store(blocks, Ordering::Relaxed);
    0
}

fn usable(setting: &Setting, size: usize) -> Outcome {
    SIZE.store(size, Ordering::Relaxed);
    memory::reclaim();
    let before = memory::free_bytes();
    run(fill)?;
    let bytes = BLOCKS.swap(0, Ordering::Relaxed) * size;
    check(bytes != 0, "nothing was allocated")?;
    let permille = bytes as u64 * 1000 / before;
    Samples::of_one(setting.counter, permille, report::PERMILLE).ok_or_else(|| "out of memory for the sample".into())
}
