//! Threads of the process that call a function in the HRT at once, each as the partner of its own
//! execution group.

use std::array::from_fn;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::core::Core;
use crate::memory::MOST_CPUS;
use crate::partner;
use crate::partners::locked;
use crate::state::{CallError, Transaction};

/// How often a thread looks for what it waits for before it sleeps.
const LOOKS: u32 = 1000;
/// How often a sleeping thread looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a worker may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// The job after which a worker ends.
const END: u64 = u64::MAX;

/// The workers of an HRT; there are none before the first call.
#[derive(Default)]
pub struct Workers {
    threads: Mutex<Vec<Option<Worker>>>,
    shared: Arc<Shared>,
}

struct Worker {
    thread: JoinHandle<()>,
    /// A function has ended the thread.
    has_ended: Arc<AtomicBool>,
}

/// What the workers and the thread that has them work share.
struct Shared {
    /// The latest job's number.
    job: AtomicU64,
    function: AtomicU64,
    argument: AtomicU64,
    /// Workers that are still at it.
    left: AtomicUsize,
    waiter: Mutex<Option<Thread>>,
    results: [AtomicU64; MOST_CPUS as usize],
    /// The first error.
    error: Mutex<Option<CallError>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            job: AtomicU64::new(0),
            function: AtomicU64::new(0),
            argument: AtomicU64::new(0),
            left: AtomicUsize::new(0),
            waiter: Mutex::new(None),
            results: from_fn(|_| AtomicU64::new(0)),
            error: Mutex::new(None),
        }
    }
}

impl Worker {
    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}

impl Workers {
    /// Calls a function by one worker for each CPU of the HRT. Returns the results in the workers'
    /// order.
    ///
    /// # Errors
    /// The first error of a worker; [`CallError::Busy`] during another such call.
    pub fn call(&self, core: &Arc<Core>, function: u64, argument: u64) -> Result<Vec<u64>, CallError> {
        let mut threads = match self.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(CallError::Busy(Transaction::ParallelCall)),
        };
        let count = core.cpus() as usize;
        threads.resize_with(count, || None);
        for (index, worker) in threads.iter_mut().enumerate().filter(|(_, worker)| worker.is_none()) {
            *worker = Some(self.start(core, index)?);
        }
        let shared = &self.shared;
        if shared.left.load(Ordering::Acquire) != 0 {
            return Err(CallError::Busy(Transaction::ParallelCall));
        }
        shared.function.store(function, Ordering::Relaxed);
        shared.argument.store(argument, Ordering::Relaxed);
        shared.left.store(count, Ordering::Relaxed);
        *locked(&shared.waiter) = Some(thread::current());
        shared.job.fetch_add(1, Ordering::Release);
        threads.iter().flatten().for_each(|worker| worker.thread.thread().unpark());
        let is_done = || shared.left.load(Ordering::Acquire) == 0;
        while !is_done() {
            let has_lost = || threads.iter().flatten().any(Worker::has_ended);
            // A worker may have an earlier call to end first.
            if !wait_until(|| is_done() || has_lost(), Some(3 * core.limit)) && !core.is_stopped() {
                return Err(CallError::NoAnswer(core.limit));
            }
            for lost in threads.iter_mut().filter(|worker| worker.as_ref().is_some_and(Worker::has_ended)) {
                // A thread that was ended so cannot be joined: it does not come back to Rust.
                lost.take().into_iter().for_each(std::mem::forget);
                locked(&shared.error).get_or_insert(CallError::ThreadEnded);
                shared.left.fetch_sub(1, Ordering::AcqRel);
            }
        }
        match locked(&shared.error).take() {
            Some(error) => Err(error),
            None => Ok(shared.results[..count].iter().map(|result| result.load(Ordering::Relaxed)).collect()),
        }
    }

    fn start(&self, core: &Arc<Core>, index: usize) -> Result<Worker, CallError> {
        let (core, shared, has_ended) = (Arc::clone(core), Arc::clone(&self.shared), Arc::default());
        let done = shared.job.load(Ordering::Relaxed);
        let its = Arc::clone(&has_ended);
        let work = move || {
            partner::tell_end(its);
            core.kicks.take_no_others();
            work(&core, &shared, index, done);
        };
        let started = thread::Builder::new().name(format!("hrt-worker-{index}")).spawn(work);
        let thread = started
            .map_err(|why| CallError::Refused(format!("no thread can call for the HRT's CPU {index}: {why}")))?;
        Ok(Worker { thread, has_ended })
    }

    /// Ends the workers. The HRT has ended, so none stays in a call.
    pub fn end(&self) {
        self.shared.job.store(END, Ordering::Release);
        for worker in locked(&self.threads).drain(..).flatten() {
            worker.thread.thread().unpark();
            if wait_until(|| worker.thread.is_finished() || worker.has_ended(), Some(END_LIMIT)) && !worker.has_ended()
            {
                let _ = worker.thread.join();
            } else {
                std::mem::forget(worker);
            }
        }
    }

    /// Forgets the workers, in a fork of the process, where they are not.
    pub fn forget(&mut self) {
        if let Ok(threads) = self.threads.get_mut() {
            threads.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Does jobs until the last one.
fn work(core: &Arc<Core>, shared: &Shared, index: usize, mut done: u64) {
    loop {
        wait_until(|| shared.job.load(Ordering::Acquire) != done, None);
        done = shared.job.load(Ordering::Acquire);
        if done == END {
            return;
        }
        let (function, argument) = (shared.function.load(Ordering::Relaxed), shared.argument.load(Ordering::Relaxed));
        match partner::call(core, function, argument, index as u64) {
            Ok(result) => shared.results[index].store(result, Ordering::Relaxed),
            Err(error) => drop(locked(&shared.error).get_or_insert(error)),
        }
        let waiter = locked(&shared.waiter).clone();
        if shared.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            waiter.into_iter().for_each(|waiter| waiter.unpark());
        }
    }
}

/// Waits for another thread, which unparks this one. Returns false if the limit passes first.
fn wait_until(is_there: impl Fn() -> bool, limit: Option<Duration>) -> bool {
    for _ in 0..LOOKS {
        if is_there() {
            return true;
        }
        spin_loop();
    }
    let start = Instant::now();
    while !is_there() {
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            return false;
        }
        // The end of a thread unparks no other.
        thread::park_timeout(LOOK_INTERVAL);
    }
    true
}
