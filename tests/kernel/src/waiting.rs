//! Every object that a thread can wait on.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use core::time::Duration;

use kernel::arch::*;
use kernel::lock::{InterruptGuard, SpinLock};
use kernel::thread::{self, Builder, JoinHandle};
use kernel::time::{Deadline, Timer, spin_until};
use kernel::wait::{
    Arrival, Barrier, Condition, Event, MessageQueue, Mutex, ReaderWriterLock, Semaphore, TimedOut, TrySendError,
    WaitQueue,
};
use kernel::{call, cpu, interrupts, scheduler};

use crate::support::{LIMIT, Random, SHORT, eventually, join, takes_at_least, text, until_blocked};
use crate::{TestResult, ensure, tests};

tests![
    wait_queue_sees_every_change,
    event_wakes_in_order,
    event_remembers_one_signal,
    event_broadcast_and_latch,
    event_ping_pong_across_cpus,
    every_wait_times_out_and_works_afterwards,
    mutex_excludes,
    condition_misses_no_signal,
    semaphore_conserves_units_despite_timeouts,
    barrier_holds_all_back,
    barrier_times_out_and_can_be_used_again,
    readers_share_and_writers_exclude,
    readers_let_a_writer_that_waits_go_first,
    message_queue_keeps_order_and_loses_nothing,
    message_queue_is_bounded,
    interrupt_handlers_wake_threads,
    whoever_is_woken_runs_at_once_beside_one_that_computes,
    whoever_is_woken_all_the_time_leaves_others_a_share,
    a_wake_up_passes_over_who_lost_its_wait,
    an_object_may_go_as_soon_as_its_waiter_is_woken,
    a_mutex_may_go_as_soon_as_it_is_free,
];

/// Spawns one thread per number, spread over the CPUs.
fn crew<T: Send + 'static>(
    count: usize,
    make: impl Fn(usize) -> T + Send + Clone + 'static,
) -> Result<Vec<JoinHandle<T>>, String> {
    (0..count)
        .map(|number| {
            let make = make.clone();
            Builder::new("crew").cpu(number % cpu::limit()).spawn(move || make(number)).map_err(text)
        })
        .collect()
}

fn wait_queue_sees_every_change() -> TestResult {
    static QUEUE: WaitQueue = WaitQueue::new();
    static VALUE: AtomicU64 = AtomicU64::new(0);
    VALUE.store(0, Ordering::SeqCst);
    let rounds = 2000;
    let follower = Builder::new("follower")
        .cpu(cpu::limit() - 1)
        .spawn(move || {
            for round in 1..=rounds {
                let result = QUEUE.wait_while(Deadline::after(LIMIT), || VALUE.load(Ordering::SeqCst) != 2 * round - 1);
                if result.is_err() {
                    return Err(round);
                }
                VALUE.fetch_add(1, Ordering::SeqCst);
                QUEUE.wake_all();
            }
            Ok(())
        })
        .map_err(text)?;
    for round in 1..=rounds {
        VALUE.fetch_add(1, Ordering::SeqCst);
        QUEUE.wake_all();
        let result = QUEUE.wait_while(Deadline::after(LIMIT), || VALUE.load(Ordering::SeqCst) != 2 * round);
        ensure!(result.is_ok(), "round {round} was missed here");
    }
    join(follower)?.map_err(|round| alloc::format!("round {round} was missed there"))
}

fn event_wakes_in_order() -> TestResult {
    let event = Arc::new(Event::new());
    let order = Arc::new(SpinLock::new(Vec::with_capacity(8)));
    let mut handles = Vec::new();
    for number in 0..4 {
        let (event, order) = (event.clone(), order.clone());
        let handle = thread::spawn("waiter", move || {
            event.wait();
            order.lock().push(number);
        })
        .map_err(text)?;
        until_blocked(&handle)?;
        handles.push(handle);
    }
    for _ in 0..4 {
        event.signal();
    }
    handles.into_iter().try_for_each(join)?;
    let order = order.lock().clone();
    ensure!(order == [0, 1, 2, 3], "woken in the order {order:?}");
    Ok(())
}

