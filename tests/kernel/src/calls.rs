//! Calls of functions on other CPUs.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use kernel::call::{self, CallError, CpuSet};
use kernel::lock::InterruptGuard;
use kernel::thread::Builder;
use kernel::time::{Deadline, spin_until};
use kernel::wait::Event;
use kernel::{cpu, interrupts, thread};

use crate::support::{LIMIT, eventually, join, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![
    a_call_runs_where_it_should,
    a_call_to_all_runs_on_all,
    a_set_excludes_the_others,
    a_call_without_waiting_arrives,
    a_cpu_that_does_not_answer_is_an_error,
    calls_cross_without_deadlock,
    a_broadcast_interrupt_reaches_all_others,
    a_handler_never_runs_once_unregistered,
    a_handler_that_waits_has_not_returned,
    a_cpu_that_could_not_be_told_is_told_later,
];

fn a_call_runs_where_it_should() -> TestResult {
    for target in cpu::all() {
        let ran_on = Arc::new(AtomicU64::new(u64::MAX));
        let theirs = ran_on.clone();
        let run = move || theirs.store(cpu::this_index() as u64, Ordering::SeqCst);
        call::on(target.index, run, LIMIT).map_err(text)?;
        let ran_on = ran_on.load(Ordering::SeqCst);
        ensure!(ran_on == target.index as u64, "asked CPU {}, ran on {ran_on}", target.index);
    }
    let absent = call::on(cpu::limit(), || (), LIMIT);
    ensure!(matches!(absent, Err(CallError::NoSuchCpu(_))), "a CPU that is not there answered");
    Ok(())
}

fn a_call_to_all_runs_on_all() -> TestResult {
    let ran = Arc::new(AtomicU64::new(0));
    for _ in 0..200 {
        ran.store(0, Ordering::SeqCst);
        let theirs = ran.clone();
        let run = move || {
            theirs.fetch_or(1 << cpu::this_index(), Ordering::SeqCst);
        };
        call::on_all(run, LIMIT).map_err(text)?;
        let wanted = cpu::all().fold(0, |set, cpu| set | 1 << cpu.index);
        ensure!(ran.load(Ordering::SeqCst) == wanted, "ran on {:#b}", ran.load(Ordering::SeqCst));
    }
    Ok(())
}

fn a_set_excludes_the_others() -> TestResult {
    let ran = Arc::new(AtomicU64::new(0));
    let theirs = ran.clone();
    let mut set = CpuSet::all();
    set.remove(cpu::this_index());
    let run = move || {
        theirs.fetch_or(1 << cpu::this_index(), Ordering::SeqCst);
    };
    call::on_set(set, run, LIMIT).map_err(text)?;
    let wanted = set.iter().fold(0, |all, cpu| all | 1u64 << cpu);
    ensure!(ran.load(Ordering::SeqCst) == wanted, "ran on {:#b}", ran.load(Ordering::SeqCst));
    Ok(())
}

fn a_call_without_waiting_arrives() -> TestResult {
    let ran = Arc::new(AtomicU64::new(0));
    for target in cpu::all() {
        for _ in 0..50 {
            let theirs = ran.clone();
            let run = move || {
                theirs.fetch_add(1, Ordering::SeqCst);
            };
            call::start_on(target.index, run).map_err(text)?;
        }
    }
    let wanted = 50 * cpu::count() as u64;
    eventually("all calls ran", || ran.load(Ordering::SeqCst) == wanted)
}

fn a_cpu_that_does_not_answer_is_an_error() -> TestResult {
    let target = cpu::limit() - 1;
    if target == cpu::this_index() {
        return Ok(()); // A CPU always answers itself.
    }
    // A handler that keeps the CPU busy, with interrupts off, until released.
    static RELEASED: AtomicU64 = AtomicU64::new(0);
    RELEASED.store(0, Ordering::SeqCst);
    call::start_on(target, || {
        spin_until(LIMIT, || RELEASED.load(Ordering::SeqCst) != 0);
    })
    .map_err(text)?;
    let ran = Arc::new(AtomicU64::new(0));
    let theirs = ran.clone();
    let run = move || {
        theirs.store(1, Ordering::SeqCst);
    };
    let result = call::on(target, run, Duration::from_millis(20));
    let snapshot = kernel::snapshot::take();
    RELEASED.store(1, Ordering::SeqCst);
    ensure!(result == Err(CallError::NoAnswer { cpu: target }), "the result was {result:?}");
    let described = snapshot.cpus.iter().find(|cpu| cpu.index as usize == target);
    ensure!(described.is_some_and(|cpu| !cpu.answered), "a snapshot presents a silent CPU as certain");
    let certain = snapshot.threads.iter().any(|thread| thread.cpu as usize == target && thread.certain);
    ensure!(!certain, "a snapshot presents a silent CPU's threads as certain");
    eventually("the call runs once the CPU answers again", || ran.load(Ordering::SeqCst) == 1)
}

fn calls_cross_without_deadlock() -> TestResult {
    // All CPUs call all CPUs at once, half of the time with interrupts off.
    let handles: Result<alloc::vec::Vec<_>, _> = cpu::all()
        .map(|cpu| {
            kernel::thread::Builder::new("caller").cpu(cpu.index).spawn(|| {
                for round in 0..100 {
                    let guard = (round % 2 == 0).then(InterruptGuard::new);
                    let result = call::on_all(|| (), LIMIT);
                    drop(guard);
                    result?;
                }
                Ok::<(), CallError>(())
            })
        })
        .collect();
    for handle in handles.map_err(text)? {
        crate::support::join(handle)?.map_err(text)?;
    }
    Ok(())
}

fn a_broadcast_interrupt_reaches_all_others() -> TestResult {
    static ARRIVED: AtomicU64 = AtomicU64::new(0);
    ARRIVED.store(0, Ordering::SeqCst);
    let vector = interrupts::register_vector(&ARRIVED, |arrived: &AtomicU64| {
        arrived.fetch_add(1, Ordering::SeqCst);
    })
    .map_err(text)?;
    let sent = call::broadcast_ipi(vector).map_err(text);
    let others = cpu::count() as u64 - 1;
    let deadline = Deadline::after(LIMIT);
    while ARRIVED.load(Ordering::SeqCst) < others && !deadline.has_passed() {
        kernel::thread::yield_now();
    }
    interrupts::unregister_vector(vector).map_err(text)?;
    sent?;
    ensure!(ARRIVED.load(Ordering::SeqCst) == others, "{} of {others} CPUs took it", ARRIVED.load(Ordering::SeqCst));
    Ok(())
}

fn a_handler_never_runs_once_unregistered() -> TestResult {
    const ROUNDS: usize = 200;
    /// Set in a registration's word once its handler must no longer run; the other bits count
    /// calls.
    const ENDED: u64 = 1 << 63;
    static REGISTRATIONS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static CALLS_TOO_LATE: AtomicU64 = AtomicU64::new(0);
    let handler = |registration: &AtomicU64| {
        registration.fetch_add(1, Ordering::SeqCst);
        // Long enough for the other CPU to unregister the handler meanwhile.
        spin_until(Duration::from_micros(50), || false);
        if registration.load(Ordering::SeqCst) & ENDED != 0 {
            CALLS_TOO_LATE.fetch_add(1, Ordering::SeqCst);
        }
    };
    CALLS_TOO_LATE.store(0, Ordering::SeqCst);
    for round in 0..ROUNDS {
        let registration = &REGISTRATIONS[round % 2];
        registration.store(0, Ordering::SeqCst);
        let vector = interrupts::register_vector(registration, handler).map_err(text)?;
        call::broadcast_ipi(vector).map_err(text)?;
        if cpu::count() > 1 {
            let runs = spin_until(LIMIT, || registration.load(Ordering::SeqCst) > 0);
            ensure!(runs, "the handler did not run in round {round}");
        }
        interrupts::unregister_vector(vector).map_err(text)?;
        registration.fetch_or(ENDED, Ordering::SeqCst);
        // Long enough for a handler that still runs, in breach of the rule, to notice.
        spin_until(Duration::from_micros(100), || false);
    }
    let too_late = CALLS_TOO_LATE.load(Ordering::SeqCst);
    ensure!(too_late == 0, "{too_late} calls came after the handler was unregistered");
    Ok(())
}

/// A handler that waits for another CPU runs calls from other CPUs meanwhile, which must not count
/// as its return.
fn a_handler_that_waits_has_not_returned() -> TestResult {
    static STARTED: AtomicBool = AtomicBool::new(false);
    static RELEASED: AtomicBool = AtomicBool::new(false);
    static RETURNED: AtomicBool = AtomicBool::new(false);
    let here = cpu::this_index();
    let mut others = cpu::all().map(|cpu| cpu.index).filter(|&index| index != here);
    let (Some(waits), Some(is_busy)) = (others.next(), others.next()) else { return Ok(()) };
    for flag in [&STARTED, &RELEASED, &RETURNED] {
        flag.store(false, Ordering::SeqCst);
    }
    // The test's CPU, and the busy CPU.
    static PLACES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    PLACES[0].store(here as u64, Ordering::SeqCst);
    PLACES[1].store(is_busy as u64, Ordering::SeqCst);
    fn busy() {
        STARTED.store(true, Ordering::SeqCst);
        while !RELEASED.load(Ordering::SeqCst) {
            // The busy CPU also serves calls while it waits.
            let _ = call::on(PLACES[0].load(Ordering::SeqCst) as usize, || (), LIMIT);
        }
    }
    let handler = |(): &()| {
        let _ = call::on(PLACES[1].load(Ordering::SeqCst) as usize, busy, LIMIT);
        RETURNED.store(true, Ordering::SeqCst);
    };
    let vector = interrupts::register_vector(&(), handler).map_err(text)?;
    call::send_ipi(waits, vector).map_err(text)?;
    eventually("the handler waits", || STARTED.load(Ordering::SeqCst))?;
    let release = Builder::new("release").cpu(here).spawn(|| {
        thread::sleep(Duration::from_millis(20));
        RELEASED.store(true, Ordering::SeqCst);
    });
    let release = release.map_err(text)?;
    interrupts::unregister_vector(vector).map_err(text)?;
    let returned = RETURNED.load(Ordering::SeqCst);
    join(release)?;
    ensure!(returned, "a handler was unregistered while it ran");
    Ok(())
}

fn a_cpu_that_could_not_be_told_is_told_later() -> TestResult {
    static WOKEN: Event = Event::new();
    static RAN: AtomicU64 = AtomicU64::new(0);
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    RAN.store(0, Ordering::SeqCst);
    let note = || {
        RAN.fetch_add(1, Ordering::SeqCst);
    };
    for failures in [1, 3] {
        call::faults::fail_next_interrupts(failures);
        call::on(other.index, note, LIMIT).map_err(text)?;
        call::faults::fail_next_interrupts(failures);
        call::start_on(other.index, note).map_err(text)?;
        // The mailbox is no longer empty, so later calls send no interrupt.
        call::on(other.index, note, LIMIT).map_err(text)?;
        let waiter = Builder::new("waiter").cpu(other.index).spawn(|| WOKEN.wait()).map_err(text)?;
        until_blocked(&waiter)?;
        call::faults::fail_next_interrupts(failures);
        WOKEN.signal();
        join(waiter)?;
        call::faults::fail_next_interrupts(0);
    }
    let ran = RAN.load(Ordering::SeqCst);
    ensure!(ran == 6, "{ran} of 6 calls ran");
    Ok(())
}
