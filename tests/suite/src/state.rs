//! Snapshots.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use kernel::Snapshot;
use kernel::cpu;
use kernel::snapshot::{Activity, backtrace};
use kernel::thread::{self, Builder};
use kernel::wait::Event;

use crate::support::{join, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![snapshots_of_a_busy_machine_are_consistent, a_backtrace_shows_where_a_thread_waits];

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
    let result = (0..100).try_for_each(|_| check(&Snapshot::take()));
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
        // The idle thread is ready without being in the queue; a thread on its way here is ready and in the mailbox.
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
    let found = backtrace(waiter.thread().id());
    event.signal();
    let id = waiter.thread().id();
    join(waiter)?;
    let Some((addresses, certain)) = found else { return Err("there is no such thread".into()) };
    ensure!(certain && addresses.len() >= 2, "{} frames, certain: {certain}", addresses.len());
    ensure!(backtrace(u64::MAX).is_none(), "a thread that is not there has a backtrace; {id}");
    Ok(())
}