fn event_remembers_one_signal() -> TestResult {
    let event = Event::new();
    event.signal();
    event.signal();
    ensure!(event.wait_until(Deadline::NOW).is_ok(), "the signal was forgotten");
    ensure!(event.wait_until(Deadline::NOW) == Err(TimedOut), "two signals were remembered");
    Ok(())
}

fn event_broadcast_and_latch() -> TestResult {
    let event = Arc::new(Event::new());
    let wait = {
        let event = event.clone();
        move |_| event.wait_until(Deadline::after(LIMIT))
    };
    let handles = crew(8, wait.clone())?;
    handles.iter().try_for_each(until_blocked)?;
    ensure!(event.broadcast() == 8, "not all were woken");
    for handle in handles {
        join(handle)?.map_err(text)?;
    }
    ensure!(event.wait_until(Deadline::NOW).is_err(), "a broadcast was remembered");
    event.latch();
    for handle in crew(8, wait)? {
        join(handle)?.map_err(text)?;
    }
    event.reset();
    ensure!(event.wait_until(Deadline::NOW).is_err(), "a reset latch lets pass");
    Ok(())
}

fn event_ping_pong_across_cpus() -> TestResult {
    let (ping, pong) = (Arc::new(Event::new()), Arc::new(Event::new()));
    let (their_ping, their_pong) = (ping.clone(), pong.clone());
    let rounds = 5000;
    let partner = Builder::new("partner")
        .cpu(cpu::limit() - 1)
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
}

fn every_wait_times_out_and_works_afterwards() -> TestResult {
    let soon = || Deadline::after(SHORT);
    let queue = WaitQueue::new();
    let result = takes_at_least(SHORT, || queue.wait_while(soon(), || true))?;
    ensure!(result == Err(TimedOut), "wait queue");
    ensure!(!queue.wake_one(), "a waiter that timed out is still in the queue");

    let event = Event::new();
    ensure!(takes_at_least(SHORT, || event.wait_until(soon()))? == Err(TimedOut), "event");
    event.signal();
    ensure!(event.wait_until(soon()).is_ok(), "event after a timeout");

    let semaphore = Semaphore::new(0);
    ensure!(takes_at_least(SHORT, || semaphore.down_until(soon()))? == Err(TimedOut), "semaphore");
    semaphore.up();
    ensure!(semaphore.value() == 1 && semaphore.try_down() && !semaphore.try_down(), "semaphore after a timeout");

    let mutex = Mutex::new(1);
    let held = mutex.lock();
    ensure!(takes_at_least(SHORT, || mutex.lock_until(soon()).is_err())?, "mutex");
    ensure!(mutex.try_lock().is_none(), "a held mutex was locked");
    drop(held);
    ensure!(mutex.lock_until(soon()).is_ok(), "mutex after a timeout");

    let condition = Condition::new();
    let (guard, result) = takes_at_least(SHORT, || condition.wait_until(mutex.lock(), soon()))?;
    ensure!(result == Err(TimedOut) && *guard == 1, "condition");
    drop(guard);
    ensure!(!condition.signal(), "a waiter that timed out is still in the condition");

    let lock = ReaderWriterLock::new(());
    let writer = lock.write();
    ensure!(takes_at_least(SHORT, || lock.read_until(soon()).is_err())?, "reader");
    ensure!(takes_at_least(SHORT, || lock.write_until(soon()).is_err())?, "writer");
    drop(writer);
    ensure!(lock.read_until(soon()).is_ok(), "reader after a writer's timeout");

    let queue = MessageQueue::new(1).map_err(text)?;
    ensure!(takes_at_least(SHORT, || queue.receive_until(soon()))? == Err(TimedOut), "receive");
    queue.send(1);
    ensure!(takes_at_least(SHORT, || queue.send_until(2, soon()))? == Err(TrySendError(2)), "send");
    ensure!(queue.receive() == 1, "message queue after timeouts");
    Ok(())
}

