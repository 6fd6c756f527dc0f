//! Jobs: what deques hold pointers to.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::worker::Worker;

/// The beginning of every job.
#[repr(C)]
pub struct Job {
    /// Runs it, once; the job may be gone when it returns.
    pub run: unsafe fn(*mut Job, &Worker),
}

/// A job on its owner's stack, who waits for it.
#[repr(C)]
pub struct StackJob<F, T> {
    job: Job,
    body: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<T>>,
    done: AtomicBool,
}

// SAFETY: whoever takes the job out of a deque has it alone, until it is done; then its owner has.
unsafe impl<F: Send, T: Send> Sync for StackJob<F, T> {}

impl<F: FnOnce(&Worker) -> T, T> StackJob<F, T> {
    /// A job that is not done.
    #[inline(always)]
    pub fn new(body: F) -> Self {
        Self {
            job: Job { run: Self::run },
            body: UnsafeCell::new(Some(body)),
            result: UnsafeCell::new(None),
            done: AtomicBool::new(false),
        }
    }

    /// As deques hold it.
    #[inline(always)]
    pub fn as_job(&self) -> *mut Job {
        (&raw const *self).cast::<Job>().cast_mut()
    }

    unsafe fn run(job: *mut Job, worker: &Worker) {
        // SAFETY: the owner waits for `done`, which is the last that is touched.
        unsafe {
            let this = job.cast::<Self>();
            let body = (*(*this).body.get()).take();
            *(*this).result.get() = body.map(|body| body(worker));
            (*this).done.store(true, Ordering::Release);
        }
    }

    /// Runs it here. By its owner, who has it back.
    #[inline(always)]
    pub fn run_here(self, worker: &Worker) -> T {
        let body = self.body.into_inner().expect("a job that was taken back has not run");
        body(worker)
    }

    /// Waits until somebody has run it. By its owner, who does not have it back.
    #[cold]
    pub fn wait(&self, worker: &Worker) -> T {
        worker.work_until(&self.done);
        // SAFETY: done, so nobody else has it any more.
        unsafe { (*self.result.get()).take() }.expect("a job that is done has a result")
    }
}
