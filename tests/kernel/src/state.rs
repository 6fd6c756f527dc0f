//! Snapshots of the kernel's state.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use kernel::backtrace;
use kernel::lock::InterruptGuard;
use kernel::snapshot;
use kernel::thread::{self, Builder};
use kernel::wait::Event;
use kernel::{call, cpu};

use wire::snapshot::{Activity, Snapshot};

use crate::support::{LIMIT, eventually, join, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![
    snapshots_of_a_busy_machine_are_consistent,
    a_backtrace_shows_where_a_thread_waits,
    a_backtrace_shows_a_thread_that_serves_calls,
];

fn snapshots_of_a_busy_machine_are_consistent() -> TestResult {
    let stop = Arc::new(AtomicBool::new(false));
    let mut handles = Vec::new();
    for number in 0..3 * cpu::limit() {
        let stop = stop.clone();
        let work = move || {
            while !stop.load(Ordering::Relaxed) {
                if number % 3 == 0 {
                    let short_lived = thread::spawn("short", || ());
                    let _ = short_lived.map(|handle| handle.join());
                } else {
                    thread::yield_now();
                }
            }
        };
        handles.push(Builder::new("busy").cpu(number % cpu::limit()).spawn(work).map_err(text)?);
    }
    let result = (0..100).try_for_each(|_| check(&snapshot::take()));
    stop.store(true, Ordering::Relaxed);
    handles.into_iter().try_for_each(join)?;
    result
}

fn check(snapshot: &Snapshot) -> TestResult {
    ensure!(snapshot.cpus.len() == cpu::count(), "{} CPUs are described", snapshot.cpus.len());
    for cpu in &snapshot.cpus {
        ensure!(cpu.answered, "CPU {} did not answer", cpu.index);
        let threads = || snapshot.threads.iter().filter(|thread| thread.cpu == cpu.index);
        let count = |activity| threads().filter(|thread| thread.activity == activity).count();
        ensure!(count(Activity::Running) == 1, "CPU {} runs {} threads", cpu.index, count(Activity::Running));
        let running = threads().find(|thread| thread.activity == Activity::Running).map(|thread| thread.id);
        ensure!(running == Some(cpu.running), "CPU {} runs {running:?} and {}", cpu.index, cpu.running);
        // The idle thread is ready without being queued, and a thread on its way here is ready but
        // still in the mailbox.
        let queued: BTreeSet<u64> = cpu.ready.iter().copied().collect();
        ensure!(queued.len() as u64 == cpu.ready_count, "CPU {}: a thread is queued twice", cpu.index);
        for id in &cpu.ready {
            let listed = threads().find(|thread| thread.id == *id).map(|thread| thread.activity);
            ensure!(listed == Some(Activity::Ready), "thread {id} is queued and {listed:?}");
        }
    }
    Ok(())
}

fn a_backtrace_shows_where_a_thread_waits() -> TestResult {
    let event = Arc::new(Event::new());
    let theirs = event.clone();
    let waiter = Builder::new("waiter").cpu(cpu::limit() - 1).spawn(move || theirs.wait()).map_err(text)?;
    until_blocked(&waiter)?;
    let found = backtrace::of_thread(waiter.thread().id());
    event.signal();
    let id = waiter.thread().id();
    join(waiter)?;
    let Some((addresses, certain)) = found else { return Err("there is no such thread".into()) };
    ensure!(certain && addresses.len() >= 2, "{} frames, certain: {certain}", addresses.len());
    ensure!(backtrace::of_thread(u64::MAX).is_none(), "a thread that is not there has a backtrace; {id}");
    Ok(())
}

/// A thread that waits for another CPU with interrupts off runs calls like a handler, but no
/// interrupt frame says where it was.
fn a_backtrace_shows_a_thread_that_serves_calls() -> TestResult {
    const ROUNDS: usize = 50;
    /// An upper bound of the function's code size, in bytes.
    const LENGTH: usize = 1024;
    static STOP: AtomicBool = AtomicBool::new(false);
    static RUNS: AtomicBool = AtomicBool::new(false);
    #[inline(never)]
    fn ask_with_interrupts_off(of: usize) {
        while !STOP.load(Ordering::SeqCst) {
            RUNS.store(true, Ordering::SeqCst);
            let _guard = InterruptGuard::new();
            let _ = call::on(of, || (), LIMIT);
        }
    }
    let here = cpu::this_index();
    let Some(other) = cpu::all().find(|cpu| cpu.index != here) else { return Ok(()) };
    STOP.store(false, Ordering::SeqCst);
    RUNS.store(false, Ordering::SeqCst);
    let asker = Builder::new("asker").cpu(other.index).spawn(move || ask_with_interrupts_off(here)).map_err(text)?;
    let started = eventually("the thread asks", || RUNS.load(Ordering::SeqCst));
    let start = ask_with_interrupts_off as *const () as usize;
    let mut shown = 0;
    for _ in 0..ROUNDS {
        // Keeps the asker waiting for this CPU.
        let _guard = InterruptGuard::new();
        let frames = backtrace::of_thread(asker.thread().id()).map_or(Vec::new(), |(frames, _)| frames);
        shown += usize::from(frames.iter().any(|frame| (start..start + LENGTH).contains(&frame.address)));
    }
    STOP.store(true, Ordering::SeqCst);
    started?;
    join(asker)?;
    // Code for the host has no frame pointers.
    let has_frame_pointers = cfg!(target_os = "none");
    ensure!(shown == ROUNDS || !has_frame_pointers, "{shown} of {ROUNDS} backtraces lead to where the thread is");
    Ok(())
}
