//! Threads: creation, exit, migration, scheduling.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::*;
use kernel::cpu;
use kernel::lock::SpinLock;
use kernel::thread::local::ThreadLocal;
use kernel::thread::{self, Builder, JoinError, SpawnError};
use kernel::time::Deadline;
use kernel::wait::Event;

use crate::support::{CountsDrops, LIMIT, Random, SHORT, eventually, join, takes_at_least, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![
    join_gives_the_result,
    results_are_dropped_exactly_once,
    exit_leaves_no_result,
    join_times_out,
    names_are_kept_and_cut,
    spawn_runs_on_the_cpu_asked_for,
    spawn_errors_are_told,
    large_stacks_are_usable,
    yield_is_fair,
    sleep_is_not_early,
    thread_locals_are_separate_and_dropped,
    migration_goes_everywhere,
    a_blocked_thread_migrates_when_woken,
    a_running_thread_migrates,
    migrations_and_wake_ups_at_once_lose_nobody,
    busy_threads_share_a_cpu,
    a_solo_thread_takes_no_tick,
    thousands_of_threads_live_at_once,
];

fn join_gives_the_result() -> TestResult {
    for value in 0..100u64 {
        let handle = thread::spawn("adder", move || value + 1).map_err(text)?;
        ensure!(join(handle)? == value + 1, "wrong result");
    }
    Ok(())
}

fn results_are_dropped_exactly_once() -> TestResult {
    static DROPS: AtomicU64 = AtomicU64::new(0);
    DROPS.store(0, Ordering::SeqCst);
    let make = || thread::spawn("dropper", || CountsDrops(&DROPS)).map_err(text);
    drop(join(make()?)?);
    ensure!(DROPS.load(Ordering::SeqCst) == 1, "a joined result was dropped {} times", DROPS.load(Ordering::SeqCst));
    // Detached before it ran: the thread drops the result.
    make()?.detach();
    eventually("the detached thread's result is dropped", || DROPS.load(Ordering::SeqCst) == 2)?;
    // Detached after it ended: the handle drops the result.
    let handle = make()?;
    eventually("the thread ends", || handle.is_finished())?;
    ensure!(DROPS.load(Ordering::SeqCst) == 2, "a result was dropped under its handle");
    drop(handle);
    ensure!(DROPS.load(Ordering::SeqCst) == 3, "a result nobody joined was not dropped");
    Ok(())
}

fn exit_leaves_no_result() -> TestResult {
    let handle = thread::spawn("leaver", || -> u64 {
        // SAFETY: the thread's stack holds no value that needs dropping.
        unsafe { thread::exit() }
    })
    .map_err(text)?;
    ensure!(handle.join() == Err(JoinError::Exited), "a thread that exited had a result");
    Ok(())
}

fn join_times_out() -> TestResult {
    let event = Arc::new(Event::new());
    let theirs = event.clone();
    let handle = thread::spawn("waiter", move || theirs.wait()).map_err(text)?;
    let back = takes_at_least(SHORT, || handle.join_until(Deadline::after(SHORT)))?;
    let Err(handle) = back else { return Err("join did not time out".into()) };
    event.signal();
    join(handle)
}

fn names_are_kept_and_cut() -> TestResult {
    let long = "a name of more than thirty-one bytes, far more";
    let handle = thread::spawn(long, || ()).map_err(text)?;
    ensure!(handle.thread().name() == &long[..31], "the name is {:?}", handle.thread().name());
    join(handle)
}

fn spawn_runs_on_the_cpu_asked_for() -> TestResult {
    for cpu in cpu::all() {
        let handle = Builder::new("here").cpu(cpu.index).spawn(cpu::this_index).map_err(text)?;
        let ran_on = join(handle)?;
        ensure!(ran_on == cpu.index, "asked for CPU {}, ran on {ran_on}", cpu.index);
    }
    Ok(())
}

fn spawn_errors_are_told() -> TestResult {
    let absent = cpu::limit() + 7;
    let result = Builder::new("nowhere").cpu(absent).spawn(|| ());
    ensure!(matches!(result, Err(SpawnError::NoSuchCpu(_))), "a thread was spawned on a CPU that is not there");
    let large = [1u8; DEFAULT_STACK_SIZE / 2 + 1];
    let result = thread::spawn("large", move || large.len());
    ensure!(matches!(result, Err(SpawnError::ClosureTooLarge { .. })), "a closure larger than the stack was accepted");
    let result = Builder::new("huge").stack_size(1 << 40).spawn(|| ());
    ensure!(matches!(result, Err(SpawnError::OutOfMemory)), "a stack of a terabyte was given");
    Ok(())
}

fn large_stacks_are_usable() -> TestResult {
    let handle = Builder::new("deep")
        .stack_size(1 << 20)
        .spawn(|| {
            let filler = core::hint::black_box([7u8; 800_000]);
            filler.iter().map(|&byte| u64::from(byte)).sum::<u64>()
        })
        .map_err(text)?;
    ensure!(join(handle)? == 5_600_000, "wrong sum");
    Ok(())
}

fn yield_is_fair() -> TestResult {
    let order = Arc::new(SpinLock::new(Vec::with_capacity(64)));
    let handles: Vec<_> = (0..4)
        .map(|number| {
            let order = order.clone();
            thread::spawn("turn", move || {
                for _ in 0..4 {
                    order.lock().push(number);
                    thread::yield_now();
                }
            })
            .map_err(text)
        })
        .collect::<Result<_, _>>()?;
    handles.into_iter().try_for_each(join)?;
    let order = order.lock().clone();
    for round in order.chunks(4) {
        let mut sorted = round.to_vec();
        sorted.sort_unstable();
        ensure!(sorted == [0, 1, 2, 3], "somebody had two turns in a round: {order:?}");
    }
    Ok(())
}

fn sleep_is_not_early() -> TestResult {
    for microseconds in [0, 1, 100, 3000] {
        let duration = Duration::from_micros(microseconds);
        takes_at_least(duration, || thread::sleep(duration))?;
    }
    Ok(())
}

fn thread_locals_are_separate_and_dropped() -> TestResult {
    static DROPS: AtomicU64 = AtomicU64::new(0);
    static VALUE: ThreadLocal<(AtomicU64, CountsDrops)> = ThreadLocal::new(|| (AtomicU64::new(5), CountsDrops(&DROPS)));
    DROPS.store(0, Ordering::SeqCst);
    let handles: Vec<_> = (0..4u64)
        .map(|number| {
            thread::spawn("local", move || {
                for _ in 0..10 {
                    let _ = VALUE.with(|value| value.0.fetch_add(number, Ordering::Relaxed));
                    thread::yield_now();
                }
                VALUE.with(|value| value.0.load(Ordering::Relaxed)).unwrap_or(0)
            })
            .map_err(text)
        })
        .collect::<Result<_, _>>()?;
    for (number, handle) in handles.into_iter().enumerate() {
        let value = join(handle)?;
        ensure!(value == 5 + 10 * number as u64, "thread {number} read {value}");
    }
    ensure!(DROPS.load(Ordering::SeqCst) == 4, "{} of 4 values were dropped", DROPS.load(Ordering::SeqCst));
    Ok(())
}

fn migration_goes_everywhere() -> TestResult {
    let wanderer = || -> TestResult {
        for _ in 0..20 {
            for cpu in cpu::all() {
                thread::migrate(cpu.index).map_err(text)?;
                ensure!(cpu::this_index() == cpu.index, "migrated to CPU {}, is on {}", cpu.index, cpu::this_index());
            }
        }
        ensure!(thread::migrate(cpu::limit()).is_err(), "migrated to a CPU that is not there");
        Ok(())
    };
    let handles: Vec<_> =
        (0..4).map(|_| thread::spawn("wanderer", wanderer).map_err(text)).collect::<Result<_, _>>()?;
    handles.into_iter().try_for_each(|handle| join(handle)?)
}

fn a_blocked_thread_migrates_when_woken() -> TestResult {
    let event = Arc::new(Event::new());
    for cpu in cpu::all() {
        let theirs = event.clone();
        let waiter =
            thread::spawn("sleeper", move || theirs.wait_until(Deadline::after(LIMIT)).map(|()| cpu::this_index()))
                .map_err(text)?;
        until_blocked(&waiter)?;
        waiter.migrate(cpu.index).map_err(text)?;
        event.signal();
        let woke_on = join(waiter)?.map_err(text)?;
        ensure!(woke_on == cpu.index, "woke on CPU {woke_on} instead of {}", cpu.index);
    }
    Ok(())
}

fn a_running_thread_migrates() -> TestResult {
    let target = cpu::limit() - 1;
    let start = (cpu::this_index() + 1) % cpu::limit();
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let spinner = Builder::new("spinner")
        .cpu(start)
        .spawn(move || {
            let deadline = Deadline::after(LIMIT);
            while cpu::this_index() != target && !deadline.has_passed() {
                core::hint::spin_loop();
            }
            theirs.store(true, Ordering::SeqCst);
            cpu::this_index()
        })
        .map_err(text)?;
    spinner.migrate(target).map_err(text)?;
    ensure!(join(spinner)? == target, "a spinning thread did not move");
    ensure!(stop.load(Ordering::SeqCst), "it did not go on there");
    Ok(())
}

fn migrations_and_wake_ups_at_once_lose_nobody() -> TestResult {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    ROUNDS.store(0, Ordering::SeqCst);
    let wanted = 2000;
    let (event, answer) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let (their_event, their_answer) = (event.clone(), answer.clone());
    let traveller = thread::spawn("traveller", move || {
        for _ in 0..wanted {
            their_event.wait_until(Deadline::after(LIMIT))?;
            ROUNDS.fetch_add(1, Ordering::SeqCst);
            their_answer.signal();
            // The thread is nearly always still on its way into the next wait when told to move.
            thread::yield_now();
        }
        Ok::<(), kernel::wait::TimedOut>(())
    })
    .map_err(text)?;
    let mut random = Random(3);
    for round in 0..wanted {
        traveller.migrate(random.next() as usize % cpu::limit()).map_err(text)?;
        event.signal();
        traveller.migrate(random.next() as usize % cpu::limit()).map_err(text)?;
        answer.wait_until(Deadline::after(LIMIT)).map_err(|_| alloc::format!("lost in round {round}"))?;
    }
    join(traveller)?.map_err(text)?;
    ensure!(ROUNDS.load(Ordering::SeqCst) == wanted, "{} rounds of {wanted}", ROUNDS.load(Ordering::SeqCst));
    Ok(())
}

fn busy_threads_share_a_cpu() -> TestResult {
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicU64; 3]> = Arc::new([const { AtomicU64::new(0) }; 3]);
    let target = cpu::limit() - 1;
    let handles: Vec<_> = (0..3)
        .map(|number| {
            let (stop, counts) = (stop.clone(), counts.clone());
            Builder::new("busy")
                .cpu(target)
                .spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        counts[number].fetch_add(1, Ordering::Relaxed);
                        core::hint::spin_loop();
                    }
                })
                .map_err(text)
        })
        .collect::<Result<_, _>>()?;
    let all_ran =
        eventually("all busy threads had a turn", || counts.iter().all(|count| count.load(Ordering::Relaxed) > 0));
    stop.store(true, Ordering::Relaxed);
    handles.into_iter().try_for_each(join)?;
    all_ran
}

