//! The soak test: large numbers of operations, after which no memory may be lost.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::cpu;
use kernel::memory;
use kernel::thread::{self, Builder};
use kernel::time::Deadline;
use kernel::wait::{Event, TimedOut};

use crate::memory::{nothing_was_lost, settle};
use crate::support::{LIMIT, Random, join, text};
use crate::{TestResult, ensure, tests};

tests![a_million_threads, ten_million_signals, allocation_storms];

/// Runs a function on all CPUs at once and checks that its memory is free again afterwards.
fn on_all_cpus(work: fn(u64) -> TestResult) -> TestResult {
    settle();
    let before = memory::free_bytes();
    let handles: Result<Vec<_>, _> =
        cpu::all().map(|cpu| Builder::new("soak").cpu(cpu.index).spawn(move || work(cpu.index as u64))).collect();
    for handle in handles.map_err(text)? {
        handle.join().map_err(text)??;
    }
    settle();
    nothing_was_lost(before)
}

fn a_million_threads() -> TestResult {
    static RAN: AtomicU64 = AtomicU64::new(0);
    RAN.store(0, Ordering::Relaxed);
    on_all_cpus(|seed| {
        let mut random = Random(seed);
        let share = 1_000_000 / cpu::count();
        for number in 0..share {
            // Every sixteenth thread crosses to another CPU.
            let target = if number % 16 == 0 { random.next() as usize % cpu::limit() } else { cpu::this_index() };
            let body = || {
                RAN.fetch_add(1, Ordering::Relaxed);
            };
            join(Builder::new("one").cpu(target).spawn(body).map_err(text)?)?;
        }
        Ok(())
    })?;
    let wanted = (1_000_000 / cpu::count() * cpu::count()) as u64;
    ensure!(RAN.load(Ordering::Relaxed) == wanted, "{} of {wanted} threads ran", RAN.load(Ordering::Relaxed));
    Ok(())
}

fn ten_million_signals() -> TestResult {
    on_all_cpus(|seed| {
        let (ping, pong) = (Arc::new(Event::new()), Arc::new(Event::new()));
        let (their_ping, their_pong) = (ping.clone(), pong.clone());
        let rounds = 5_000_000 / cpu::count();
        // The two threads of a pair share a CPU, except for the first pair.
        let (rounds, partner_cpu) = match seed {
            0 => (rounds / 10, cpu::limit() - 1),
            _ => (rounds + rounds * 9 / 10 / (cpu::count() - 1).max(1), seed as usize),
        };
        let partner = Builder::new("partner")
            .cpu(partner_cpu)
            .spawn(move || {
                for _ in 0..rounds {
                    their_ping.wait_until(Deadline::after(LIMIT))?;
                    their_pong.signal();
                }
                Ok::<(), TimedOut>(())
            })
            .map_err(text)?;
        for round in 0..rounds {
            ping.signal();
            pong.wait_until(Deadline::after(LIMIT)).map_err(|_| alloc::format!("round {round}: no answer"))?;
        }
        join(partner)?.map_err(text)
    })
}

fn allocation_storms() -> TestResult {
    on_all_cpus(|seed| {
        let mut random = Random(seed + 99);
        let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(256);
        for _ in 0..20_000_000 {
            if blocks.len() == 256 || random.next().is_multiple_of(2) && !blocks.is_empty() {
                let block = blocks.swap_remove(random.next() as usize % blocks.len());
                let tag = block.len() as u8;
                ensure!(block.first() == Some(&tag) && block.last() == Some(&tag), "a block was overwritten");
            } else {
                let length = 1 + random.next() as usize % (1 << (random.next() % 14));
                let mut block = Vec::new();
                block.try_reserve_exact(length).map_err(|_| "out of memory")?;
                block.resize(length, length as u8);
                blocks.push(block);
            }
            if random.next().is_multiple_of(1024) {
                thread::yield_now();
            }
        }
        Ok(())
    })
}
