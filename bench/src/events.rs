//! Waking other threads: events, condition variables, message queues.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kernel::cpu;
use kernel::thread::{self, Builder, JoinHandle};
use kernel::wait::{Condition, Event, MessageQueue, Mutex, Semaphore};

use report::Samples;

use crate::Benchmark;
use crate::harness::{
    Outcome, Setting, Spinners, check, cpu_after, cycles, deadline, finish, spin_for, text, wait_until_blocked, work,
};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "event_wake_local",
        about: "event signal to waiter running, same CPU",
        cpus: 1,
        run: |setting| event_on(setting, cpu_after(0), thread::yield_now),
    },
    Benchmark {
        name: "event_wake_remote_idle",
        about: "event signal to waiter running, other CPU asleep",
        cpus: 2,
        run: |setting| event_on(setting, cpu_after(1), || ()),
    },
    Benchmark {
        name: "event_wake_remote_busy",
        about: "event signal to waiter running, other CPU computing",
        cpus: 2,
        run: event_busy_cpu,
    },
    Benchmark {
        name: "condvar_wake_local",
        about: "condition signal to waiter running, same CPU",
        cpus: 1,
        run: |setting| condition(setting, cpu_after(0), thread::yield_now),
    },
    Benchmark {
        name: "condvar_wake_remote_idle",
        about: "condition signal to waiter running, other CPU asleep",
        cpus: 2,
        run: |setting| condition(setting, cpu_after(1), || ()),
    },
    Benchmark {
        name: "broadcast_all",
        about: "event broadcast until the last of a waiter on every CPU runs",
        cpus: 1,
        run: broadcast,
    },
    Benchmark {
        name: "semaphore_ping_pong",
        about: "two semaphores, there and back, same CPU",
        cpus: 1,
        run: semaphores,
    },
    Benchmark {
        name: "message_ping_pong_local",
        about: "message there and back, same CPU",
        cpus: 1,
        run: |setting| ping_pong(setting, cpu_after(0)),
    },
    Benchmark {
        name: "message_ping_pong_remote",
        about: "message there and back, other CPU",
        cpus: 2,
        run: |setting| ping_pong(setting, cpu_after(1)),
    },
    Benchmark { name: "message_stream", about: "a message of a stream of 64 to another CPU", cpus: 2, run: stream },
];

/// Signals a waiter on `cpu`; `give_way` lets the waiter run if it shares our CPU.
fn event_on(setting: &Setting<'_>, cpu: usize, give_way: fn()) -> Outcome {
    static SIGNAL: Event = Event::new();
    static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    SIGNAL.reset();
    let waiter = Builder::new("bench").cpu(cpu).spawn(|| {
        while !STOP.load(Ordering::Relaxed) {
            SIGNAL.wait();
            WOKEN_AT.store(cycles(), Ordering::Release);
        }
    });
    let waiter = waiter.map_err(text)?;
    let mut samples = setting.samples()?;
    let mut result = Ok(());
    while !samples.is_complete() && result.is_ok() {
        result = wait_until_blocked(&waiter);
        WOKEN_AT.store(0, Ordering::Relaxed);
        let start = cycles();
        work(|| SIGNAL.signal());
        give_way();
        result = result.and(spin_for("a wake-up got lost", || WOKEN_AT.load(Ordering::Acquire) != 0));
        samples.add(start, WOKEN_AT.load(Ordering::Relaxed));
    }
    STOP.store(true, Ordering::Relaxed);
    SIGNAL.signal();
    let ended = finish(waiter);
    result.and(ended).map(|()| samples)
}

fn event_busy_cpu(setting: &Setting<'_>) -> Outcome {
    let spinners = Spinners::start(core::iter::once(cpu_after(1)))?;
    let samples = event_on(setting, cpu_after(1), || ());
    drop(spinners);
    samples
}

fn condition(setting: &Setting<'_>, cpu: usize, give_way: fn()) -> Outcome {
    static ROUND: Mutex<(usize, bool)> = Mutex::new((0, false));
    static CHANGED: Condition = Condition::new();
    static WOKEN_AT: AtomicU64 = AtomicU64::new(0);
    *ROUND.lock() = (0, false);
    WOKEN_AT.store(0, Ordering::Relaxed);
    let waiter = Builder::new("bench").cpu(cpu).spawn(|| {
        let mut guard = ROUND.lock();
        let mut wakeups = 0;
        while !guard.1 {
            let before = guard.0;
            guard = CHANGED.wait(guard);
            WOKEN_AT.store(cycles(), Ordering::Relaxed);
            wakeups += guard.0 - before;
        }
        wakeups
    });
    let waiter = waiter.map_err(text)?;
    let mut samples = setting.samples()?;
    let mut result = Ok(());
    while !samples.is_complete() && result.is_ok() {
        result = wait_until_blocked(&waiter);
        ROUND.lock().0 += 1;
        let start = cycles();
        let woken = work(|| CHANGED.signal());
        give_way();
        result = result.and(check(woken == Some(true), "a signal woke no thread"));
        result = result.and(spin_for("a wake-up got lost", || WOKEN_AT.load(Ordering::Relaxed) >= start));
        samples.add(start, WOKEN_AT.load(Ordering::Relaxed));
    }
    let blocked = wait_until_blocked(&waiter);
    ROUND.lock().1 = true;
    CHANGED.signal();
    let wakeups = finish(waiter);
    result.and(blocked)?;
    let wakeups = wakeups?;
    check(wakeups == samples.rounds(), &format!("{wakeups} wake-ups for {} signals", samples.rounds()))?;
    Ok(samples)
}

