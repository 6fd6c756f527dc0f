//! A program's memory: the cost of a block, and how much of the free memory, in permille, a program
//! can obtain as blocks of one size.

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

const fn of(name: &'static str, about: &'static str, run: fn(&Setting<'_>) -> Outcome) -> Benchmark {
    Benchmark { name, about, cpus: 1, run }
}

/// The time limit of a program, which allocates millions of blocks, possibly under an emulator.
const LIMIT: Duration = Duration::from_secs(60);

/// Passes the setting to the program and its result back.
static MEASURED: SpinLock<Option<(Setting<'static>, Outcome)>> = SpinLock::new(None);

fn allocate(setting: &Setting<'_>, size: usize) -> Outcome {
    SIZE.store(size, Ordering::Relaxed);
    *MEASURED.lock() =
        Some((Setting { interrupted: &|| false, ..*setting }, Err("the program did not measure".into())));
    run(measure)?;
    MEASURED.lock().take().map_or_else(|| Err("the program left nothing".into()), |(_, outcome)| outcome)
}

/// The program that times allocation and freeing.
fn measure() -> i32 {
    let size = SIZE.load(Ordering::Relaxed);
    let setting = MEASURED.lock().as_ref().map(|(setting, _)| *setting);
    // SAFETY: the program outlives this thread, which is one of its own, and the reference is not
    // kept beyond the thread's life.
    let (Some(program), Some(setting)) = (unsafe { program::current() }, setting) else { return 1 };
    let heap = program.heap();
    let operation = || {
        let at = heap.allocate(size, align_of::<u128>(), Placement::Near).ok()?;
        // SAFETY: the block was just allocated from this heap and nothing else uses it.
        unsafe { heap.free(at) }.ok()
    };
    let outcome = setting.repeat(operation, |freed| freed.is_some());
    *MEASURED.lock() = Some((setting, outcome));
    0
}

/// Runs a program to its end, within the time limit.
fn run(main: fn() -> i32) -> Result<(), String> {
    let program = program::start_function("bench", main).map_err(text)?;
    check(program.wait_until(Deadline::after(LIMIT)).is_ok(), "the program did not end")
}

/// The block size.
static SIZE: AtomicUsize = AtomicUsize::new(0);
/// The number of blocks obtained.
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

/// The program that allocates blocks until memory runs out, and leaves them to be freed at its end.
fn fill() -> i32 {
    let size = SIZE.load(Ordering::Relaxed);
    // SAFETY: the program outlives this thread, which is one of its own, and the reference is not
    // kept beyond the thread's life.
    let Some(program) = (unsafe { program::current() }) else { return 1 };
    let mut blocks = 0;
    while let Some(Ok(_)) = work(|| program.heap().allocate(size, align_of::<u128>(), Placement::Near)) {
        blocks += 1;
    }
    BLOCKS.store(blocks, Ordering::Relaxed);
    0
}

fn usable(setting: &Setting<'_>, size: usize) -> Outcome {
    SIZE.store(size, Ordering::Relaxed);
    memory::reclaim();
    let before = memory::free_bytes();
    run(fill)?;
    let bytes = BLOCKS.swap(0, Ordering::Relaxed) * size;
    check(bytes != 0, "nothing was allocated")?;
    let permille = bytes as u64 * 1000 / before;
    Samples::of_one(setting.counter, permille, report::PERMILLE).ok_or_else(|| "out of memory for the sample".into())
}
