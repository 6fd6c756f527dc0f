//! Interaction between CPUs: interrupts, calls, barriers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kernel::collective::Collective;
use kernel::thread::Builder;
use kernel::{call, cpu, interrupts};

use crate::Benchmark;
use crate::harness::{
    Outcome, Setting, Spinners, check, cpu_after, cycles, deadline, finish, other_cpus, spin_for, text, work,
};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "ipi_one_way",
        about: "IPI to its handler's first instruction, target spinning",
        cpus: 2,
        run: |setting| ipi(setting, Until::Arrived),
    },
    Benchmark {
        name: "ipi_round_trip",
        about: "IPI there and an answer in memory back, target spinning",
        cpus: 2,
        run: |setting| ipi(setting, Until::Answered),
    },
    Benchmark {
        name: "ipi_broadcast",
        about: "IPI to all other CPUs until the last has answered, all spinning",
        cpus: 2,
        run: |setting| ipi(setting, Until::AllAnswered),
    },
    Benchmark { name: "remote_call", about: "remote call, waiting, target spinning", cpus: 2, run: remote_call },
    Benchmark { name: "barrier_all", about: "barrier of a thread on every CPU", cpus: 1, run: barrier },
];

/// The event that ends the measured time of an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Arrived,
    Answered,
    AllAnswered,
}

struct Arrivals {
    number: AtomicUsize,
    last_at: AtomicU64,
}

// SAFETY: the fields are atomics, whose operations neither lock nor allocate.
unsafe impl kernel::wait::InterruptSafe for Arrivals {}

fn ipi(setting: &Setting<'_>, until: Until) -> Outcome {
    static ARRIVALS: Arrivals = Arrivals { number: AtomicUsize::new(0), last_at: AtomicU64::new(0) };
    ARRIVALS.number.store(0, Ordering::Relaxed);
    let vector = match until {
        Until::Arrived => interrupts::register_vector(&ARRIVALS, |arrivals: &Arrivals| {
            arrivals.last_at.store(cycles(), Ordering::Relaxed);
            arrivals.number.fetch_add(1, Ordering::Release);
        }),
        _ => interrupts::register_vector(&ARRIVALS, |arrivals: &Arrivals| {
            arrivals.number.fetch_add(1, Ordering::Release);
        }),
    };
    let vector = vector.map_err(text)?;
    let result = measure_ipi(setting, until, vector, &ARRIVALS);
    interrupts::unregister_vector(vector).map_err(text)?;
    result
}

fn measure_ipi(setting: &Setting<'_>, until: Until, vector: u8, arrivals: &Arrivals) -> Outcome {
    let _spinners = Spinners::start(other_cpus())?;
    let target = cpu_after(1);
    let answers = if until == Until::AllAnswered { cpu::count() - 1 } else { 1 };
    let mut samples = setting.samples()?;
    let mut expected = 0;
    while !samples.is_complete() {
        expected += answers;
        let start = cycles();
        let sent = work(|| match until {
            Until::AllAnswered => call::broadcast_ipi(vector),
            _ => call::send_ipi(target, vector),
        });
        let arrived = spin_for("an IPI got lost", || arrivals.number.load(Ordering::Acquire) == expected);
        let end = cycles();
        sent.ok_or("nothing was sent")?.map_err(text)?;
        arrived?;
        let arrived_at = arrivals.last_at.load(Ordering::Relaxed);
        samples.add(start, if until == Until::Arrived { arrived_at } else { end });
    }
    Ok(samples)
}

fn remote_call(setting: &Setting<'_>) -> Outcome {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    RAN.store(0, Ordering::Relaxed);
    let _spinners = Spinners::start(core::iter::once(cpu_after(1)))?;
    let target = cpu_after(1);
    let operation = || {
        let run = || {
            RAN.fetch_add(1, Ordering::Relaxed);
        };
        call::on(target, run, call::DEFAULT_LIMIT)
    };
    let samples = setting.repeat(operation, |result| result.is_ok())?;
    check(RAN.load(Ordering::Relaxed) == samples.rounds(), "a call did not run")?;
    Ok(samples)
}

/// Barriers per sample: the last to arrive passes at once, and it is not always the same CPU.
const BARRIERS: usize = 16;

fn barrier(setting: &Setting<'_>) -> Outcome {
    let collective = Arc::new(Collective::new(cpu::count()).map_err(text)?);
    let mut samples = setting.samples()?;
    let rounds = samples.rounds() * BARRIERS;
    let mut partners = Vec::new();
    for cpu in other_cpus() {
        let theirs = collective.clone();
        let partner = Builder::new("bench").cpu(cpu).spawn(move || {
            (0..rounds).try_fold(0, |last, _| theirs.barrier(deadline()).map(|was_last| last + usize::from(was_last)))
        });
        partners.push(partner.map_err(text)?);
    }
    // In each round exactly one member is told that it arrived last.
    let mut last = 0;
    let mut result = Ok(());
    while !samples.is_complete() && result.is_ok() {
        let until = deadline();
        let start = cycles();
        let met = work(|| {
            (0..BARRIERS).try_fold(0, |last, _| collective.barrier(until).map(|was_last| last + usize::from(was_last)))
        });
        samples.add_shared(start, cycles(), BARRIERS as u64);
        match met {
            Some(Ok(ours)) => last += ours,
            _ => result = Err("the barrier was not passed".into()),
        }
    }
    for partner in partners {
        let partners_last = finish(partner)?.map_err(text);
        last += partners_last.as_ref().copied().unwrap_or(0);
        result = result.and(partners_last.map(drop));
    }
    result?;
    check(last == rounds, "a barrier was passed before all had come")?;
    Ok(samples)
}
