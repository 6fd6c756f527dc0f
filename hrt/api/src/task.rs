//! Tasks: closures that run to completion, queued on a CPU, on workers of which there is one per CPU.

use crate::packed::{pack, unpack};
use crate::{Error, check, raw};

/// What goes first on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Before all others.
    High,
    /// As usual.
    #[default]
    Normal,
    /// When there is nothing else.
    Low,
}

/// Where a task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Queued on the caller's CPU; another may steal it.
    Here,
    /// Queued on this CPU; another may steal it.
    Near(usize),
    /// On this CPU only.
    Pinned(usize),
}

/// Queues and workers on all CPUs. Dropping it waits until all that is queued has run; not from one of its own tasks.
pub struct Pool {
    pool: *mut abi::Pool,
}

// SAFETY: a handle; the kernel's queues lock.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new() -> Result<Self, Error> {
        let mut pool = core::ptr::null_mut();
        // SAFETY: a place for the handle.
        check(unsafe { raw::aero_pool_create(&raw mut pool) })?;
        Ok(Self { pool })
    }

    /// Queues a task. A closure of at most a word travels as it is; a larger one in a box.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::NoSuchCpu`]; the closure is dropped.
    pub fn queue<F>(&self, place: Place, priority: Priority, closure: F) -> Result<(), Error>
    where
        F: FnOnce() + Send + 'static,
    {
        unsafe extern "C" fn run<F: FnOnce()>(packed: *mut u8) {
            // SAFETY: packed below, taken once.
            let closure = unsafe { unpack::<F>(packed as u64) };
            closure();
        }
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
        // SAFETY: `run` takes what was packed.
        let status = unsafe { raw::aero_pool_queue(self.pool, &raw const options, Some(run::<F>), packed as *mut u8) };
        check(status).map(drop).inspect_err(|_| {
            // SAFETY: not queued, so it is still ours.
            drop(unsafe { unpack::<F>(packed) });
        })
    }

    /// Runs the first task of this CPU's queue on the caller; false if there is none.
    pub fn run_one(&self) -> bool {
        // SAFETY: a live pool.
        unsafe { raw::aero_pool_run_one(self.pool) == 1 }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: a live pool, not used again.
        let status = unsafe { raw::aero_pool_destroy(self.pool) };
        assert!(status == abi::OK, "a pool was dropped by one of its own tasks, which it would wait for");
    }
}
