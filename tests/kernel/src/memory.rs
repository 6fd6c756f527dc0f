//! Memory allocation, placement and exhaustion.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use kernel::arch::*;
use kernel::memory::stack::{self, Keep};
use kernel::memory::{self, DmaBuffer, OutOfMemory, Placement};
use kernel::snapshot;
use kernel::thread::{self, Builder};
use kernel::time::Deadline;
use kernel::{call, cpu};

use crate::support::{LIMIT, Random, join, text};
use crate::{TestResult, ensure, tests};

tests![
    blocks_do_not_overlap,
    alignment_is_kept,
    out_of_memory_is_an_error_and_passes,
    every_node_gives_its_own,
    dma_memory_is_where_a_device_reaches_it,
    memory_freed_elsewhere_comes_home,
    spawning_without_memory_is_an_error,
    probes_survive_bad_addresses,
    probes_survive_preemption,
];

/// An allocation filled with a pattern of its own.
struct Block {
    at: NonNull<u8>,
    layout: Layout,
    pattern: u8,
}

// SAFETY: the block owns its memory, which any thread may use and free.
unsafe impl Send for Block {}

impl Block {
    fn new(size: usize, align: usize, pattern: u8) -> Result<Self, OutOfMemory> {
        let layout = Layout::from_size_align(size.max(1), align).map_err(|_| OutOfMemory)?;
        let at = memory::allocate(layout, Placement::Near)?;
        // SAFETY: the memory was just allocated with this size and nothing else uses it.
        unsafe { at.as_ptr().write_bytes(pattern, layout.size()) };
        Ok(Self { at, layout, pattern })
    }

    fn is_intact(&self) -> bool {
        // SAFETY: only blocks from `new` are checked, and `new` initialises every byte of theirs.
        let bytes = unsafe { core::slice::from_raw_parts(self.at.as_ptr(), self.layout.size()) };
        bytes.iter().all(|&byte| byte == self.pattern)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout and is not used again.
        unsafe { memory::free(self.at, self.layout) };
    }
}

fn storm(seed: u64, rounds: usize) -> TestResult {
    let mut random = Random(seed);
    let mut blocks: Vec<Block> = Vec::new();
    for round in 0..rounds {
        if blocks.len() > 60 || (random.next().is_multiple_of(3) && !blocks.is_empty()) {
            let block = blocks.swap_remove(random.next() as usize % blocks.len());
            ensure!(block.is_intact(), "a block of {} bytes was overwritten", block.layout.size());
        } else {
            let size = 1 << (random.next() % 15);
            let size = size + random.next() as usize % size;
            blocks.push(Block::new(size, 8, round as u8).map_err(text)?);
        }
    }
    let broken = blocks.iter().find(|block| !block.is_intact());
    ensure!(broken.is_none(), "a block was overwritten");
    Ok(())
}

fn blocks_do_not_overlap() -> TestResult {
    let handles: Result<Vec<_>, _> = cpu::all()
        .map(|cpu| Builder::new("storm").cpu(cpu.index).spawn(move || storm(cpu.index as u64 + 1, 3000)))
        .collect();
    handles.map_err(text)?.into_iter().try_for_each(|handle| join(handle)?)
}

fn alignment_is_kept() -> TestResult {
    for shift in 0..16 {
        for size in [1, 24, 100, 5000] {
            let block = Block::new(size, 1 << shift, 1).map_err(text)?;
            let address = block.at.as_ptr() as usize;
            ensure!(address.is_multiple_of(1 << shift), "{address:#x} is not aligned to {}", 1 << shift);
        }
    }
    Ok(())
}

