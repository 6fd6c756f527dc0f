//! The runtime's operations: join, scope, parallel for, reduce.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::job::{Job, StackJob};
use crate::worker::Worker;

/// Calls `first` here, and then `second` here unless another worker has taken it meanwhile.
#[inline]
pub fn join<A, B>(worker: &Worker, first: impl FnOnce(&Worker) -> A, second: impl FnOnce(&Worker) -> B + Send) -> (A, B)
where
    B: Send,
{
    let job = StackJob::new(second);
    let offered = worker.offer(job.as_job());
    let first = first(worker);
    if !offered || worker.take_back(job.as_job()) {
        return (first, job.run_here(worker));
    }
    let second = job.wait(worker);
    (first, second)
}

/// Halves a range repeatedly, down to pieces of at most `grain`, and calls `body` with each piece.
pub fn for_each(worker: &Worker, range: Range<usize>, grain: usize, body: &(impl Fn(&Worker, Range<usize>) + Sync)) {
    if range.len() <= grain.max(1) {
        return body(worker, range);
    }
    let middle = range.start + range.len() / 2;
    let (low, high) = (range.start..middle, middle..range.end);
    join(worker, |worker| for_each(worker, low, grain, body), |worker| for_each(worker, high, grain, body));
}

/// Splits a range like [`for_each`], and combines the results of neighbouring pieces, in the same
/// order with any number of workers.
pub fn reduce<T: Send>(
    worker: &Worker,
    range: Range<usize>,
    grain: usize,
    body: &(impl Fn(&Worker, Range<usize>) -> T + Sync),
    combine: &(impl Fn(T, T) -> T + Sync),
) -> T {
    if range.len() <= grain.max(1) {
        return body(worker, range);
    }
    let middle = range.start + range.len() / 2;
    let (low, high) = (range.start..middle, middle..range.end);
    let (low, high) = join(
        worker,
        |worker| reduce(worker, low, grain, body, combine),
        |worker| reduce(worker, high, grain, body, combine),
    );
    combine(low, high)
}

/// A set of jobs whose number is not known in advance; see [`scope`].
pub struct Scope<'scope> {
    /// Unfinished jobs, plus one for the scope's own body.
    pending: AtomicUsize,
    done: AtomicBool,
    _borrows: PhantomData<&'scope mut &'scope ()>,
}

/// Calls `body`, which may spawn jobs that borrow from its environment, and waits for all of them.
pub fn scope<'scope, T>(worker: &Worker, body: impl FnOnce(&Scope<'scope>, &Worker) -> T) -> T {
    let scope = Scope { pending: AtomicUsize::new(1), done: AtomicBool::new(false), _borrows: PhantomData };
    let result = body(&scope, worker);
    scope.finish_one();
    worker.work_until(&scope.done);
    result
}

/// A boxed job of a scope.
#[repr(C)]
struct ScopeJob<F> {
    job: Job,
    scope: *const (),
    body: F,
}

impl<'scope> Scope<'scope> {
    /// Spawns `body`, which runs here or on another worker before the scope ends.
    pub fn spawn<F>(&self, worker: &Worker, body: F)
    where
        F: FnOnce(&Scope<'scope>, &Worker) + Send + 'scope,
    {
        unsafe fn run<'scope, F: FnOnce(&Scope<'scope>, &Worker)>(job: *mut Job, worker: &Worker) {
            // SAFETY: `spawn` boxed the job and it runs once; the scope waits for it and stays
            // alive.
            let (scope, body) = unsafe {
                let job = Box::from_raw(job.cast::<ScopeJob<F>>());
                (&*job.scope.cast::<Scope<'scope>>(), job.body)
            };
            body(scope, worker);
            scope.finish_one();
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        let job = ScopeJob { job: Job { run: run::<F> }, scope: (&raw const *self).cast(), body };
        let job = Box::into_raw(Box::new(job)).cast::<Job>();
        if !worker.offer(job) {
            // SAFETY: the deque has no room and did not take the job, so it is still this thread's.
            unsafe { ((*job).run)(job, worker) };
        }
    }

    /// Marks one job, or the body, as finished. A job must not access the scope after this, because
    /// the scope may be gone.
    fn finish_one(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.store(true, Ordering::Release);
        }
    }
}
