//! Threads: spawn, join, yield, sleep, migrate. A thread stays on its CPU until it migrates.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::time::Duration;

use crate::time::Deadline;
use crate::{Error, check, raw};

/// How a thread shall be.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    name: &'a str,
    cpu: u32,
    stack_size: usize,
}

/// The result of a thread, shared by it and its handle.
struct Packet<T>(UnsafeCell<Option<T>>);

// SAFETY: the thread writes, the joiner reads after its end.
unsafe impl<T: Send> Sync for Packet<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Packet<T> {}

/// A thread's handle. Dropping it detaches the thread.
pub struct JoinHandle<T> {
    thread: *mut abi::Thread,
    packet: Arc<Packet<T>>,
}

// SAFETY: a handle, and a result that may change threads.
unsafe impl<T: Send> Send for JoinHandle<T> {}

/// Spawns a thread on the caller's CPU.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn spawn<F, T>(body: F) -> Result<JoinHandle<T>, Error>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new("thread").spawn(body)
}

impl<'a> Builder<'a> {
    /// A thread called `name` on the caller's CPU.
    pub fn new(name: &'a str) -> Self {
        Self { name, cpu: abi::ANY, stack_size: 0 }
    }

    /// Bound to this CPU.
    pub fn cpu(self, cpu: usize) -> Self {
        Self { cpu: u32::try_from(cpu).unwrap_or(abi::ANY - 1), ..self }
    }

    /// With a stack of at least so many bytes.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self { stack_size: bytes, ..self }
    }

    /// Spawns it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::NoSuchCpu`].
    pub fn spawn<F, T>(self, body: F) -> Result<JoinHandle<T>, Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        struct Start<F, T> {
            body: F,
            packet: Arc<Packet<T>>,
        }
        unsafe extern "C" fn run<F: FnOnce() -> T, T>(start: *mut u8) {
            // SAFETY: made below, used once.
            let Start { body, packet } = *unsafe { Box::from_raw(start.cast::<Start<F, T>>()) };
            let result = body();
            // SAFETY: nobody reads before this thread's end.
            unsafe { *packet.0.get() = Some(result) };
        }
        let packet = Arc::new(Packet(UnsafeCell::new(None)));
        let start = Box::into_raw(Box::new(Start { body, packet: packet.clone() }));
        let options = abi::ThreadOptions {
            name: self.name.as_ptr(),
            name_length: self.name.len(),
            cpu: self.cpu,
            stack_size: self.stack_size,
        };
        let mut thread = core::ptr::null_mut();
        // SAFETY: `run` takes over the start.
        let status =
            unsafe { raw::aero_thread_spawn(&raw const options, Some(run::<F, T>), start.cast(), &raw mut thread) };
        if let Err(error) = check(status) {
            // SAFETY: the thread was not spawned, so the start is still ours.
            drop(unsafe { Box::from_raw(start) });
            return Err(error);
        }
        Ok(JoinHandle { thread, packet })
    }
}

impl<T> JoinHandle<T> {
    /// Waits for the thread's end; its result, or `None` if it called [`exit`]. Blocks.
    pub fn join(self) -> Option<T> {
        self.join_until(Deadline::NEVER).unwrap_or(None)
    }

    /// Waits for the thread's end until a deadline. Blocks.
    ///
    /// # Errors
    /// The handle, if the thread has not ended by then.
    pub fn join_until(mut self, deadline: Deadline) -> Result<Option<T>, Self> {
        // SAFETY: a live handle.
        if unsafe { raw::aero_thread_join(self.thread, deadline.0) } != abi::OK {
            return Err(self);
        }
        self.thread = core::ptr::null_mut();
        // SAFETY: the thread is over.
        Ok(unsafe { (*self.packet.0.get()).take() })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.thread.is_null() {
            // SAFETY: a live handle, not used again.
            unsafe { raw::aero_thread_detach(self.thread) };
        }
    }
}

/// Lets other ready threads of this CPU run first.
pub fn yield_now() {
    // SAFETY: no condition.
    unsafe { raw::aero_thread_yield() };
}

/// Sleeps. Blocks.
pub fn sleep(duration: Duration) {
    // SAFETY: no condition.
    unsafe { raw::aero_thread_sleep(Deadline::after(duration).0) };
}

/// Ends the calling thread without a result. Values on its stack are not dropped.
///
/// # Safety
/// Nothing refers to what is on the thread's stack, which is used for something else from now on: no pinned value is there, and
/// nothing that was lent to another thread for a time, as a fork and join does.
pub unsafe fn exit() -> ! {
    // SAFETY: the caller's word.
    unsafe { raw::aero_thread_exit() }
}

/// Moves the calling thread to a CPU.
///
/// # Errors
/// [`Error::NoSuchCpu`].
pub fn migrate(cpu: usize) -> Result<(), Error> {
    let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
    // SAFETY: no condition.
    check(unsafe { raw::aero_thread_migrate(cpu) }).map(drop)
}

/// Number of the calling thread, never used twice.
pub fn id() -> u64 {
    // SAFETY: no condition.
    unsafe { raw::aero_thread_id() }
}
