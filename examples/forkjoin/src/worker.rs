//! Workers, one per CPU. A worker with nothing to do steals, then sleeps.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use platform::{Event, pause};

use crate::deque::{Deque, Stolen};
use crate::job::Job;

/// Capacity of a worker's deque, in jobs.
const CAPACITY: usize = 1024;
/// The default number of searches for work before a worker sleeps.
const LOOKS: usize = 1000;

/// The part of a worker that other workers access, on cache lines of its own.
#[repr(align(128))]
struct Public {
    deque: Deque<Job, CAPACITY>,
    /// Set by the worker before it sleeps, cleared by the worker that wakes it.
    asleep: AtomicBool,
    wake: Event,
}

struct Shared {
    workers: Vec<Public>,
    /// The number of sleeping workers.
    sleepers: AtomicUsize,
    stopping: AtomicBool,
    /// The number of searches for work before a worker sleeps.
    looks: usize,
}

/// A worker, as the code that runs on it sees it.
pub struct Worker<'a> {
    shared: &'a Shared,
    own: &'a Public,
    index: usize,
}

/// Calls `body` on worker 0 of `count`, on CPUs 0 to `count` - 1: the calling thread and new
/// threads.
pub fn run<T>(count: usize, body: impl FnOnce(&Worker) -> T) -> T {
    run_with(count, LOOKS, body)
}

/// Runs [`run`] with another number of searches for work before a worker sleeps.
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

    /// Returns the worker's index, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the number of workers.
    pub fn count(&self) -> usize {
        self.shared.workers.len()
    }

    /// Returns the number of sleeping workers, as a hint.
    pub fn sleepers(&self) -> usize {
        self.shared.sleepers.load(Ordering::Relaxed)
    }

    /// Offers a job to all workers; returns false if there is no room for it.
    #[inline(always)]
    pub(crate) fn offer(&self, job: *mut Job) -> bool {
        if !self.own.deque.push(job) {
            return false;
        }
        // Either a worker about to sleep sees the job, or this thread sees the sleeper: see
        // `sleep`.
        fence(Ordering::SeqCst);
        if self.shared.sleepers.load(Ordering::Relaxed) != 0 {
            self.wake_one();
        }
        true
    }

    /// Takes back an offered job; returns false if another worker has taken it. Jobs offered after
    /// it, to an enclosing scope, run first.
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

    /// Runs other jobs until `done` is set.
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

    /// Tries the other workers in turn, again if a race was lost.
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
        // SAFETY: a job is taken out of a deque once and run once, and its owner keeps it until it
        // is done.
        unsafe { ((*job).run)(job, self) };
    }

    /// The main loop of every worker except worker 0.
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
        // The worker announces its sleep first and searches again after that: a job offered in
        // between finds a sleeper or is found.
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
