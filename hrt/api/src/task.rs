//! Tasks: closures that run to completion, queued on a CPU and run by its worker. Each CPU has one
//! worker.

use crate::packed::{pack, unpack};
use crate::{Error, check, raw};

/// The order of tasks on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// Only when no other task is queued.
    Low,
}

/// The CPUs on which a task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Queued on the caller's CPU; another CPU may steal it.
    Here,
    /// Queued on this CPU; another CPU may steal it.
    Near(usize),
    /// On this CPU only.
    Pinned(usize),
}

/// Queues and workers on all CPUs. Dropping the pool waits until every queued task has run.
///
/// # Panics
/// If one of the pool's own tasks drops it.
pub struct Pool {
    pool: *mut abi::Pool,
}

// SAFETY: the kernel's queues are built for concurrent use by many threads.
unsafe impl Sync for Pool {}
// SAFETY: the handle is valid on every thread of the program.
unsafe impl Send for Pool {}

impl Pool {
    /// Creates a pool.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new() -> Result<Self, Error> {
        let mut pool = core::ptr::null_mut();
        // SAFETY: `pool` is a valid place for the handle during the call.
        check(unsafe { raw::aero_pool_create(&raw mut pool) })?;
        Ok(Self { pool })
    }

    /// Queues a task. A closure of at most one word is stored inline, a larger one in a box.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::NoSuchCpu`]; the closure is dropped.
    pub fn queue<F>(&self, place: Place, priority: Priority, closure: F) -> Result<(), Error>
    where
        F: FnOnce() + Send + 'static,
    {
        unsafe extern "C" fn run<F: FnOnce()>(packed: *mut u8) {
            // SAFETY: `queue` packed an `F` below, and the task runs only once.
            let closure = unsafe { unpack::<F>(packed as u64) };
            closure();
        }
        // A number that does not fit becomes one that no CPU has, rather than `ANY`.
        let (cpu, pinned) = match place {
            Place::Here => (abi::ANY, 0),
            Place::Near(cpu) => (u32::try_from(cpu).unwrap_or(abi::ANY - 1), 0),
            Place::Pinned(cpu) => (u32::try_from(cpu).unwrap_or(abi::ANY - 1), 1),
        };
        let priority = match priority {
            Priority::High => abi::PRIORITY_HIGH,
            Priority::Normal => abi::PRIORITY_NORMAL,
            Priority::Low => abi::PRIORITY_LOW,
        };
        let options = abi::TaskOptions { cpu, priority, pinned };
        let packed = pack(closure);
        // SAFETY: the handle names a live pool, the options live during the call, and `run` unpacks
        // the type packed here.
        let status = unsafe { raw::aero_pool_queue(self.pool, &raw const options, Some(run::<F>), packed as *mut u8) };
        check(status).map(drop).inspect_err(|_| {
            // SAFETY: the task was not queued, so `run` never unpacks the closure and it is
            // unpacked only here.
            drop(unsafe { unpack::<F>(packed) });
        })
    }

    /// Runs the first task of this CPU's queue on the caller; returns false if there is none.
    pub fn run_one(&self) -> bool {
        // SAFETY: the handle names a live pool, which is destroyed only in `drop`.
        unsafe { raw::aero_pool_run_one(self.pool) == 1 }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the handle names a live pool and is not used again.
        let status = unsafe { raw::aero_pool_destroy(self.pool) };
        assert!(status == abi::OK, "a pool was dropped by one of its own tasks, which it would wait for");
    }
}