fn mutex_excludes() -> TestResult {
    let rounds = 3000;
    // Two halves that differ only while a thread is inside.
    let shared = Arc::new(Mutex::new((0u64, 0u64)));
    let inside = Arc::new(AtomicBool::new(false));
    let (theirs, flag) = (shared.clone(), inside.clone());
    let handles = crew(4, move |number| {
        for round in 0..rounds {
            let mut guard = theirs.lock();
            if flag.swap(true, Ordering::SeqCst) {
                return Err("two threads were inside");
            }
            guard.0 += 1;
            if (round + number) % 64 == 0 {
                thread::yield_now();
            }
            guard.1 += 1;
            if guard.0 != guard.1 {
                return Err("a torn update was seen");
            }
            flag.store(false, Ordering::SeqCst);
        }
        Ok(())
    })?;
    for handle in handles {
        join(handle)?.map_err(text)?;
    }
    ensure!(shared.lock().0 == 4 * rounds as u64, "updates got lost: {}", shared.lock().0);
    Ok(())
}

fn condition_misses_no_signal() -> TestResult {
    let shared = Arc::new((Mutex::new(0u64), Condition::new()));
    let rounds = 2000;
    let theirs = shared.clone();
    let handles = crew(2, move |number| {
        let (mutex, changed) = &*theirs;
        let mut guard = mutex.lock();
        while *guard < rounds {
            if *guard % 2 == number as u64 {
                *guard += 1;
                changed.broadcast();
            } else {
                let (back, result) = changed.wait_until(guard, Deadline::after(LIMIT));
                guard = back;
                if result.is_err() {
                    return Err(*guard);
                }
            }
        }
        Ok(())
    })?;
    for handle in handles {
        join(handle)?.map_err(|round| alloc::format!("stuck in round {round}"))?;
    }
    Ok(())
}

fn semaphore_conserves_units_despite_timeouts() -> TestResult {
    let semaphore = Arc::new(Semaphore::new(2));
    let inside = Arc::new(AtomicU64::new(0));
    let (theirs, count) = (semaphore.clone(), inside.clone());
    let handles = crew(6, move |number| {
        let mut random = Random(number as u64);
        let (mut taken, mut missed) = (0u64, 0u64);
        for _ in 0..500 {
            let wait = core::time::Duration::from_micros(random.next() % 100);
            if theirs.down_until(Deadline::after(wait)).is_ok() {
                if count.fetch_add(1, Ordering::SeqCst) >= 2 {
                    return Err("more were inside than there are units");
                }
                taken += 1;
                if random.next().is_multiple_of(4) {
                    thread::yield_now();
                }
                count.fetch_sub(1, Ordering::SeqCst);
                theirs.up();
            } else {
                missed += 1;
            }
        }
        Ok(taken + missed)
    })?;
    for handle in handles {
        ensure!(join(handle)?.map_err(text)? == 500, "a round vanished");
    }
    ensure!(semaphore.value() == 2, "{} units are left of 2", semaphore.value());
    Ok(())
}

