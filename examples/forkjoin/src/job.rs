//! Jobs, to which the deques hold pointers.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::worker::Worker;

/// The header of every job.
#[repr(C)]
pub struct Job {
    /// Runs the job, once. The job may no longer exist when this returns.
    pub run: unsafe fn(*mut Job, &Worker),
}

/// A job on the stack of its owner, which waits for it.
#[repr(C)]
pub struct StackJob<F, T> {
    job: Job,
    body: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<T>>,
    done: AtomicBool,
}

// SAFETY: the worker that takes the job out of a deque has exclusive access until it sets `done`;
// after that the owner has.
unsafe impl<F: Send, T: Send> Sync for StackJob<F, T> {}

impl<F: FnOnce(&Worker) -> T, T> StackJob<F, T> {
    /// Creates a job that has not run.
    #[inline(always)]
    pub fn new(body: F) -> Self {
        Self {
            job: Job { run: Self::run },
            body: UnsafeCell::new(Some(body)),
            result: UnsafeCell::new(None),
            done: AtomicBool::new(false),
        }
    }

    /// Returns the pointer that deques hold.
    #[inline(always)]
    pub fn as_job(&self) -> *mut Job {
        (&raw const *self).cast::<Job>().cast_mut()
    }

    unsafe fn run(job: *mut Job, worker: &Worker) {
        // SAFETY: the job is taken from a deque only once, and its owner keeps it until `done`,
        // which is the last field accessed here.
        unsafe {
            let this = job.cast::<Self>();
            let body = (*(*this).body.get()).take();
            *(*this).result.get() = body.map(|body| body(worker));
            (*this).done.store(true, Ordering::Release);
        }
    }

    /// Runs the job on its owner, after the owner has taken it back.
    #[inline(always)]
    pub fn run_here(self, worker: &Worker) -> T {
        let body = self.body.into_inner().expect("a job that was taken back has not run");
        body(worker)
    }

    /// Waits until another worker has run the job. Called by the owner if it could not take the job
    /// back.
    #[cold]
    pub fn wait(&self, worker: &Worker) -> T {
        worker.work_until(&self.done);
        // SAFETY: `done` is set, so the worker that ran the job no longer accesses it.
        unsafe { (*self.result.get()).take() }.expect("a job that is done has a result")
    }
}
