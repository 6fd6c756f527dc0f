//! Workers: one per CPU. One with nothing to do steals, then sleeps.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use platform::{Event, pause};

use crate::deque::{Deque, Stolen};
use crate::job::Job;

/// Tasks a worker may have waiting.
const CAPACITY: usize = 1024;
/// Looks around before a worker sleeps.
const LOOKS: usize = 1000;

/// What others see of a worker, on cache lines of its own.
#[repr(align(128))]
struct Public {
    deque: Deque<Job, CAPACITY>,
    /// Set by the worker before it sleeps, cleared by whoever wakes it.
    asleep: AtomicBool,
    wake: Event,
}

struct Shared {
    workers: Vec<Public>,
    /// How many sleep.
    sleepers: AtomicUsize,
    stopping: AtomicBool,
    /// Looks around before a worker sleeps.
    looks: usize,
}

/// A worker, for the code that runs on it.
pub struct Worker<'a> {
    shared: &'a Shared,
    own: &'a Public,
    index: usize,
}

/// Calls `body` on worker 0 of `count`, on CPUs 0 to `count` - 1: the calling thread and new ones.
pub fn run<T>(count: usize, body: impl FnOnce(&Worker) -> T) -> T {
    run_with(count, LOOKS, body)
}

/// As [`run`]; a worker sleeps after so many looks around.
pub fn run_with<T>(count: usize, looks: usize, body: impl FnOnce(&Worker) -> T) -> T {
    let public = || Public { deque: Deque::new(), asleep: AtomicBool::new(false), wake: Event::new() };
    let workers = (0..count.max(1)).map(|_| public()).collect();
    let shared = Arc::new(Shared { workers, sleepers: AtomicUsize::new(0), stopping: AtomicBool::new(false), looks });
    platform::move_to(0);
    let others: Vec<_> = (1..count)
        .map(|index| {
            let shared = shared.clone();
            platform::spawn("worker", index, move || Worker::new(&shared, index).live())
        })
        .collect();
    let result = body(&Worker::new(&shared, 0));
    shared.stopping.store(true, Ordering::SeqCst);
    shared.workers.iter().for_each(|worker| worker.wake.signal());
    others.into_iter().for_each(platform::Thread::join);
    result
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, index: usize) -> Self {
        Self { shared, own: &shared.workers[index], index }
    }

    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.shared.workers.len()
    }

    /// Number of workers that sleep, as a hint.
    pub fn sleepers(&self) -> usize {
        self.shared.sleepers.load(Ordering::Relaxed)
    }

    /// Offers a job to all workers; false if there is no room for it.
    #[inline(always)]
    pub(crate) fn offer(&self, job: *mut Job) -> bool {
        if !self.own.deque.push(job) {
            return false;
        }
        // Whoever is about to sleep sees the job, or this sees them: see `sleep`.
        fence(Ordering::SeqCst);
        if self.shared.sleepers.load(Ordering::Relaxed) != 0 {
            self.wake_one();
        }
        true
    }

    /// Takes back a job that was offered; false if somebody else has taken it. Jobs that were offered after it, to a scope
    /// around it, run first.
    #[inline(always)]
    pub(crate) fn take_back(&self, job: *mut Job) -> bool {
        loop {
            match self.own.deque.pop() {
                Some(youngest) if youngest == job => return true,
                Some(younger) => self.execute(younger),
                None => return false,
            }
        }
    }

    #[cold]
    fn wake_one(&self) {
        for worker in &self.shared.workers {
            if worker.asleep.load(Ordering::Relaxed) && worker.asleep.swap(false, Ordering::SeqCst) {
                self.shared.sleepers.fetch_sub(1, Ordering::SeqCst);
                return worker.wake.signal();
            }
        }
    }

    /// Works for others until `done`.
    pub(crate) fn work_until(&self, done: &AtomicBool) {
        while !done.load(Ordering::Acquire) {
            match self.find() {
                Some(job) => self.execute(job),
                None => pause(),
            }
        }
    }

    fn find(&self) -> Option<*mut Job> {
        self.own.deque.pop().or_else(|| self.steal())
    }

    /// Asks the others in turn.
    fn steal(&self) -> Option<*mut Job> {
        let workers = &self.shared.workers;
        let mut again = true;
        while again {
            again = false;
            for distance in 1..workers.len() {
                match workers[(self.index + distance) % workers.len()].deque.steal() {
                    Stolen::One(job) => return Some(job),
                    Stolen::Lost => again = true,
                    Stolen::Empty => {}
                }
            }
        }
        None
    }

    fn execute(&self, job: *mut Job) {
        // SAFETY: whoever takes a job out of a deque runs it, once; its owner keeps it until it is done.
        unsafe { ((*job).run)(job, self) };
    }

    /// A worker's life, but for worker 0's.
    fn live(&self) {
        let mut looks = 0;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            if let Some(job) = self.find() {
                self.execute(job);
                looks = 0;
            } else if looks < self.shared.looks {
                looks += 1;
                pause();
            } else {
                self.sleep();
                looks = 0;
            }
        }
    }

    #[cold]
    fn sleep(&self) {
        // Announced first and looked again after: a job offered in between finds a sleeper or is found.
        self.own.asleep.store(true, Ordering::SeqCst);
        self.shared.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let nothing = self.shared.workers.iter().all(|worker| worker.deque.is_empty());
        if nothing && !self.shared.stopping.load(Ordering::SeqCst) {
            self.own.wake.wait();
        }
        if self.own.asleep.swap(false, Ordering::SeqCst) {
            self.shared.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
