//! Memory: allocation, mapping, copying.

use std::hint::black_box;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use report::{Counter, Samples};

use crate::system::{self, Spinners, check};
use crate::{Benchmark, Outcome, benchmark, cycles, repeat, samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("malloc_free_64", 1, |counter| allocate(counter, 64)),
    benchmark("malloc_free_4096", 1, |counter| allocate(counter, 4096)),
    benchmark("malloc_free_2m", 1, |counter| allocate(counter, 2 << 20)),
    benchmark("malloc_free_64_remote", 2, |counter| allocate_remotely(counter, 64)),
    benchmark("malloc_free_4096_remote", 2, |counter| allocate_remotely(counter, 4096)),
    benchmark("malloc_free_2m_remote", 2, |counter| allocate_remotely(counter, 2 << 20)),
    benchmark("malloc_usable_64", 1, |counter| usable(counter, 64)),
    benchmark("malloc_usable_100", 1, |counter| usable(counter, 100)),
    benchmark("malloc_usable_1024", 1, |counter| usable(counter, 1024)),
    benchmark("malloc_usable_4096", 1, |counter| usable(counter, 4096)),
    benchmark("malloc_usable_5000", 1, |counter| usable(counter, 5000)),
    benchmark("malloc_usable_64k", 1, |counter| usable(counter, 64 << 10)),
    benchmark("malloc_usable_1m", 1, |counter| usable(counter, 1 << 20)),
    benchmark("malloc_usable_3m", 1, |counter| usable(counter, 3 << 20)),
    benchmark("mmap_touch", 1, map),
    benchmark("munmap", 1, unmap),
    benchmark("memcpy_64k", 1, copy),
    benchmark("memset_64k", 1, fill),
];

fn allocate(counter: Counter, size: usize) -> Outcome {
    repeat(
        counter,
        // SAFETY: the block is freed exactly once and not accessed, only its address is looked at.
        || unsafe {
            let block = libc::malloc(black_box(size));
            black_box(block);
            libc::free(block);
            block
        },
        |block| !block.is_null(),
    )
}

/// Times allocation on one CPU and freeing by a thread on another.
fn allocate_remotely(counter: Counter, size: usize) -> Outcome {
    #[derive(Default)]
    struct Desk {
        block: AtomicUsize,
        took: AtomicU64,
        stop: AtomicBool,
    }
    let desk = Arc::new(Desk::default());
    let theirs = desk.clone();
    let freeing = system::on_cpu(1, move || {
        while !theirs.stop.load(Ordering::Relaxed) {
            let block = theirs.block.load(Ordering::Acquire);
            if block != 0 {
                let start = cycles();
                // SAFETY: the other thread allocated the block and gave it up with the store.
                unsafe { libc::free(block as *mut libc::c_void) };
                theirs.took.store(cycles() - start, Ordering::Relaxed);
                theirs.block.store(0, Ordering::Release);
            }
            std::hint::spin_loop();
        }
    });
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        // SAFETY: `malloc` accepts any size, and its result is not dereferenced here.
        let block = unsafe { libc::malloc(black_box(size)) };
        let took = cycles() - start;
        desk.block.store(block as usize, Ordering::Release);
        while desk.block.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        let together = took + desk.took.load(Ordering::Relaxed);
        samples.add_duration(together.saturating_sub(2 * counter.overhead));
    }
    desk.stop.store(true, Ordering::Relaxed);
    freeing.join().map_err(|_| "the freeing thread ended early")?;
    Ok(samples)
}

/// The number of bytes that [`usable`] asks for.
const IN_ALL: usize = 64 << 20;

/// Returns the bytes that malloc has handed out, its own overhead included (mallinfo(3)).
fn taken() -> usize {
    // SAFETY: the call takes no arguments and only reads the allocator's counters.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Measures the share of requested bytes in what malloc took for them; page tables are not counted.
fn usable(counter: Counter, size: usize) -> Outcome {
    let mut blocks = Vec::with_capacity(IN_ALL / size);
    blocks.resize(blocks.capacity(), ptr::null_mut::<u8>());
    let before = taken();
    for block in &mut blocks {
        // SAFETY: `malloc` accepts any size, and a null result is not used.
        *block = unsafe { libc::malloc(size) }.cast();
        if block.is_null() {
            return Err("out of memory".into());
        }
    }
    let permille = blocks.len() * size * 1000 / (taken() - before).max(1);
    for block in blocks {
        // SAFETY: each block was allocated above and is freed exactly once.
        unsafe { libc::free(block.cast()) };
    }
    Samples::of_one(counter, permille as u64, report::PERMILLE).ok_or_else(|| "out of memory for the sample".into())
}

const PAGE: usize = 4096;

fn map_page() -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at an address of the system's choice replaces no other.
    unsafe { libc::mmap(ptr::null_mut(), PAGE, access, kind, -1, 0).cast() }
}

fn map(counter: Counter) -> Outcome {
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        let page = map_page();
        if page == libc::MAP_FAILED.cast() {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the page was just mapped writable, and only this function uses it.
        unsafe { page.write_volatile(1) };
        samples.add(start, cycles());
        // SAFETY: the mapping was made above and is not used after this.
        check(unsafe { libc::munmap(page.cast(), PAGE) })?;
    }
    Ok(samples)
}

/// Times an unmap while threads of the process run on all other CPUs, whose TLBs must be flushed.
fn unmap(counter: Counter) -> Outcome {
    let _spinners = Spinners::start(1..system::cpu_count());
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let page = map_page();
        if page == libc::MAP_FAILED.cast() {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the page was just mapped writable, and only this function uses it.
        unsafe { page.write_volatile(1) };
        let start = cycles();
        // SAFETY: the mapping was made above and is not used after this.
        let result = unsafe { libc::munmap(page.cast(), PAGE) };
        samples.add(start, cycles());
        check(result)?;
    }
    Ok(samples)
}

const BLOCK: usize = 64 << 10;

fn copy(counter: Counter) -> Outcome {
    let (from, mut to) = (vec![7u8; BLOCK], vec![0u8; BLOCK]);
    let samples = repeat(counter, || black_box(&mut to).copy_from_slice(black_box(&from)), |()| true)?;
    if to == from { Ok(samples) } else { Err("the copy is not right".into()) }
}

fn fill(counter: Counter) -> Outcome {
    let mut bytes = vec![0u8; BLOCK];
    let samples = repeat(counter, || black_box(&mut bytes).fill(black_box(7)), |()| true)?;
    if bytes.iter().all(|&byte| byte == 7) { Ok(samples) } else { Err("not all was filled".into()) }
}
