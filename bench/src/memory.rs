//! Memory: allocation, mapping, copying.

use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::hint::black_box;

use kernel::memory::stack::{self, Keep, Stack};
use kernel::memory::{self, Placement};
use kernel::thread;

use crate::Benchmark;
use crate::harness::{Outcome, Setting, Spinners, check, cpu_after, cycles, other_cpus, text, work};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "alloc_free_64", about: "allocate and free 64 B", cpus: 1, run: |s| allocate(s, 64) },
    Benchmark { name: "alloc_free_4096", about: "allocate and free 4 KiB", cpus: 1, run: |s| allocate(s, 4096) },
    Benchmark { name: "alloc_free_2m", about: "allocate and free 2 MiB", cpus: 1, run: |s| allocate(s, 2 << 20) },
    Benchmark {
        name: "alloc_free_64_remote",
        about: "allocate 64 B here, free them on another CPU",
        cpus: 2,
        run: |s| allocate_remotely(s, 64),
    },
    Benchmark {
        name: "alloc_free_4096_remote",
        about: "allocate 4 KiB here, free them on another CPU",
        cpus: 2,
        run: |s| allocate_remotely(s, 4096),
    },
    Benchmark {
        name: "alloc_free_2m_remote",
        about: "allocate 2 MiB here, free them on another CPU",
        cpus: 2,
        run: |s| allocate_remotely(s, 2 << 20),
    },
    Benchmark { name: "page_map", about: "a 4 KiB page allocated and mapped", cpus: 1, run: page_map },
    Benchmark {
        name: "page_unmap",
        about: "a page unmapped and freed, all CPUs' TLBs flushed",
        cpus: 1,
        run: page_unmap,
    },
    Benchmark { name: "memory_copy_64k", about: "64 KiB copied", cpus: 1, run: copy },
    Benchmark { name: "memory_fill_64k", about: "64 KiB filled", cpus: 1, run: fill },
];

fn layout(size: usize) -> Result<Layout, String> {
    // The compiler must not see the size as a constant.
    Layout::from_size_align(black_box(size), 16).map_err(text)
}

fn allocate(setting: &Setting<'_>, size: usize) -> Outcome {
    let layout = layout(size)?;
    let operation = || {
        let at = memory::allocate(layout, Placement::Near).ok()?;
        // SAFETY: the block was just allocated with this layout, and the closure's caller only
        // looks at its address.
        unsafe { memory::free(at, layout) };
        Some(at)
    };
    setting.repeat(operation, |at| at.is_some_and(|at| (at.as_ptr() as usize).is_multiple_of(layout.align())))
}

/// Allocates on one CPU and frees on another, with one thread that migrates between them; the
/// migrations are not timed.
fn allocate_remotely(setting: &Setting<'_>, size: usize) -> Outcome {
    let (home, other) = (cpu_after(0), cpu_after(1));
    let layout = layout(size)?;
    let overhead = setting.counter.overhead;
    let mut samples = setting.samples()?;
    let mut failure = None;
    while !samples.is_complete() && failure.is_none() {
        let start = cycles();
        let block = work(|| memory::allocate(layout, Placement::Near));
        let allocated = cycles();
        let Some(Ok(block)) = block else {
            failure = Some("out of memory".into());
            continue;
        };
        let there = thread::migrate(other);
        let begin = cycles();
        // SAFETY: the block was allocated above with this layout, and nothing else uses it.
        work(|| unsafe { memory::free(block, layout) });
        let freed = cycles();
        if let Err(error) = there.and_then(|()| thread::migrate(home)) {
            failure = Some(text(error));
        }
        samples.add_duration((allocated - start + freed - begin).saturating_sub(2 * overhead));
    }
    // A freed block returns to its memory's owner, wherever it is freed, so nothing accumulates
    // here.
    thread::migrate(home).map_err(text)?;
    failure.map_or(Ok(samples), Err)
}

/// The size of the smallest stack, a page.
const PAGE: usize = 4096;

/// Returns true if a mapped page holds what is written to it.
fn is_usable(page: &Stack) -> bool {
    let at = page.bottom() as *mut u64;
    // SAFETY: the page is mapped, and the caller's stack is used by no thread.
    unsafe {
        at.write_volatile(0x5a5a);
        at.read_volatile() == 0x5a5a
    }
}

fn page_map(setting: &Setting<'_>) -> Outcome {
    let mut samples = setting.samples()?;
    while !samples.is_complete() {
        stack::reclaim(Keep::None);
        let start = cycles();
        let page = work(|| Stack::new(PAGE));
        samples.add(start, cycles());
        let page = page.ok_or("nothing was mapped")?.map_err(text)?;
        check(page.size() == PAGE && is_usable(&page), "the page cannot be used")?;
        // SAFETY: the page comes from `Stack::new`, is not used again, and is not released
        // elsewhere.
        unsafe { page.release() };
    }
    stack::reclaim(Keep::None);
    Ok(samples)
}

/// Times an unmap with threads running on all other CPUs, whose TLBs must be flushed.
fn page_unmap(setting: &Setting<'_>) -> Outcome {
    let _spinners = Spinners::start(other_cpus())?;
    let mut samples = setting.samples()?;
    stack::reclaim(Keep::None);
    while !samples.is_complete() {
        let page = Stack::new(PAGE).map_err(text)?;
        // SAFETY: the page comes from `Stack::new` just above and has not been used.
        unsafe { page.release() };
        let start = cycles();
        let bytes = work(|| stack::reclaim(Keep::None));
        samples.add(start, cycles());
        check(bytes == Some(PAGE as u64), "the page was not unmapped")?;
    }
    Ok(samples)
}

const BLOCK: usize = 64 << 10;

fn block(byte: u8) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(BLOCK).map_err(text)?;
    bytes.resize(BLOCK, byte);
    Ok(bytes)
}

fn copy(setting: &Setting<'_>) -> Outcome {
    let (mut from, mut to) = (block(0)?, block(0)?);
    let mut samples = setting.samples()?;
    let mut round = 0u8;
    while !samples.is_complete() {
        round = round.wrapping_add(1);
        from[0] = round;
        from[BLOCK - 1] = !round;
        let start = cycles();
        work(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        samples.add(start, cycles());
        check((to[0], to[BLOCK - 1]) == (round, !round), "the copy is not right")?;
    }
    Ok(samples)
}

fn fill(setting: &Setting<'_>) -> Outcome {
    let mut bytes = block(0)?;
    let mut samples = setting.samples()?;
    let mut round = 0u8;
    while !samples.is_complete() {
        round = round.wrapping_add(1);
        let start = cycles();
        work(|| black_box(&mut bytes).fill(black_box(round)));
        samples.add(start, cycles());
        check(bytes.first() == Some(&round) && bytes.last() == Some(&round), "not all was filled")?;
    }
    Ok(samples)
}
