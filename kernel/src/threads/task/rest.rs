//! When the workers of a pool sleep, how they are woken, and when the pool has nothing left to run.

use crate::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::lock::SpinLock;

/// The worker runs tasks.
const AWAKE: u8 = 0;
/// The worker has found no task, has announced that, and looks once more.
const LOOKING: u8 = 1;
/// The worker has found no task again, and waits.
const ASLEEP: u8 = 2;

/// A worker's state, for the threads that queue tasks for it.
pub struct Worker(AtomicU8);

impl Worker {
    /// Creates the state of an awake worker.
    pub fn new() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// Returns true if the worker will look for tasks by itself. The caller has queued a task
    /// before, with a full barrier in between, which pairs with [`Workers::rest`].
    #[inline(always)]
    pub fn is_awake(&self) -> bool {
        self.0.load(Ordering::SeqCst) == AWAKE
    }

    /// Like [`Worker::is_awake`], for the worker's own CPU, where no memory ordering is needed.
    #[inline(always)]
    pub fn is_awake_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == AWAKE
    }
}

/// The outcome of a worker's attempt to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is a task after all.
    None,
    /// The worker waits until it is woken.
    Asleep,
    /// The worker and all others are asleep and the pool is ending: the caller notifies all of
    /// them.
    End,
}

/// The workers of a pool together.
pub struct Workers {
    /// Number of workers that are not awake, as a hint.
    sleepers: AtomicUsize,
    asleep: SpinLock<Asleep>,
    has_ended: AtomicBool,
}

/// Workers fall asleep and wake under the lock around this.
struct Asleep {
    /// Number of workers that are asleep. While a task runs, it is less than the number of workers,
    /// because the task's worker is awake, and so is every worker for which the task has queued
    /// another one.
    count: usize,
    /// The number of workers once the pool is ending, 0 before.
    ends_at: usize,
}

impl Workers {
    /// Creates the state of workers that are all awake.
    pub fn new() -> Self {
        Self {
            sleepers: AtomicUsize::new(0),
            asleep: SpinLock::new(Asleep { count: 0, ends_at: 0 }),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Returns true if a worker seems to be asleep. The caller has queued a task that any worker
    /// may run.
    #[inline(always)]
    pub fn may_sleep(&self) -> bool {
        self.sleepers.load(Ordering::SeqCst) != 0
    }

    /// Makes a worker awake. Returns true if it was not, so that the caller has to notify it.
    /// Called by the thread that has a task for the worker, and by the worker itself.
    pub fn wake(&self, worker: &Worker) -> bool {
        let mut asleep = self.asleep.lock();
        let before = worker.0.swap(AWAKE, Ordering::SeqCst);
        asleep.count -= usize::from(before == ASLEEP);
        drop(asleep);
        self.sleepers.fetch_sub(usize::from(before != AWAKE), Ordering::SeqCst);
        before != AWAKE
    }

    /// Puts a worker that has found no task to sleep, unless `finds_task` now finds one. The worker
    /// announces itself before it looks: a thread that queues a task in the meantime either sees
    /// that the worker is not awake, or the worker sees the task.
    pub fn rest(&self, worker: &Worker, finds_task: impl FnOnce() -> bool) -> Rest {
        worker.0.store(LOOKING, Ordering::SeqCst);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        if finds_task() {
            return Rest::None;
        }
        let mut asleep = self.asleep.lock();
        if worker.0.compare_exchange(LOOKING, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Rest::None;
        }
        asleep.count += 1;
        if asleep.count != asleep.ends_at {
            return Rest::Asleep;
        }
        self.has_ended.store(true, Ordering::SeqCst);
        Rest::End
    }

    /// Ends the pool once all its `count` workers are asleep. The caller then notifies the workers.
    pub fn end_when_asleep(&self, count: usize) {
        self.asleep.lock().ends_at = count;
    }

    /// Returns true once no task is left and no running task can queue another.
    pub fn have_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }
}
