//! Uses tasks, collectives, per-CPU variables and device lines as a program does. The exit status
//! is the number of failures.
#![no_std]
#![feature(thread_local)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use hrt::collective::Collective;
use hrt::cpu::PerCpu;
use hrt::interrupt::{Line, Trigger};
use hrt::task::{Place, Pool, Priority};
use hrt::thread::Builder;
use hrt::time::{Deadline, now_ns};
use hrt::wait::Event;
use hrt::{Arguments, Error, cpu, println};

hrt::program!(main);

const TASKS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(10);

/// The property that a check verifies, and the check.
type Check = (&'static str, fn() -> Result<(), &'static str>);

fn main(_: Arguments) -> i32 {
    let checks: [Check; 5] = [
        ("each thread has its own variables", own_variables),
        ("tasks run once, where they are pinned", tasks),
        ("members of a collective agree", collectives),
        ("a member follows its collective", following),
        ("a device's line interrupts the CPU it is steered to", lines),
    ];
    let mut failures = 0;
    for (name, check) in checks {
        match check() {
            Ok(()) => println!("{name}: ok"),
            Err(reason) => {
                println!("{name}: FAILED: {reason}");
                failures += 1;
            }
        }
    }
    failures
}

fn require(condition: bool, reason: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(reason) }
}

#[thread_local]
static OWN: Cell<u64> = Cell::new(40);
#[thread_local]
static ZEROS: [Cell<u8>; 3000] = [const { Cell::new(0) }; 3000];

/// Checks thread-local variables in more threads than CPUs, which alternate and migrate between two
/// looks.
fn own_variables() -> Result<(), &'static str> {
    OWN.set(1);
    let work = |number: u64| {
        move || {
            let mut is_right = OWN.get() == 40 && ZEROS.iter().all(|byte| byte.get() == 0);
            for round in 0..100 {
                OWN.set(number + round);
                ZEROS[2999].set(number as u8);
                hrt::thread::yield_now();
                if round % 10 == 0 {
                    let _ = hrt::thread::migrate((round as usize / 10 + number as usize) % cpu::count());
                }
                is_right &= OWN.get() == number + round && ZEROS[2999].get() == number as u8;
            }
            is_right
        }
    };
    let threads: Vec<_> =
        (0..24).map(|number| Builder::new("own").cpu(number as usize % cpu::count()).spawn(work(number))).collect();
    for thread in threads {
        require(thread.map_err(|_| "no thread")?.join() == Some(true), "a variable was another thread's")?;
    }
    require(OWN.get() == 1, "the first thread's variable was changed")
}

fn tasks() -> Result<(), &'static str> {
    let ran = Arc::new(PerCpu::new(|_| AtomicUsize::new(0)));
    let astray = Arc::new(AtomicUsize::new(0));
    let pool = Pool::new().map_err(|_| "no pool")?;
    for number in 0..TASKS {
        let wanted = number % cpu::count();
        let (pinned_ran, astray) = (ran.clone(), astray.clone());
        let task = move || {
            pinned_ran.here().fetch_add(1, Ordering::Relaxed);
            astray.fetch_add(usize::from(cpu::this() != wanted), Ordering::Relaxed);
        };
        pool.queue(Place::Pinned(wanted), Priority::Normal, task).map_err(|_| "a task was refused")?;
        let ran = ran.clone();
        let free = move || {
            ran.here().fetch_add(1, Ordering::Relaxed);
        };
        pool.queue(Place::Here, Priority::Low, free).map_err(|_| "a task was refused")?;
    }
    let absent = pool.queue(Place::Pinned(cpu::count()), Priority::High, || ());
    drop(pool);
    require(absent == Err(Error::NoSuchCpu), "a CPU that is not there got a task")?;
    require(astray.load(Ordering::Relaxed) == 0, "a pinned task ran elsewhere")?;
    let total: usize = ran.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    require(total == 2 * TASKS, "not each task ran once")
}

/// Calls `member` with each rank on a thread of its own, with the threads spread over the CPUs.
/// Returns whether every call returned true.
fn on_all(size: usize, member: impl Fn(usize) -> bool + Send + Clone + 'static) -> bool {
    let threads: Vec<_> = (0..size)
        .map(|rank| {
            let member = member.clone();
            Builder::new("member").cpu(rank % cpu::count()).spawn(move || member(rank))
        })
        .collect();
    threads.into_iter().all(|thread| thread.is_ok_and(|thread| thread.join() == Some(true)))
}