/// The waiters of a broadcast, and their shared state.
struct Audience {
    signal: Event,
    /// Waiters that have not run since the last broadcast.
    missing: AtomicUsize,
    last_at: AtomicU64,
    stop: AtomicBool,
}

fn broadcast(setting: &Setting<'_>) -> Outcome {
    broadcast_into(setting.samples()?)
}

/// Wakes a waiter on every CPU repeatedly.
pub fn broadcast_into(mut samples: Samples) -> Outcome {
    let audience = Arc::new(Audience {
        signal: Event::new(),
        missing: AtomicUsize::new(0),
        last_at: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let cpus = cpu::count();
    let mut waiters: Vec<JoinHandle<()>> = Vec::new();
    for steps in 0..cpus {
        let theirs = audience.clone();
        let waiter = Builder::new("bench").cpu(cpu_after(steps)).spawn(move || {
            loop {
                theirs.signal.wait();
                theirs.last_at.fetch_max(cycles(), Ordering::Relaxed);
                theirs.missing.fetch_sub(1, Ordering::Release);
                if theirs.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        waiters.push(waiter.map_err(text)?);
    }
    let mut result = Ok(());
    while !samples.is_complete() && result.is_ok() {
        result = waiters.iter().try_for_each(wait_until_blocked);
        audience.missing.store(cpus, Ordering::Relaxed);
        let start = cycles();
        let woken = work(|| audience.signal.broadcast());
        result = result.and(check(woken == Some(cpus), "a broadcast did not wake all"));
        let all_came = || {
            // Lets the waiter on this CPU run.
            thread::yield_now();
            audience.missing.load(Ordering::Acquire) == 0
        };
        result = result.and(spin_for("a wake-up got lost", all_came));
        samples.add(start, audience.last_at.load(Ordering::Relaxed));
    }
    result = result.and(waiters.iter().try_for_each(wait_until_blocked));
    audience.stop.store(true, Ordering::Relaxed);
    audience.signal.broadcast();
    let ended = waiters.into_iter().try_for_each(finish);
    result.and(ended).map(|()| samples)
}

fn semaphores(setting: &Setting<'_>) -> Outcome {
    static PING: Semaphore = Semaphore::new(0);
    static PONG: Semaphore = Semaphore::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let mut samples = setting.samples()?;
    let partner = thread::spawn("bench", || {
        let mut rounds = 0;
        loop {
            PING.down();
            if STOP.load(Ordering::Relaxed) {
                return rounds;
            }
            rounds += 1;
            PONG.up();
        }
    });
    let partner = partner.map_err(text)?;
    thread::yield_now();
    while !samples.is_complete() {
        let start = cycles();
        work(|| {
            PING.up();
            PONG.down();
        });
        samples.add(start, cycles());
    }
    STOP.store(true, Ordering::Relaxed);
    PING.up();
    let rounds: usize = finish(partner)?;
    check(rounds == samples.rounds(), "a round got lost")?;
    Ok(samples)
}

/// The message that ends the partner thread.
const END: u64 = u64::MAX;

fn ping_pong(setting: &Setting<'_>, cpu: usize) -> Outcome {
    let there = Arc::new(MessageQueue::new(1).map_err(text)?);
    let back = Arc::new(MessageQueue::new(1).map_err(text)?);
    let (theirs, ours) = (there.clone(), back.clone());
    let partner = Builder::new("bench").cpu(cpu).spawn(move || {
        loop {
            match theirs.receive() {
                END => return,
                message => ours.send(message + 1),
            }
        }
    });
    let partner = partner.map_err(text)?;
    let mut number = 0;
    let samples = setting.repeat(
        || {
            number += 2;
            there.send(number);
            (number, back.receive())
        },
        |(sent, answer)| answer == sent + 1,
    );
    there.send(END);
    finish(partner)?;
    samples
}

/// Number of messages in a stream.
const STREAM: u64 = 64;

fn stream(setting: &Setting<'_>) -> Outcome {
    let messages = Arc::new(MessageQueue::new(STREAM as usize).map_err(text)?);
    let sums = Arc::new(MessageQueue::new(1).map_err(text)?);
    let (theirs, ours) = (messages.clone(), sums.clone());
    let consumer = Builder::new("bench").cpu(cpu_after(1)).spawn(move || {
        loop {
            let mut sum = 0u64;
            for _ in 0..STREAM {
                match theirs.receive() {
                    END => return,
                    message => sum += message,
                }
            }
            ours.send(sum);
        }
    });
    let consumer = consumer.map_err(text)?;
    let mut samples = setting.samples()?;
    let mut result = Ok(());
    while !samples.is_complete() && result.is_ok() {
        let start = cycles();
        work(|| (0..STREAM).for_each(|message| messages.send(message)));
        let sum = sums.receive_until(deadline());
        samples.add_shared(start, cycles(), STREAM);
        result = check(sum == Ok(STREAM * (STREAM - 1) / 2), "messages got lost");
    }
    messages.send(END);
    finish(consumer)?;
    result.map(|()| samples)
}