/// Frees everything held by caches and dead threads, so that free memory can be compared.
pub(crate) fn settle() -> u64 {
    /// The fewest stacks seen that belong to no live thread: the kernel's own.
    static FEWEST: AtomicUsize = AtomicUsize::new(usize::MAX);
    let empty = || {
        thread::empty_stock();
        memory::flush_this_cpus_caches();
    };
    let deadline = Deadline::after(LIMIT);
    loop {
        for cpu in cpu::all() {
            let _ = call::on(cpu.index, empty, LIMIT);
        }
        let alive = snapshot::take().threads.len();
        let others = stack::usage().0.saturating_sub(alive);
        // A thread that was just joined may not have left its stack yet.
        if others <= FEWEST.fetch_min(others, Ordering::SeqCst) || deadline.has_passed() {
            break;
        }
    }
    stack::reclaim(Keep::None);
    memory::flush_this_cpus_caches();
    steady_free_bytes()
}

/// Returns the free bytes once they stop changing. Zones and caches are counted one after the
/// other, and memory that a just-joined thread still moves between them could be counted twice or
/// not at all.
fn steady_free_bytes() -> u64 {
    let deadline = Deadline::after(LIMIT);
    let mut last = memory::free_bytes();
    loop {
        thread::sleep(Duration::from_millis(1));
        let now = memory::free_bytes();
        if now == last || deadline.has_passed() {
            return now;
        }
        last = now;
    }
}

/// Checks after [`settle`] that as much memory is free as before, except for page tables, which
/// stay, and a stack in the stock.
pub(crate) fn nothing_was_lost(before: u64) -> TestResult {
    let tolerance = 64 * 1024 + DEFAULT_STACK_SIZE as u64;
    let after = steady_free_bytes();
    ensure!(
        after + tolerance >= before,
        "{before} bytes were free before, {after} after; {} in caches, {} stacks live",
        memory::cached_bytes(),
        stack::usage().0
    );
    Ok(())
}

fn out_of_memory_is_an_error_and_passes() -> TestResult {
    ensure!(Block::new(1 << 40, 8, 0).is_err(), "a terabyte was given");
    let before = settle();
    let mut blocks: Vec<Block> = Vec::with_capacity(4096);
    // Large blocks first, without touching their memory; then smaller ones until nothing is left.
    for size in [1 << 26, 1 << 20, 1 << 14, 1 << 12] {
        while blocks.len() < blocks.capacity() {
            let Ok(layout) = Layout::from_size_align(size, 8) else { return Err("layout".into()) };
            let Ok(at) = memory::allocate(layout, Placement::Near) else { break };
            blocks.push(Block { at, layout, pattern: 0 });
        }
    }
    let at_worst = memory::free_bytes();
    drop(blocks);
    settle();
    ensure!(at_worst < before / 4, "memory did not run short: {at_worst} of {before} bytes are free");
    nothing_was_lost(before)
}

fn every_node_gives_its_own() -> TestResult {
    for node in memory::nodes() {
        let layout = Layout::from_size_align(8192, 8).map_err(text)?;
        let before = memory::node_usage(node).map_or(0, |usage| usage.free);
        let at = memory::allocate(layout, Placement::Node(node)).map_err(text)?;
        let during = memory::node_usage(node).map_or(0, |usage| usage.free);
        // SAFETY: the block was just allocated with this layout and nothing else uses it.
        unsafe { memory::free(at, layout) };
        ensure!(before - during == 8192, "node {node} gave {} bytes", before - during);
    }
    let layout = Layout::new::<u64>();
    ensure!(memory::allocate(layout, Placement::Node(63)).is_err(), "a node that is not there gave memory");
    Ok(())
}

fn dma_memory_is_where_a_device_reaches_it() -> TestResult {
    let limit = 16 << 20;
    let mut buffer = DmaBuffer::new(10_000, limit).map_err(text)?;
    let start = buffer.physical_address();
    ensure!(start.is_multiple_of(4096), "{start:#x} is not page aligned");
    ensure!(start + 10_000 <= limit, "{start:#x} is above {limit:#x}");
    ensure!(buffer.as_mut_slice().iter().all(|&byte| byte == 0), "it is not zeroed");
    ensure!(DmaBuffer::new(4096, 4096).is_err(), "memory below 4 KiB was given");
    Ok(())
}

