//! The run queue mailbox, the attention word, the spin lock, wait lists, events and message queues,
//! in all interleavings that loom finds. The included files are the kernel's own; the parts of the
//! kernel they use are modelled in `support`.
#![cfg(loom)]
#![allow(
    dead_code,
    dropping_copy_types,
    reason = "the included files have more than is explored, and guards that model nothing"
)]

extern crate alloc;

#[path = "support/mod.rs"]
mod support;

// The module paths that the included files use.
pub(crate) use support::{arch, atomic, lock, memory, scheduler, thread, time};

#[path = "../../../kernel/src/threads/scheduler/attention.rs"]
mod attention;
#[path = "../../../kernel/src/threads/scheduler/mailbox.rs"]
mod mailbox;

#[path = "../../../kernel/src/crash/debug/rendezvous.rs"]
mod rendezvous;
#[path = "../../../kernel/src/threads/task/rest.rs"]
mod rest;

#[path = "support/wait.rs"]
mod wait;

use std::sync::atomic::Ordering;

use attention::{Attention, AttentionWord};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicPtr, AtomicUsize};
use loom::sync::{Arc, Condvar, Mutex};
use mailbox::{Linked, Mailbox};
use rendezvous::{Order, Rendezvous};
use rest::{Rest, Worker, Workers};
use support::raw::RawSpinLock;
use wait::claim::Claim;
use wait::{Arrival, Barrier, Event, MessageQueue, Mutex as KernelMutex, Semaphore, TimedOut};

/// Runs a model in all interleavings with up to three preemptions; higher bounds have found nothing
/// more and take hours.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_with(3, model);
}