fn a_solo_thread_takes_no_tick() -> TestResult {
    let target = cpu::limit() - 1;
    if target == cpu::this_index() {
        return Ok(()); // With one CPU, this thread is never solo on another.
    }
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let spinner = Builder::new("solo")
        .cpu(target)
        .spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        })
        .map_err(text)?;
    let fired = || {
        let snapshot = kernel::snapshot::take();
        snapshot
            .cpus
            .iter()
            .find(|cpu| cpu.index as usize == target)
            .map_or((0, true), |cpu| (cpu.timers_fired, cpu.ticking))
    };
    // A tick left over from before expires by itself.
    let settled = eventually("the tick stops", || !fired().1);
    let before = fired().0;
    thread::sleep(Duration::from_millis(60));
    let after = fired().0;
    stop.store(true, Ordering::Relaxed);
    join(spinner)?;
    settled?;
    ensure!(after == before, "{} timers fired on a CPU with one thread", after - before);
    Ok(())
}

fn thousands_of_threads_live_at_once() -> TestResult {
    let gate = Arc::new(Event::new());
    let arrived = Arc::new(AtomicU64::new(0));
    let count = 2000;
    let mut handles = Vec::with_capacity(count);
    let mut result = Ok(());
    for number in 0..count {
        let (gate, arrived) = (gate.clone(), arrived.clone());
        let spawned = Builder::new("crowd").cpu(number % cpu::limit()).stack_size(4096).spawn(move || {
            arrived.fetch_add(1, Ordering::Relaxed);
            gate.wait();
        });
        match spawned {
            Ok(handle) => handles.push(handle),
            Err(SpawnError::OutOfMemory) if number > 200 => break, // The machine's memory is exhausted.
            Err(error) => {
                result = Err(text(error));
                break;
            }
        }
    }
    let crowd = handles.len() as u64;
    let all = eventually("all threads run", || arrived.load(Ordering::Relaxed) == crowd);
    gate.latch();
    handles.into_iter().try_for_each(join)?;
    result.and(all)
}