fn collectives() -> Result<(), &'static str> {
    let size = cpu::count() + 1;
    let collective = Arc::new(Collective::new(size).map_err(|_| "no collective")?);
    let elected = Arc::new(AtomicU64::new(0));
    let votes = elected.clone();
    let agreed = on_all(size, move |rank| {
        (0..100).all(|round| {
            let deadline = Deadline::after(LIMIT);
            let sum = collective.reduce(rank, 0.5 + rank as f64, deadline, |sum, value| sum + value);
            let told = collective.broadcast(rank, round % size, (round * size + rank) as u64, deadline);
            let last = collective.barrier(deadline);
            votes.fetch_add(u64::from(last == Ok(true)), Ordering::Relaxed);
            sum == Ok((size * size) as f64 / 2.0) && told == Ok((round * size + round % size) as u64)
        })
    });
    require(agreed, "sums or broadcasts differ")?;
    require(elected.load(Ordering::Relaxed) == 100, "not one was elected in each round")
}

fn following() -> Result<(), &'static str> {
    let collective = Arc::new(Collective::new(2).map_err(|_| "no collective")?);
    require(
        collective.set_cpus(&[0, cpu::count() as u32]) == Err(Error::NoSuchCpu),
        "a set with an absent CPU was taken",
    )?;
    let last = cpu::count() - 1;
    collective.set_cpus(&[last as u32]).map_err(|_| "a set of CPUs was refused")?;
    require(on_all(2, move |rank| collective.follow(rank).is_ok() && cpu::this() == last), "a member stayed")
}

/// The line of the I/O APIC to which the first channel of the PC's interval timer (Intel 8254) is
/// wired (QEMU's override).
const TIMER_LINE: u32 = 2;

/// Makes the interval timer raise its line once, soon: mode 0, "interrupt on terminal count".
fn start_interval_timer() {
    for (port, value) in [(0x43u16, 0x30u8), (0x40, 0xff), (0x40, 0x00)] {
        // SAFETY: the ports are the timer's and affect no memory; the kernel does not use the timer
        // once its clock is calibrated.
        unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
    }
}

/// Returns whether the interval timer has counted down: its output, bit 7 of its status, is high
/// (Intel 8254, read-back command).
fn interval_timer_has_run_down() -> bool {
    let status: u8;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("out 0x43, al", "in al, 0x40", inout("al") 0xe2_u8 => status, options(nomem, nostack, preserves_flags));
    }
    status & 0x80 != 0
}

fn lines() -> Result<(), &'static str> {
    // The firmware has left the timer running periodically: a tick of it would be taken for one of
    // those below. After this round it is silent until it is started.
    start_interval_timer();
    let deadline = Deadline::after(LIMIT);
    while !interval_timer_has_run_down() {
        require(now_ns() < deadline.as_ns(), "the interval timer does not count")?;
    }
    let seen = Arc::new((Event::new().map_err(|_| "no event")?, AtomicUsize::new(usize::MAX)));
    let theirs = seen.clone();
    let handler = move || {
        theirs.1.store(cpu::this(), Ordering::Relaxed);
        theirs.0.signal();
    };
    let last = cpu::count() - 1;
    let line = Line::register(TIMER_LINE, Trigger::Default, last, handler).map_err(|_| "the line was refused")?;
    let again = Line::register(TIMER_LINE, Trigger::Default, 0, || ());
    require(matches!(again, Err(Error::Busy)), "a line was given away twice")?;
    let absent = Line::register(9999, Trigger::Default, 0, || ());
    require(matches!(absent, Err(Error::Invalid)), "a line that is not there was given away")?;
    for wanted in [last, 0] {
        line.steer(wanted).map_err(|_| "the line cannot be steered")?;
        start_interval_timer();
        seen.0.wait(Deadline::after(LIMIT)).map_err(|_| "no interrupt came")?;
        require(seen.1.load(Ordering::Relaxed) == wanted, "the interrupt came to another CPU")?;
    }
    drop(line);
    Line::register(TIMER_LINE, Trigger::Edge, 0, || ()).map(drop).map_err(|_| "an unregistered line stays taken")
}