fn explore_with(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

struct Item {
    next: AtomicPtr<Item>,
    value: usize,
}

impl Linked for Item {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

fn item(value: usize) -> Box<Item> {
    Box::new(Item { next: AtomicPtr::new(std::ptr::null_mut()), value })
}

#[test]
fn a_mailbox_loses_nothing_and_keeps_each_senders_order() {
    explore(|| {
        let mailbox = Arc::new(Mailbox::<Item>::new());
        let items: Vec<Box<Item>> = (0..3).map(item).collect();
        let pointers: Vec<usize> = items.iter().map(|item| std::ptr::from_ref(&**item) as usize).collect();
        let send = |numbers: Vec<usize>| {
            let mailbox = mailbox.clone();
            let pointers = pointers.clone();
            loom::thread::spawn(move || {
                // SAFETY: each item is pushed once and outlives the threads.
                numbers.iter().filter(|&&number| unsafe { mailbox.push(pointers[number] as *const Item) }).count()
            })
        };
        let (first, second) = (send(vec![0, 1]), send(vec![2]));
        let mut got = Vec::new();
        // SAFETY: drained items were pushed above and outlive the mailbox's use.
        mailbox.drain(|item| got.push(unsafe { (*item).value }));
        let firsts = first.join().unwrap() + second.join().unwrap();
        // SAFETY: drained items were pushed above and outlive the mailbox's use.
        mailbox.drain(|item| got.push(unsafe { (*item).value }));
        let at = |value| got.iter().position(|&other| other == value).expect("an item was lost");
        assert!(at(0) < at(1), "order changed: {got:?}");
        assert!(got.contains(&2) && got.len() == 3, "{got:?}");
        assert!((1..=2).contains(&firsts), "{firsts} pushes found the mailbox empty");
    });
}

/// A CPU's interrupt, which stays pending until it is taken.
#[derive(Default)]
struct Interrupt {
    arrived: Mutex<bool>,
    changed: Condvar,
}

impl Interrupt {
    fn send(&self) {
        *self.arrived.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut arrived = self.arrived.lock().unwrap();
        while !*arrived {
            arrived = self.changed.wait(arrived).unwrap();
        }
        *arrived = false;
    }
}

/// Races a sender with an owner that publishes a state in which it does not look at its mailbox,
/// looks once more, and waits for an interrupt if the mailbox was empty. If a note could be missed,
/// loom finds the execution in which both sides wait forever.
fn a_note_is_never_missed(before: Attention, published: Attention) {
    explore(move || {
        let shared = Arc::new((Mailbox::<Item>::new(), AttentionWord::new(), Interrupt::default()));
        shared.1.publish(before);
        let note = item(7);
        let pointer = std::ptr::from_ref(&*note) as usize;
        let theirs = shared.clone();
        let sender = loom::thread::spawn(move || {
            // SAFETY: the note is pushed only once and outlives this thread.
            let first = unsafe { theirs.0.push(pointer as *const Item) };
            if first && theirs.1.wants_interrupt() {
                theirs.2.send();
            }
        });
        let mut got = 0;
        let is_empty = if published == Attention::Asleep {
            shared.1.publish(published);
            shared.0.is_surely_empty()
        } else {
            shared.1.publish_and_take(published, &shared.0, |_| got += 1);
            got == 0
        };
        if is_empty {
            shared.2.wait();
        }
        shared.0.drain(|_| got += 1);
        assert_eq!(got, 1);
        sender.join().unwrap();
    });
}

#[test]
fn a_cpu_going_to_sleep_misses_no_note() {
    a_note_is_never_missed(Attention::Solo, Attention::Asleep);
    a_note_is_never_missed(Attention::Ticking, Attention::Asleep);
}

#[test]
fn a_cpu_stopping_its_tick_misses_no_note() {
    a_note_is_never_missed(Attention::Ticking, Attention::Solo);
}

#[test]
fn a_cpu_that_no_longer_polls_misses_no_note() {
    a_note_is_never_missed(Attention::Polling, Attention::Solo);
}

/// The tasks of a worker in a pool of two. A task is represented by the worker for which it queues
/// a further task, if any.
#[derive(Default)]
struct Tasks(Mutex<Vec<Option<usize>>>);

impl Tasks {
    fn take(&self) -> Option<Option<usize>> {
        self.0.lock().unwrap().pop()
    }
}

struct SmallPool {
    workers: Workers,
    each: [(Worker, Tasks, Interrupt); 2],
    ran: AtomicUsize,
}

impl SmallPool {
    fn queue(&self, index: usize, then: Option<usize>) {
        let (worker, tasks, wake) = &self.each[index];
        tasks.0.lock().unwrap().push(then);
        if !worker.is_awake() && self.workers.wake(worker) {
            wake.send();
        }
    }

    fn tell_all(&self) {
        self.each.iter().for_each(|(_, _, wake)| wake.send());
    }

    fn work(&self, index: usize) {
        let (worker, tasks, wake) = &self.each[index];
        while !self.workers.have_ended() {
            while let Some(then) = tasks.take() {
                if let Some(other) = then {
                    self.queue(other, None);
                }
                self.ran.fetch_add(1, Ordering::SeqCst);
            }
            let rest = self.workers.rest(worker, || !tasks.0.lock().unwrap().is_empty());
            if rest == Rest::End {
                self.tell_all();
            }
            if rest != Rest::None {
                wake.wait();
            }
            self.workers.wake(worker);
        }
    }
}

#[test]
fn a_pool_ends_when_its_last_task_has_run_and_not_before() {
    explore(|| {
        let each = [(); 2].map(|()| (Worker::new(), Tasks::default(), Interrupt::default()));
        let pool = Arc::new(SmallPool { workers: Workers::new(), each, ran: AtomicUsize::new(0) });
        // One task, which queues another for the other worker.
        pool.queue(0, Some(1));
        let threads = [0, 1].map(|index| {
            let pool = pool.clone();
            loom::thread::spawn(move || pool.work(index))
        });
        pool.workers.end_when_asleep(2);
        pool.tell_all();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.ran.load(Ordering::SeqCst), 2);
    });
}

/// A CPU that is stopped, perhaps late, by successive hosts.
struct Stopping {
    has_host: AtomicUsize,
    place: Rendezvous,
    /// The interrupt that ends the CPU's halt, even one that comes before it; `None` if the CPU
    /// does not halt while it waits.
    interrupt: Option<(Mutex<bool>, Condvar)>,
    /// State that belongs to the CPU while it runs, and to the host while the CPU is stopped;
    /// counts steps.
    owned: UnsafeCell<usize>,
}

impl Stopping {
    fn has_host(&self) -> bool {
        self.has_host.load(Ordering::SeqCst) != 0
    }

    fn stop(&self) {
        let rest = || {
            let Some((came, changed)) = &self.interrupt else { return atomic::spin_hint() };
            let mut came = came.lock().unwrap();
            while !*came {
                came = changed.wait(came).unwrap();
            }
            *came = false;
        };
        let steps = self.place.wait(|| self.has_host(), rest);
        // SAFETY: exclusive access here is the property under test, and loom checks it.
        self.owned.with_mut(|taken| unsafe { *taken += usize::from(steps) });
    }

    /// Performs a host's visit; returns true if it found the CPU stopped.
    fn visit(&self, order: Order) -> bool {
        self.has_host.store(1, Ordering::SeqCst);
        let is_stopped = self.place.is_stopped();
        if is_stopped {
            // SAFETY: exclusive access here is the property under test, and loom checks it.
            self.owned.with_mut(|taken| unsafe { *taken += 0 });
            // Only with one order, because checking with each would double the time.
            assert!(order != Order::Stay || self.place.is_stopped(), "a CPU that was stopped no longer is");
        }
        self.place.give(if is_stopped { order } else { Order::Run });
        self.has_host.store(0, Ordering::SeqCst);
        if let Some((came, changed)) = self.interrupt.as_ref().filter(|_| self.place.may_halt()) {
            *came.lock().unwrap() = true;
            changed.notify_one();
        }
        if is_stopped && order == Order::Stay {
            // SAFETY: exclusive access here is the property under test, and loom checks it.
            self.owned.with_mut(|taken| unsafe { *taken += 0 });
        }
        is_stopped
    }
}

/// Runs a CPU that stops, and stops again if there is a host, while hosts give it these orders.
fn stop_with(preemptions: usize, halts: bool, orders: [Order; 3]) {
    explore_with(preemptions, move || {
        let place = Rendezvous::new();
        let interrupt = halts.then(|| (Mutex::new(false), Condvar::new()));
        let stopping =
            Arc::new(Stopping { has_host: AtomicUsize::new(0), place, interrupt, owned: UnsafeCell::new(0) });
        let theirs = stopping.clone();
        let cpu = loom::thread::spawn(move || {
            theirs.stop();
            if theirs.has_host() {
                theirs.stop();
            }
        });
        let steps = orders.iter().filter(|&&order| stopping.visit(order) && order == Order::Step).count();
        cpu.join().unwrap();
        // SAFETY: the CPU's thread has been joined, so nothing else accesses the value.
        stopping.owned.with(|taken| assert_eq!(unsafe { *taken }, steps, "an order was lost, or taken twice"));
    });
}

#[test]
fn a_stopped_cpu_stays_until_its_order_and_takes_it_once() {
    // An order that is missed while the CPU leaves takes this many preemptions to find.
    stop_with(5, false, [Order::Run, Order::Step, Order::Run]);
    stop_with(5, false, [Order::Stay, Order::Step, Order::Run]);
}

#[test]
fn a_stopped_cpu_that_halts_is_told_of_its_order() {
    stop_with(3, true, [Order::Run, Order::Step, Order::Run]);
    stop_with(3, true, [Order::Stay, Order::Step, Order::Run]);
}

#[test]
fn the_spin_lock_excludes() {
    explore(|| {
        let shared = Arc::new((RawSpinLock::new(), UnsafeCell::new(0)));
        // With `try_lock`, because loom cannot explore unbounded loops.
        let add = |shared: Arc<(RawSpinLock, UnsafeCell<i32>)>| {
            let held = shared.0.try_lock();
            if held {
                // SAFETY: exclusive access here is the property under test, and loom checks it.
                shared.1.with_mut(|value| unsafe { *value += 1 });
                shared.0.unlock();
            }
            i32::from(held)
        };
        let theirs = shared.clone();
        let other = loom::thread::spawn(move || add(theirs));
        let times = add(shared.clone()) + other.join().unwrap();
        // SAFETY: the other thread has been joined, so nothing else accesses the value.
        shared.1.with(|value| assert_eq!(unsafe { *value }, times));
        assert!(times > 0, "nobody had the lock");
    });
}

#[test]
fn exactly_one_ends_a_wait() {
    explore(|| {
        let claim = Arc::new(Claim::new());
        claim.begin();
        let winners = Arc::new(AtomicUsize::new(0));
        let (theirs, count) = (claim.clone(), winners.clone());
        let timer = loom::thread::spawn(move || count.fetch_add(usize::from(theirs.try_time_out()), Ordering::SeqCst));
        winners.fetch_add(usize::from(claim.try_wake()), Ordering::SeqCst);
        timer.join().unwrap();
        assert_eq!(winners.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_signal_and_a_timeout_at_once_lose_nothing() {
    explore(|| {
        let event: &'static Event = Box::leak(Box::new(Event::new()));
        // Loom creates its atomics at first use, which must not race.
        event.reset();
        let waiter: &'static thread::Thread = Box::leak(Box::new(thread::Thread::new()));
        let timer = loom::thread::spawn(move || waiter.time_out_once_waiting());
        let waiting = loom::thread::spawn(move || {
            thread::set_current(waiter);
            event.wait_until(time::Deadline::SOME)
        });
        event.signal();
        let outcome = waiting.join().unwrap();
        waiter.stop_timer();
        timer.join().unwrap();
        thread::set_current(Box::leak(Box::new(thread::Thread::new())));
        // Either the waiter received the signal, or the event remembers it for the next.
        let remembered = event.wait_until(time::Deadline::NOW).is_ok();
        assert_ne!(outcome == Ok(()), remembered, "waiter {outcome:?}, remembered {remembered}");
    });
}

#[test]
fn a_signal_wakes_a_waiter_whenever_it_comes() {
    explore(|| {
        let event: &'static Event = Box::leak(Box::new(Event::new()));
        // Loom creates its atomics at first use, which must not race.
        event.reset();
        let waiting = loom::thread::spawn(move || {
            thread::set_current(Box::leak(Box::new(thread::Thread::new())));
            event.wait();
        });
        event.signal();
        waiting.join().unwrap();
    });
}

#[test]
fn a_message_queue_of_one_place_passes_everything_in_order() {
    explore(|| {
        let queue: &'static MessageQueue<u8> = Box::leak(Box::new(MessageQueue::new(1).unwrap()));
        assert!(queue.is_empty());
        let sender = loom::thread::spawn(move || {
            thread::set_current(Box::leak(Box::new(thread::Thread::new())));
            queue.send(1);
            queue.send(2);
        });
        thread::set_current(Box::leak(Box::new(thread::Thread::new())));
        assert_eq!(queue.receive(), 1);
        assert_eq!(queue.receive(), 2);
        sender.join().unwrap();
        assert_eq!(queue.receive_until(time::Deadline::NOW), Err(TimedOut));
    });
}

/// Makes the calling thread a thread of the kernel.
fn become_thread() -> &'static thread::Thread {
    let thread: &'static thread::Thread = Box::leak(Box::new(thread::Thread::new()));
    thread::set_current(thread);
    thread
}

/// Makes a thread wait on `object` with a deadline that passes at any moment, while `meanwhile`
/// runs here. Returns both results.
fn race_a_timeout<O: Sync, T: Send + 'static, U>(
    object: &'static O,
    wait: impl Fn(&'static O) -> T + Send + 'static,
    meanwhile: impl FnOnce(&'static O) -> U,
) -> (T, U) {
    let waiter: &'static thread::Thread = Box::leak(Box::new(thread::Thread::new()));
    let timer = loom::thread::spawn(move || waiter.time_out_once_waiting());
    let waiting = loom::thread::spawn(move || {
        thread::set_current(waiter);
        wait(object)
    });
    let here = meanwhile(object);
    let theirs = waiting.join().unwrap();
    waiter.stop_timer();
    timer.join().unwrap();
    (theirs, here)
}

#[test]
fn a_barrier_lets_both_pass_or_neither() {
    explore(|| {
        become_thread();
        let barrier: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
        let (theirs, here) = race_a_timeout(
            barrier,
            |barrier| barrier.wait_until(time::Deadline::SOME),
            |barrier| barrier.wait_until(time::Deadline::NOW),
        );
        let passed = [theirs, here].map(|arrival| arrival.is_ok());
        assert_eq!(passed[0], passed[1], "{theirs:?} and {here:?}");
        let last = [theirs, here].iter().filter(|&&arrival| arrival == Ok(Arrival::Last)).count();
        assert_eq!(last, usize::from(passed[0]), "{theirs:?} and {here:?}");
        // The barrier is as if new.
        assert_eq!(barrier.wait_until(time::Deadline::NOW), Err(TimedOut));
    });
}

#[test]
fn a_semaphores_unit_is_taken_once_whenever_its_waiter_times_out() {
    explore(|| {
        become_thread();
        let semaphore: &'static Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        let (theirs, ()) = race_a_timeout(
            semaphore,
            |semaphore| semaphore.down_until(time::Deadline::SOME),
            |semaphore| semaphore.up(),
        );
        let now = || semaphore.down_until(time::Deadline::NOW);
        assert_ne!(theirs, now(), "the unit was taken twice, or got lost");
        assert_eq!(now(), Err(TimedOut), "there is a unit from nowhere");
    });
}

#[test]
fn a_mutex_forgets_no_waiter() {
    explore_with(2, || {
        let mutex: &'static KernelMutex<usize> = Box::leak(Box::new(KernelMutex::new(0)));
        become_thread();
        let guard = mutex.lock();
        let others = [(); 2].map(|()| {
            loom::thread::spawn(move || {
                become_thread();
                *mutex.lock() += 1;
            })
        });
        drop(guard);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(*mutex.lock(), 2);
    });
}

#[test]
fn a_mutex_is_not_touched_once_it_is_free() {
    explore(|| {
        lock::OBJECT_IS_GONE.set(false);
        let mutex: &'static KernelMutex<()> = Box::leak(Box::new(KernelMutex::new(())));
        become_thread();
        let guard = mutex.lock();
        let take = |mutex: &'static KernelMutex<()>| {
            // The last user: with the lock held it may destroy the mutex.
            if mutex.lock_until(time::Deadline::SOME).map(std::mem::forget).is_ok() {
                lock::OBJECT_IS_GONE.set(true);
            }
        };
        race_a_timeout(mutex, take, |_| drop(guard));
    });
}
