//! When a pool's workers sleep, who wakes them, and when nothing is left to do.

use crate::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use crate::lock::SpinLock;

/// It runs tasks.
const AWAKE: u8 = 0;
/// It found none, has said so, and looks once more.
const LOOKING: u8 = 1;
/// It found none then either, and waits.
const ASLEEP: u8 = 2;

/// What a worker does, for whoever has a task for it.
pub struct Worker(AtomicU8);

impl Worker {
    /// Awake.
    pub fn new() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// True if it will look for tasks by itself. By who has queued one for it, in an order that the worker's look respects.
    #[inline(always)]
    pub fn is_awake(&self) -> bool {
        self.0.load(Ordering::SeqCst) == AWAKE
    }

    /// The same on the worker's own CPU, where nothing needs ordering.
    #[inline(always)]
    pub fn is_awake_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == AWAKE
    }
}

/// How a worker's attempt to sleep came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is something to do after all.
    None,
    /// It waits until it is woken.
    Asleep,
    /// So do all others, and the pool is to end: they are to be told.
    End,
}

/// The workers of a pool, together.
pub struct Workers {
    /// Number of those that are not awake, as a hint.
    sleepers: AtomicUsize,
    asleep: SpinLock<Asleep>,
    has_ended: AtomicBool,
}

/// Under its lock workers fall asleep and wake.
struct Asleep {
    /// Number of those that are asleep. While a task runs it is less than that of all, because its worker is awake, and so is
    /// every worker for which the task has queued another.
    count: usize,
    /// The number of all once the pool is to end, 0 before.
    ends_at: usize,
}

impl Workers {
    /// All of them awake.
    pub fn new() -> Self {
        Self {
            sleepers: AtomicUsize::new(0),
            asleep: SpinLock::new(Asleep { count: 0, ends_at: 0 }),
            has_ended: AtomicBool::new(false),
        }
    }

    /// True if it seems that one sleeps. By who has queued a task that anyone may run.
    #[inline(always)]
    pub fn may_sleep(&self) -> bool {
        self.sleepers.load(Ordering::SeqCst) != 0
    }

    /// Makes a worker awake; true if it was not, and is to be told. By who has a task for it, and by itself.
    pub fn wake(&self, worker: &Worker) -> bool {
        let mut asleep = self.asleep.lock();
        let before = worker.0.swap(AWAKE, Ordering::SeqCst);
        asleep.count -= usize::from(before == ASLEEP);
        drop(asleep);
        self.sleepers.fetch_sub(usize::from(before != AWAKE), Ordering::SeqCst);
        before != AWAKE
    }

    /// A worker that has found no task sleeps if it does not find one now either. A task queued in between finds that it
    /// is not awake, or is found.
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

    /// The pool is to end when all its workers are asleep, `count` of them, who are to be told.
    pub fn end_when_asleep(&self, count: usize) {
        self.asleep.lock().ends_at = count;
    }

    /// True once nothing is left to do and nobody is there who could queue anything.
    pub fn have_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }
}