fn memory_freed_elsewhere_comes_home() -> TestResult {
    let before = settle();
    for round in 0..20u8 {
        let blocks: Vec<Block> = (0..200).map(|_| Block::new(64, 8, round)).collect::<Result<_, _>>().map_err(text)?;
        let last = cpu::limit() - 1;
        let handle =
            Builder::new("freer").cpu(last).spawn(move || blocks.iter().all(Block::is_intact)).map_err(text)?;
        ensure!(join(handle)?, "a block was overwritten on its way");
    }
    settle();
    nothing_was_lost(before)
}

fn spawning_without_memory_is_an_error() -> TestResult {
    let mut hoard: Vec<Block> = Vec::with_capacity(8192);
    let mut fill = |smallest: usize| {
        let mut size = 1 << 26;
        while size >= smallest {
            let layout = Layout::from_size_align(size, 8).expect("a power of two");
            match memory::allocate(layout, Placement::Near) {
                Ok(at) if hoard.len() < hoard.capacity() => hoard.push(Block { at, layout, pattern: 0 }),
                Ok(at) => {
                    // SAFETY: the block was just allocated with this layout and nothing else uses
                    // it.
                    unsafe { memory::free(at, layout) };
                    break;
                }
                Err(OutOfMemory) => size /= 2,
            }
        }
    };
    fill(DEFAULT_STACK_SIZE);
    let large = Builder::new("large").stack_size(32 << 20).spawn(|| ());
    let refused = matches!(large, Err(thread::SpawnError::OutOfMemory));
    drop(hoard);
    ensure!(refused, "a thread with 32 MiB of stack was made of nothing");
    let handle = Builder::new("later").stack_size(1 << 20).spawn(|| 5).map_err(text)?;
    ensure!(join(handle)? == 5, "spawning does not work afterwards");
    Ok(())
}

fn probes_survive_bad_addresses() -> TestResult {
    let guard = thread::current().stack().guard();
    for address in [0usize, 8, 0xdead_beef_0000, usize::MAX - 7, guard.start + 8, guard.end - 8] {
        for length in [1, 2, 4, 8, 16] {
            let mut buffer = [0; 16];
            let result = AddressSpace::probe_read(address.wrapping_sub(length % 2), &mut buffer[..length]);
            ensure!(result.is_err(), "{length} bytes at {address:#x} were read");
        }
    }
    let mut value = 7u64;
    let at = core::ptr::from_mut(&mut value) as usize;
    // SAFETY: the address is a local variable's, which is only read by a probe afterwards.
    unsafe { AddressSpace::probe_write(at, &9u64.to_le_bytes()) }.map_err(text)?;
    let mut back = [0; 8];
    AddressSpace::probe_read(at, &mut back).map_err(text)?;
    ensure!(u64::from_le_bytes(back) == 9, "a good address was not written");
    Ok(())
}

fn probes_survive_preemption() -> TestResult {
    const THREADS_PER_CPU: usize = 3;
    const ROUNDS: usize = 2_000;
    let probe = |number: usize| {
        let value = number as u64;
        for _ in 0..ROUNDS {
            let mut back = [0; 8];
            ensure!(AddressSpace::probe_read(number * 8, &mut back).is_err(), "address {:#x} was read", number * 8);
            AddressSpace::probe_read(core::ptr::from_ref(&value) as usize, &mut back).map_err(text)?;
            ensure!(u64::from_ne_bytes(back) == value, "a good address read as {back:?}");
        }
        Ok(())
    };
    let mut handles = Vec::new();
    for cpu in cpu::all() {
        for number in 0..THREADS_PER_CPU {
            let handle = thread::Builder::new("prober").cpu(cpu.index).spawn(move || probe(number));
            handles.push(handle.map_err(text)?);
        }
    }
    handles.into_iter().try_for_each(|handle| join(handle)?)
}