fn barrier_holds_all_back() -> TestResult {
    let size = 5;
    let rounds = 300;
    let barrier = Arc::new(Barrier::new(size));
    let arrivals = Arc::new(AtomicU64::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let (theirs, arrived, lasts) = (barrier.clone(), arrivals.clone(), last.clone());
    let handles = crew(size, move |_| {
        for round in 1..=rounds {
            arrived.fetch_add(1, Ordering::SeqCst);
            if theirs.wait() == Arrival::Last {
                lasts.fetch_add(1, Ordering::SeqCst);
            }
            if arrived.load(Ordering::SeqCst) < round * size as u64 {
                return Err(round);
            }
        }
        Ok(())
    })?;
    for handle in handles {
        join(handle)?.map_err(|round| alloc::format!("somebody passed before all had come, round {round}"))?;
    }
    ensure!(
        last.load(Ordering::SeqCst) == rounds,
        "{} threads came last in {rounds} rounds",
        last.load(Ordering::SeqCst)
    );
    Ok(())
}

fn barrier_times_out_and_can_be_used_again() -> TestResult {
    let barrier = Arc::new(Barrier::new(2));
    let result = takes_at_least(SHORT, || barrier.wait_until(Deadline::after(SHORT)))?;
    ensure!(result == Err(TimedOut), "one passed a barrier of two");
    let theirs = barrier.clone();
    let handles = crew(2, move |_| theirs.wait_until(Deadline::after(LIMIT)))?;
    for handle in handles {
        join(handle)?.map_err(text)?;
    }
    Ok(())
}

fn readers_let_a_writer_that_waits_go_first() -> TestResult {
    let lock = Arc::new(ReaderWriterLock::new(0));
    let first = lock.read();
    let theirs = lock.clone();
    let writer = thread::spawn("writer", move || *theirs.write() += 1).map_err(text)?;
    until_blocked(&writer)?;
    ensure!(lock.read_until(Deadline::after(SHORT)).is_err(), "a reader went before a writer that waited");
    drop(first);
    join(writer)?;
    ensure!(*lock.read() == 1, "the writer did not get the lock");
    Ok(())
}

fn readers_share_and_writers_exclude() -> TestResult {
    let lock = Arc::new(ReaderWriterLock::new((0u64, 0u64)));
    let first = lock.read();
    ensure!(lock.read_until(Deadline::after(SHORT)).is_ok(), "two readers do not share");
    drop(first);
    let theirs = lock.clone();
    let handles = crew(6, move |number| {
        for round in 0..500 {
            if number < 2 {
                let mut guard = theirs.write();
                guard.0 += 1;
                if round % 32 == 0 {
                    thread::yield_now();
                }
                guard.1 += 1;
            } else {
                let guard = theirs.read();
                if guard.0 != guard.1 {
                    return Err("a reader saw a writer at work");
                }
            }
        }
        Ok(())
    })?;
    for handle in handles {
        join(handle)?.map_err(text)?;
    }
    ensure!(lock.read().0 == 1000, "writes got lost: {}", lock.read().0);
    Ok(())
}

fn message_queue_keeps_order_and_loses_nothing() -> TestResult {
    let queue = Arc::new(MessageQueue::new(8).map_err(text)?);
    let count = 2000u64;
    let senders = 3;
    let theirs = queue.clone();
    let sending = crew(senders, move |number| {
        for message in 0..count {
            theirs.send((number, message));
        }
    })?;
    let mut next = [0u64; 3];
    for _ in 0..count * senders as u64 {
        let (sender, message) =
            queue.receive_until(Deadline::after(LIMIT)).map_err(|_| alloc::format!("stuck at {next:?}"))?;
        ensure!(message == next[sender], "sender {sender}: {message} came instead of {}", next[sender]);
        next[sender] += 1;
    }
    sending.into_iter().try_for_each(join)?;
    ensure!(queue.is_empty(), "a message came twice");
    Ok(())
}

fn message_queue_is_bounded() -> TestResult {
    let queue = MessageQueue::new(2).map_err(text)?;
    ensure!(queue.try_send(1).is_ok() && queue.try_send(2).is_ok(), "no room for two of two");
    ensure!(queue.try_send(3) == Err(TrySendError(3)), "a third of two was taken");
    ensure!(queue.try_receive() == Some(1) && queue.len() == 1, "wrong first");
    Ok(())
}

fn interrupt_handlers_wake_threads() -> TestResult {
    static EVENT: Event = Event::new();
    EVENT.reset();
    let vector = interrupts::register_vector(&EVENT, Event::signal).map_err(text)?;
    let result: TestResult = (|| {
        for cpu in cpu::all() {
            for _ in 0..100 {
                call::send_ipi(cpu.index, vector).map_err(text)?;
                EVENT
                    .wait_until(Deadline::after(LIMIT))
                    .map_err(|_| alloc::format!("no signal from CPU {}", cpu.index))?;
            }
        }
        Ok(())
    })();
    interrupts::unregister_vector(vector).map_err(text)?;
    result?;
    let counts = kernel::snapshot::take().interrupts;
    let counted = counts.iter().find(|entry| entry.vector == vector).map(|entry| entry.counts.clone());
    ensure!(
        counted.as_ref().is_some_and(|counts| counts.iter().all(|&count| count >= 100)),
        "interrupts were not counted: {counted:?}"
    );
    eventually("nothing is left", || EVENT.wait_until(Deadline::NOW).is_err())
}

/// A thread alone on its CPU yields at once, without a tick, to one woken there by another CPU, and
/// resumes afterwards.
fn whoever_is_woken_runs_at_once_beside_one_that_computes() -> TestResult {
    static SIGNAL: Event = Event::new();
    static WOKEN: AtomicU64 = AtomicU64::new(0);
    static COMPUTED: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    const ROUNDS: u64 = 50;
    if cpu::count() < 2 {
        return Ok(());
    }
    let other = (cpu::this_index() + 1) % cpu::limit();
    SIGNAL.reset();
    WOKEN.store(0, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    let waiting = Builder::new("waiting").cpu(other).spawn(|| {
        for _ in 0..ROUNDS {
            SIGNAL.wait();
            WOKEN.fetch_add(1, Ordering::SeqCst);
        }
    });
    let waiting = waiting.map_err(text)?;
    until_blocked(&waiting)?;
    // With so long a quantum, too few ticks come before the deadline to pass the test.
    scheduler::set_quantum(LIMIT * 2 / ROUNDS as u32);
    let deadline = Deadline::after(LIMIT);
    let computing = Builder::new("computing").cpu(other).spawn(|| {
        while !STOP.load(Ordering::SeqCst) {
            COMPUTED.fetch_add(1, Ordering::SeqCst);
            Core::spin_hint();
        }
    });
    let computing = computing.map_err(text)?;
    let result = (0..ROUNDS).try_for_each(|round| {
        ensure!(!deadline.has_passed(), "only {round} of {ROUNDS} wake-ups before the deadline: by ticks?");
        until_blocked(&waiting)?;
        let before = COMPUTED.load(Ordering::SeqCst);
        eventually("the other thread computes", || COMPUTED.load(Ordering::SeqCst) > before)?;
        SIGNAL.signal();
        eventually("who was woken runs", || WOKEN.load(Ordering::SeqCst) == round + 1)
    });
    STOP.store(true, Ordering::SeqCst);
    scheduler::set_quantum(scheduler::DEFAULT_QUANTUM);
    // However the test ended, no thread is left waiting.
    (0..ROUNDS).for_each(|_| SIGNAL.latch());
    join(computing)?;
    join(waiting)?;
    result
}

/// A thread that is woken again as soon as it waits, and works long each time, leaves a computing
/// thread its share of the CPU.
fn whoever_is_woken_all_the_time_leaves_others_a_share() -> TestResult {
    static SIGNAL: Event = Event::new();
    static WORKED: AtomicU64 = AtomicU64::new(0);
    static COMPUTED: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicU64 = AtomicU64::new(0);
    const ROUNDS: u64 = 40;
    const BURST: Duration = Duration::from_millis(3);
    /// A piece of work, the same for both threads.
    fn work(count: &AtomicU64) {
        (0..100).for_each(|_| Core::spin_hint());
        count.fetch_add(1, Ordering::Relaxed);
    }
    if cpu::count() < 2 {
        return Ok(());
    }
    let other = (cpu::this_index() + 1) % cpu::limit();
    SIGNAL.reset();
    DONE.store(0, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    let waiting = Builder::new("waiting").cpu(other).spawn(|| {
        for _ in 0..ROUNDS {
            SIGNAL.wait();
            let end = Deadline::after(BURST);
            while !end.has_passed() {
                work(&WORKED);
            }
            DONE.fetch_add(1, Ordering::SeqCst);
        }
    });
    let waiting = waiting.map_err(text)?;
    until_blocked(&waiting)?;
    let computing = Builder::new("computing").cpu(other).spawn(|| {
        while !STOP.load(Ordering::SeqCst) {
            work(&COMPUTED);
        }
    });
    let computing = computing.map_err(text)?;
    eventually("the other thread computes", || COMPUTED.load(Ordering::SeqCst) > 0)?;
    for count in [&WORKED, &COMPUTED] {
        count.store(0, Ordering::SeqCst);
    }
    let result = (1..=ROUNDS).try_for_each(|round| {
        until_blocked(&waiting)?;
        SIGNAL.signal();
        eventually("who was woken has worked", || DONE.load(Ordering::SeqCst) == round)
    });
    let waited = join(waiting);
    let (worked, computed) = (WORKED.load(Ordering::SeqCst), COMPUTED.load(Ordering::SeqCst));
    STOP.store(true, Ordering::SeqCst);
    join(computing)?;
    result.and(waited)?;
    ensure!(computed >= worked / 4, "one thread did {computed} pieces of work, while the other did {worked}");
    Ok(())
}

/// One interrupt handles a wait's timeout and then a signal, before the thread that timed out can
/// leave the list: the signal must reach the next waiter.
fn a_wake_up_passes_over_who_lost_its_wait() -> TestResult {
    static EVENT: Event = Event::new();
    let before = Deadline::after(Duration::from_millis(30));
    let first = thread::spawn("first", move || EVENT.wait_until(before)).map_err(text)?;
    until_blocked(&first)?;
    let second = thread::spawn("second", || EVENT.wait_until(Deadline::after(LIMIT))).map_err(text)?;
    until_blocked(&second)?;
    let mut timer = Timer::new(&EVENT, Event::signal).map_err(text)?;
    {
        let _guard = InterruptGuard::new();
        timer.set(Deadline::at_cycles(before.cycles() + 1));
        while !Deadline::at_cycles(before.cycles() + 2).has_passed() {
            Core::spin_hint();
        }
    }
    let (first, second) = (join(first)?, join(second)?);
    ensure!(first == Err(TimedOut), "the first was woken");
    ensure!(second == Ok(()), "the signal was lost with the first");
    Ok(())
}

/// The content of the object's memory once its waiter may have given it away.
const OTHERS: u8 = 0xa5;
static OBJECT: AtomicPtr<[u8; 256]> = AtomicPtr::new(core::ptr::null_mut());

/// Overwrites the object: its waiter is about to run and may free it.
fn overwrite() {
    // SAFETY: the pointer is to 256 bytes of a box that the test keeps until the end.
    unsafe { OBJECT.load(Ordering::SeqCst).cast::<u8>().write_bytes(OTHERS, 256) };
}

/// Has a thread on another CPU wait on an object that is overwritten at the moment the thread is
/// woken.
fn woken_without_object<O: Sync + 'static>(
    name: &str,
    object: O,
    wait: impl Fn(&'static O) -> bool + Send + 'static,
    wake: impl Fn(&O),
) -> TestResult {
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    ensure!(size_of::<O>() <= 256, "{name} is larger than its place");
    #[repr(align(64))]
    struct Place([u8; 256]);
    let place = Box::leak(Box::new(Place([0; 256])));
    let at = (&raw mut place.0).cast::<O>();
    // SAFETY: the place is large enough and sufficiently aligned for each object, and leaked, so
    // the reference may live as long as it likes.
    let object: &'static O = unsafe {
        at.write(object);
        &*at
    };
    OBJECT.store(at.cast(), Ordering::SeqCst);
    let waiter = Builder::new("waiter").cpu(other.index).spawn(move || wait(object)).map_err(text)?;
    until_blocked(&waiter)?;
    // Waking a sleeping CPU sends an interrupt, which triggers the hook.
    eventually("the waiter's CPU sleeps", || other.is_asleep())?;
    call::faults::on_next_interrupt(overwrite);
    wake(object);
    let woken = join(waiter)?;
    // SAFETY: the waiter has been joined, so only the test uses these bytes.
    let left = unsafe { core::slice::from_raw_parts(at.cast::<u8>(), 256) };
    let changed = left.iter().filter(|&&byte| byte != OTHERS).count();
    ensure!(woken && changed == 0, "{name}: {changed} bytes were written after its waiter was woken");
    // SAFETY: the pointer comes from a leaked box and is not used again.
    drop(unsafe { Box::from_raw(at.cast::<Place>()) });
    Ok(())
}

fn an_object_may_go_as_soon_as_its_waiter_is_woken() -> TestResult {
    // A polling CPU is sent no interrupt, so the hook has no moment at which to look.
    if scheduler::idle_mode() == scheduler::Idle::Poll {
        return Ok(());
    }
    let deadline = || Deadline::after(LIMIT);
    woken_without_object("an event", Event::new(), move |event| event.wait_until(deadline()).is_ok(), Event::signal)?;
    let broadcast = |event: &Event| {
        event.broadcast();
    };
    woken_without_object("a broadcast event", Event::new(), move |e| e.wait_until(deadline()).is_ok(), broadcast)?;
    woken_without_object("a semaphore", Semaphore::new(0), move |s| s.down_until(deadline()).is_ok(), Semaphore::up)?;
    let arrive = |barrier: &Barrier| {
        barrier.wait();
    };
    woken_without_object("a barrier", Barrier::new(2), move |b| b.wait_until(deadline()).is_ok(), arrive)?;
    let wait = move |condition: &'static Condition| {
        static MUTEX: Mutex<()> = Mutex::new(());
        condition.wait_until(MUTEX.lock(), deadline()).1.is_ok()
    };
    let signal = |condition: &Condition| {
        condition.signal();
    };
    woken_without_object("a condition variable", Condition::new(), wait, signal)
}

/// A thread that finds a mutex free may reuse its memory while the last owner is still in the call
/// that unlocked it.
fn a_mutex_may_go_as_soon_as_it_is_free() -> TestResult {
    const ROUNDS: u64 = 300;
    const SIZE: usize = size_of::<Mutex<()>>();
    /// Counts up: odd from when the tester has placed a locked mutex until the taker has taken and
    /// overwritten it.
    static ROUND: AtomicU64 = AtomicU64::new(0);
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    ROUND.store(0, Ordering::SeqCst);
    let place: &'static mut [u64; 32] = Box::leak(Box::new([0; 32]));
    let at = place.as_mut_ptr() as usize;
    ensure!(SIZE <= size_of_val(place), "a mutex is larger than its place");
    let taker = move || {
        for round in 0..ROUNDS {
            if !spin_until(LIMIT, || ROUND.load(Ordering::SeqCst) == 2 * round + 1) {
                return false;
            }
            // SAFETY: the tester keeps a mutex there until this thread has taken it.
            let mutex = unsafe { &*(at as *const Mutex<()>) };
            if !spin_until(LIMIT, || mutex.try_lock().map(core::mem::forget).is_some()) {
                return false;
            }
            // SAFETY: this thread has taken the mutex, and its last owner must not touch it any
            // more, which is the property under test.
            unsafe { (at as *mut u8).write_bytes(OTHERS, SIZE) };
            ROUND.store(2 * round + 2, Ordering::SeqCst);
        }
        true
    };
    let taker = Builder::new("taker").cpu(other.index).spawn(taker).map_err(text)?;
    let mut changed = 0;
    for round in 0..ROUNDS {
        // SAFETY: between rounds only the tester uses the memory, which is aligned for words.
        let mutex = unsafe {
            (at as *mut Mutex<()>).write(Mutex::new(()));
            &*(at as *const Mutex<()>)
        };
        core::mem::forget(mutex.lock());
        // A waiter that timed out leaves the mark for waiters in the mutex.
        ensure!(mutex.lock_until(Deadline::after(Duration::from_micros(1))).is_err(), "locked twice");
        ROUND.store(2 * round + 1, Ordering::SeqCst);
        // SAFETY: this thread locked the mutex above and forgot the guard.
        ensure!(unsafe { mutex.unlock() }, "not the owner");
        ensure!(spin_until(LIMIT, || ROUND.load(Ordering::SeqCst) == 2 * round + 2), "the mutex was not to be had");
        // SAFETY: the taker has finished this round and does not use the memory.
        let left = unsafe { core::slice::from_raw_parts(at as *const u8, SIZE) };
        changed += left.iter().filter(|&&byte| byte != OTHERS).count();
    }
    ensure!(join(taker)?, "the taker waited in vain");
    // SAFETY: the pointer comes from a leaked box and is not used again.
    drop(unsafe { Box::from_raw(at as *mut [u64; 32]) });
    ensure!(changed == 0, "{changed} bytes were written after the mutex was free");
    Ok(())
}
