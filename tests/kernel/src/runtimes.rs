//! The building blocks of runtimes: fibers, tasks, collectives, per-CPU variables.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kernel::collective::Collective;
use kernel::fiber::Fibers;
use kernel::lock::SpinLock;
use kernel::per_cpu::PerCpu;
use kernel::task::{Place, Pool, Priority, QueueError};
use kernel::thread::local::{ThreadLocal, ThreadLocalError};
use kernel::thread::{self, Builder};
use kernel::time::Deadline;
use kernel::wait::{Barrier, Event};
use kernel::{call, cpu, interrupts};

use crate::support::{CountsDrops, LIMIT, SHORT, eventually, join, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![
    fibers_take_turns,
    fibers_give_results_and_drop_them,
    a_thread_with_fibers_may_block_and_move,
    handlers_have_neither_fibers_nor_thread_locals,
    values_that_a_fiber_uses_outlive_their_thread,
    tasks_run_where_they_should,
    tasks_go_by_priority,
    tasks_are_stolen_by_idle_workers,
    a_hundred_thousand_tasks_all_run,
    a_dropped_pool_has_run_all_its_tasks,
    tasks_of_a_pool_that_is_dropped_may_wait_for_further_ones,
    a_task_that_moves_its_worker_leaves_pinned_tasks_where_they_are,
    closures_of_all_sizes_are_dropped_once,
    a_collective_meets_in_rounds,
    a_collective_shares_reduces_and_elects,
    a_collective_moves_to_other_cpus,
    a_collective_that_is_not_complete_times_out,
    per_cpu_variables_are_separate,
];

fn fibers_take_turns() -> TestResult {
    let fibers = Fibers::of_this_thread().ok_or("not a thread")?;
    let order = Arc::new(SpinLock::new(Vec::new()));
    let mut made = Vec::new();
    for number in 0..3u32 {
        let order = order.clone();
        let fiber = fibers.create(move || {
            for _ in 0..3 {
                order.lock().push(number);
                fibers.yield_now();
            }
            number
        });
        made.push(fiber.map_err(text)?);
    }
    // To the last fiber directly; from there on in ring order.
    made[2].yield_to();
    for _ in 0..8 {
        fibers.yield_now();
    }
    for (number, fiber) in made.into_iter().enumerate() {
        let result = fiber.join();
        ensure!(result == number as u32, "fiber {number} gave {result}");
    }
    let order = order.lock().clone();
    ensure!(order == [2, 0, 1, 2, 0, 1, 2, 0, 1], "they ran in the order {order:?}");
    fibers.yield_now();
    Ok(())
}

fn fibers_give_results_and_drop_them() -> TestResult {
    let fibers = Fibers::of_this_thread().ok_or("not a thread")?;
    static DROPS: AtomicU64 = AtomicU64::new(0);
    DROPS.store(0, Ordering::SeqCst);
    let kept = fibers.create(|| CountsDrops(&DROPS)).map_err(text)?.join();
    ensure!(DROPS.load(Ordering::SeqCst) == 0, "a result was dropped under its joiner");
    drop(kept);
    drop(fibers.create(|| CountsDrops(&DROPS)).map_err(text)?);
    ensure!(DROPS.load(Ordering::SeqCst) == 2, "{} of 2 results were dropped", DROPS.load(Ordering::SeqCst));
    let large = fibers.create_with_stack(256 * 1024, || {
        core::hint::black_box([1u8; 100_000]).iter().map(|&byte| u64::from(byte)).sum::<u64>()
    });
    let sum = large.map_err(text)?.join();
    ensure!(sum == 100_000, "a large stack held {sum}");
    Ok(())
}

fn a_thread_with_fibers_may_block_and_move() -> TestResult {
    let body = || {
        let fibers = Fibers::of_this_thread().ok_or("not a thread")?;
        let fiber = fibers.create(move || {
            let mut joined = 0;
            for round in 0..50 {
                let _ = thread::migrate(round % cpu::limit());
                let other = Builder::new("other").cpu((round + 1) % cpu::limit()).spawn(|| ());
                if other.is_ok_and(|other| other.join().is_ok()) {
                    joined += 1;
                }
                fibers.yield_now();
            }
            (joined, thread::current().id())
        });
        let fiber = fiber.map_err(text)?;
        while !fiber.has_ended() {
            thread::yield_now();
            fiber.yield_to();
        }
        let (joined, id) = fiber.join();
        ensure!(joined == 50, "of 50 threads a fiber waited for {joined}");
        ensure!(id == thread::current().id(), "a fiber saw another thread");
        Ok(())
    };
    let handles: Result<Vec<_>, _> = cpu::all().map(|cpu| Builder::new("fibers").cpu(cpu.index).spawn(body)).collect();
    handles.map_err(text)?.into_iter().try_for_each(|handle| join(handle)?)
}

/// A handler is no thread: fibers and thread-locals it found would be the interrupted thread's.
fn handlers_have_neither_fibers_nor_thread_locals() -> TestResult {
    static LOCAL: ThreadLocal<u32> = ThreadLocal::new(|| 1);
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    fn look() {
        let has_fibers = Fibers::of_this_thread().is_some();
        let has_locals = LOCAL.with(|_| ()) != Err(ThreadLocalError::InHandler);
        FOUND.store(1 + usize::from(has_fibers) + usize::from(has_locals), Ordering::SeqCst);
    }
    FOUND.store(0, Ordering::SeqCst);
    let vector = interrupts::register_vector(&(), |()| look()).map_err(text)?;
    call::send_ipi(cpu::this_index(), vector).map_err(text)?;
    eventually("the interrupt comes", || FOUND.load(Ordering::SeqCst) != 0)?;
    interrupts::unregister_vector(vector).map_err(text)?;
    let found = FOUND.load(Ordering::SeqCst);
    ensure!(found == 1, "a handler has {} things of a thread's", found - 1);
    Ok(())
}

fn values_that_a_fiber_uses_outlive_their_thread() -> TestResult {
    static DROPS: AtomicU64 = AtomicU64::new(0);
    static USED: ThreadLocal<CountsDrops> = ThreadLocal::new(|| CountsDrops(&DROPS));
    DROPS.store(0, Ordering::SeqCst);
    let body = || {
        let Some(fibers) = Fibers::of_this_thread() else { return false };
        let user = fibers.create(move || USED.with(|_| fibers.yield_now()).is_ok());
        fibers.yield_now();
        // The thread ends while the fiber uses the value.
        user.map(core::mem::forget).is_ok()
    };
    ensure!(join(Builder::new("user").spawn(body).map_err(text)?)?, "no fiber");
    let drops = DROPS.load(Ordering::SeqCst);
    ensure!(drops == 0, "a value was dropped while a fiber used it");
    // The next thread has values of its own.
    ensure!(join(Builder::new("next").spawn(|| USED.with(|_| ()).is_ok()).map_err(text)?)?, "no value");
    ensure!(DROPS.load(Ordering::SeqCst) == 1, "{} of 1 values were dropped", DROPS.load(Ordering::SeqCst));
    Ok(())
}

fn tasks_run_where_they_should() -> TestResult {
    let pool = Pool::new().map_err(text)?;
    let ran = Arc::new(AtomicUsize::new(0));
    for target in cpu::all() {
        for _ in 0..20 {
            let (ran, target) = (ran.clone(), target.index);
            let task = move || {
                if cpu::this_index() == target {
                    ran.fetch_add(1, Ordering::SeqCst);
                }
            };
            pool.queue(Place::Pinned(target), Priority::Normal, task).map_err(text)?;
        }
    }
    let wanted = 20 * cpu::count();
    eventually("all tasks run on their CPUs", || ran.load(Ordering::SeqCst) == wanted)?;
    let absent = pool.queue(Place::Near(cpu::limit()), Priority::Normal, || ());
    ensure!(matches!(absent, Err(QueueError::NoSuchCpu(_))), "a CPU that is not there took a task");
    Ok(())
}

fn tasks_go_by_priority() -> TestResult {
    let pool = Arc::new(Pool::new().map_err(text)?);
    let order = Arc::new(SpinLock::new(Vec::new()));
    let done = Arc::new(Event::new());
    let (inner, noted, last) = (pool.clone(), order.clone(), done.clone());
    let here = cpu::this_index();
    // Queued from a task, so that the worker starts on them only when all are queued.
    let queue_all = move || {
        for (priority, number) in
            [(Priority::Low, 5), (Priority::Normal, 3), (Priority::High, 1), (Priority::Normal, 4), (Priority::High, 2)]
        {
            let (order, done) = (noted.clone(), last.clone());
            let _ = inner.queue(Place::Pinned(here), priority, move || {
                order.lock().push(number);
                if number == 5 {
                    done.signal();
                }
            });
        }
    };
    pool.queue(Place::Pinned(here), Priority::Normal, queue_all).map_err(text)?;
    done.wait_until(Deadline::after(LIMIT)).map_err(text)?;
    let order = order.lock().clone();
    ensure!(order == [1, 2, 3, 4, 5], "they ran in the order {order:?}");
    Ok(())
}

fn tasks_are_stolen_by_idle_workers() -> TestResult {
    if cpu::count() == 1 {
        return Ok(()); // There is no other CPU to steal.
    }
    let pool = Pool::new().map_err(text)?;
    // One task holds its worker until another, queued behind it, has run on another CPU.
    let event = Arc::new(AtomicUsize::new(usize::MAX));
    let (seen, waited) = (event.clone(), event.clone());
    let finished = Arc::new(Event::new());
    let done = finished.clone();
    let here = cpu::this_index();
    let hold = move || {
        kernel::time::spin_until(LIMIT, || waited.load(Ordering::SeqCst) != usize::MAX);
        done.signal();
    };
    pool.queue(Place::Pinned(here), Priority::High, hold).map_err(text)?;
    pool.queue(Place::Near(here), Priority::Normal, move || seen.store(cpu::this_index(), Ordering::SeqCst))
        .map_err(text)?;
    finished.wait_until(Deadline::after(LIMIT)).map_err(text)?;
    let thief = event.load(Ordering::SeqCst);
    ensure!(thief != here && thief != usize::MAX, "it ran on CPU {thief}");
    Ok(())
}

fn a_hundred_thousand_tasks_all_run() -> TestResult {
    let pool = Arc::new(Pool::new().map_err(text)?);
    let ran = Arc::new(AtomicUsize::new(0));
    let count = 100_000;
    for _ in 0..count {
        let ran = ran.clone();
        pool.queue(Place::Here, Priority::Normal, move || {
            ran.fetch_add(1, Ordering::Relaxed);
        })
        .map_err(text)?;
    }
    eventually("all tasks run", || ran.load(Ordering::Relaxed) == count)
}

/// Drops a pool on a thread of its own, so that a drop that never returns is reported by name.
fn drop_in_time(pool: impl Send + 'static) -> TestResult {
    join(Builder::new("drops a pool").spawn(move || drop(pool)).map_err(text)?)
}

fn a_dropped_pool_has_run_all_its_tasks() -> TestResult {
    let ran = Arc::new(AtomicUsize::new(0));
    for round in 1..=500 {
        let pool = Pool::new().map_err(text)?;
        for cpu in cpu::all() {
            let ran = ran.clone();
            let count = move || _ = ran.fetch_add(1, Ordering::Relaxed);
            pool.queue(Place::Pinned(cpu.index), Priority::Normal, count).map_err(text)?;
        }
        drop_in_time(pool)?;
        let (ran, wanted) = (ran.load(Ordering::Relaxed), round * cpu::count());
        ensure!(ran == wanted, "{ran} of {wanted} tasks had run when pool {round} was dropped");
    }
    Ok(())
}

/// A pool that its own tasks know, and the counter of their runs.
#[derive(Clone, Copy)]
struct Known {
    pool: *const Pool,
    ran: &'static AtomicUsize,
}

// SAFETY: the thread that drops the pool waits for its tasks, so the pointer is valid in any task.
unsafe impl Send for Known {}

impl Known {
    /// Queues a task on a CPU that is counted if it runs there.
    fn queue_on(self, cpu: usize, then: impl FnOnce(Self) + Send + 'static) -> TestResult {
        let task = move || {
            self.ran.fetch_add(usize::from(cpu::this_index() == cpu), Ordering::SeqCst);
            then(self);
        };
        // SAFETY: the caller is a task of the pool, or runs before the pool is dropped.
        unsafe { &*self.pool }.queue(Place::Pinned(cpu), Priority::Normal, task).map_err(text)
    }
}

fn tasks_of_a_pool_that_is_dropped_may_wait_for_further_ones() -> TestResult {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    static MEETING: SpinLock<Option<Arc<Barrier>>> = SpinLock::new(None);
    let meet = || {
        let meeting = MEETING.lock().clone();
        meeting.is_some_and(|meeting| meeting.wait_until(Deadline::after(LIMIT / 2)).is_ok())
    };
    for _ in 0..20 {
        RAN.store(0, Ordering::SeqCst);
        *MEETING.lock() = Some(Arc::new(Barrier::new(cpu::count())));
        let dropping = Arc::new(Event::new());
        let pool = Box::into_raw(Box::new(Pool::new().map_err(text)?));
        let known = Known { pool, ran: &RAN };
        let (here, is_dropping) = (cpu::this_index(), dropping.clone());
        known.queue_on(here, move |known| {
            let _ = is_dropping.wait_until(Deadline::after(LIMIT));
            // One task on each CPU; all of them meet, and each is followed by another on its CPU.
            for cpu in cpu::all().filter(|cpu| cpu.index != here) {
                let _ = known.queue_on(cpu.index, move |known| {
                    if meet() {
                        let _ = known.queue_on(cpu::this_index(), |_| ());
                    }
                });
            }
            if meet() {
                let _ = known.queue_on(here, |_| ());
            }
        })?;
        // SAFETY: the pointer comes from a box, and from here on only the pool's tasks use it.
        let pool = unsafe { Box::from_raw(pool) };
        let dropper = Builder::new("drops a pool").spawn(move || drop(pool)).map_err(text)?;
        until_blocked(&dropper)?;
        dropping.signal();
        join(dropper)?;
        let ran = RAN.load(Ordering::SeqCst);
        ensure!(ran == 2 * cpu::count(), "{ran} of {} tasks ran where they were pinned", 2 * cpu::count());
    }
    Ok(())
}

fn a_task_that_moves_its_worker_leaves_pinned_tasks_where_they_are() -> TestResult {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    RAN.store(0, Ordering::SeqCst);
    let pool = Box::into_raw(Box::new(Pool::new().map_err(text)?));
    let known = Known { pool, ran: &RAN };
    let (rounds, last) = (100, cpu::limit() - 1);
    for _ in 0..rounds {
        known.queue_on(last, |_| _ = thread::migrate(0))?;
    }
    // SAFETY: the pointer comes from a box, and from here on only the pool's tasks use it.
    drop_in_time(unsafe { Box::from_raw(pool) })?;
    let ran = RAN.load(Ordering::SeqCst);
    ensure!(ran == rounds, "{ran} of {rounds} tasks ran where they were pinned");
    Ok(())
}

fn closures_of_all_sizes_are_dropped_once() -> TestResult {
    static DROPS: AtomicU64 = AtomicU64::new(0);
    DROPS.store(0, Ordering::SeqCst);
    let pool = Pool::new().map_err(text)?;
    let counted = || CountsDrops(&DROPS);
    let (small, large) = (counted(), (counted(), [7u64; 50]));
    pool.queue(Place::Here, Priority::Normal, move || drop(small)).map_err(text)?;
    pool.queue(Place::Here, Priority::Normal, move || drop(large)).map_err(text)?;
    eventually("both are dropped", || DROPS.load(Ordering::SeqCst) == 2)
}

/// Runs `member(collective, rank)` on `size` threads, spread over all CPUs.
fn in_collective(size: usize, member: fn(&Collective, usize) -> TestResult) -> TestResult {
    let collective = Arc::new(Collective::new(size).map_err(text)?);
    let mut handles = Vec::new();
    for rank in 0..size {
        let collective = collective.clone();
        let builder = Builder::new("member").cpu(rank % cpu::limit());
        handles.push(builder.spawn(move || member(&collective, rank)).map_err(text)?);
    }
    handles.into_iter().try_for_each(|handle| join(handle)?)
}

fn a_collective_meets_in_rounds() -> TestResult {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    for size in [1, 2, cpu::count(), 2 * cpu::count() + 1] {
        COUNT.store(0, Ordering::SeqCst);
        in_collective(size, |collective, rank| {
            for round in 1..=100 {
                COUNT.fetch_add(1, Ordering::SeqCst);
                collective.barrier(Deadline::after(LIMIT)).map_err(text)?;
                let count = COUNT.load(Ordering::SeqCst);
                ensure!(count >= round * collective.size(), "member {rank} left round {round} after {count} arrivals");
                collective.barrier(Deadline::after(LIMIT)).map_err(text)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn a_collective_shares_reduces_and_elects() -> TestResult {
    static ELECTED: AtomicUsize = AtomicUsize::new(0);
    ELECTED.store(0, Ordering::SeqCst);
    let size = cpu::count() + 1;
    in_collective(size, |collective, rank| {
        let deadline = Deadline::after(LIMIT);
        for round in 0..50u64 {
            let word = round * 100 + rank as u64;
            let mut all = Vec::new();
            collective.share(rank, word, deadline, |given| all.push(given)).map_err(text)?;
            let wanted: Vec<u64> = (0..collective.size() as u64).map(|rank| round * 100 + rank).collect();
            ensure!(all == wanted, "member {rank} got {all:?}");
            let sum = collective.reduce(rank, word, deadline, |a, b| a + b).map_err(text)?;
            ensure!(sum == wanted.iter().sum::<u64>(), "member {rank} got the sum {sum}");
            let root = round as usize % collective.size();
            let told = collective.broadcast(rank, root, word, deadline).map_err(text)?;
            ensure!(told == wanted[root], "member {rank} was told {told}");
            if collective.elect(deadline).map_err(text)? {
                ELECTED.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    })?;
    let elected = ELECTED.load(Ordering::SeqCst);
    ensure!(elected == 50, "{elected} were elected in 50 elections");
    Ok(())
}

fn a_collective_moves_to_other_cpus() -> TestResult {
    in_collective(2, |collective, rank| {
        for round in 0..20 {
            let target = round % cpu::limit();
            if rank == 0 {
                collective.set_cpus([target].into_iter()).map_err(text)?;
            }
            collective.barrier(Deadline::after(LIMIT)).map_err(text)?;
            collective.follow(rank);
            ensure!(cpu::this_index() == target, "member {rank} is on CPU {}", cpu::this_index());
            collective.barrier(Deadline::after(LIMIT)).map_err(text)?;
        }
        let absent = collective.set_cpus([0, cpu::limit()].into_iter());
        ensure!(absent.is_err(), "a CPU that is not there was accepted");
        Ok(())
    })
}

fn a_collective_that_is_not_complete_times_out() -> TestResult {
    let collective = Collective::new(2).map_err(text)?;
    ensure!(collective.barrier(Deadline::after(SHORT)).is_err(), "one of two met itself");
    Ok(())
}

fn per_cpu_variables_are_separate() -> TestResult {
    static ROUNDS: u64 = 500;
    let counts = Arc::new(PerCpu::new(|index| index as u64).map_err(text)?);
    let mut handles = Vec::new();
    for cpu in cpu::all() {
        for _ in 0..2 {
            let counts = counts.clone();
            let body = move || {
                for _ in 0..ROUNDS {
                    counts.with(|count| *count += 1);
                    thread::yield_now();
                }
                counts.get()
            };
            handles.push(Builder::new("counter").cpu(cpu.index).spawn(body).map_err(text)?);
        }
    }
    for handle in handles {
        join(handle)?;
    }
    let mut counts = Arc::into_inner(counts).ok_or("somebody still counts")?;
    for (index, count) in counts.iter_mut().enumerate() {
        ensure!(*count == index as u64 + 2 * ROUNDS, "CPU {index} has {count}");
    }
    Ok(())
}
