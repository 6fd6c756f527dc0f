//! Threads: spawn, join, yield, sleep, migrate. A thread stays on its CPU until it migrates.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::time::Duration;

use crate::time::Deadline;
use crate::{Error, check, raw};

/// The options of a new thread.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    name: &'a str,
    cpu: u32,
    stack_size: usize,
}

/// A thread's result, shared between the thread and its handle.
struct Packet<T>(UnsafeCell<Option<T>>);

// SAFETY: only the thread writes the result, and the joiner reads it only after the thread has
// ended.
unsafe impl<T: Send> Sync for Packet<T> {}
// SAFETY: the packet only holds the result, and `T: Send` lets that change threads.
unsafe impl<T: Send> Send for Packet<T> {}

/// A thread's handle. Dropping it detaches the thread.
pub struct JoinHandle<T> {
    thread: *mut abi::Thread,
    packet: Arc<Packet<T>>,
}

// SAFETY: the handle is valid on every thread of the program, and the result may change threads.
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
    /// Creates the options for a thread called `name` on the caller's CPU.
    pub fn new(name: &'a str) -> Self {
        Self { name, cpu: abi::ANY, stack_size: 0 }
    }

    /// Binds the thread to this CPU.
    pub fn cpu(self, cpu: usize) -> Self {
        // A number that does not fit becomes one that no CPU has, rather than `ANY`.
        Self { cpu: u32::try_from(cpu).unwrap_or(abi::ANY - 1), ..self }
    }

    /// Requests a stack of at least this many bytes.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self { stack_size: bytes, ..self }
    }

    /// Spawns the thread.
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
            // SAFETY: `start` comes from `Box::into_raw` below, and the thread's body runs only
            // once.
            let Start { body, packet } = *unsafe { Box::from_raw(start.cast::<Start<F, T>>()) };
            let result = body();
            // SAFETY: the joiner reads the result only after this thread has ended, so this is the
            // only access.
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
        // SAFETY: `run` takes ownership of `start`, which has the type that `run` expects; options
        // and handle live during the call.
        let status =
            unsafe { raw::aero_thread_spawn(&raw const options, Some(run::<F, T>), start.cast(), &raw mut thread) };
        if let Err(error) = check(status) {
            // SAFETY: the thread was not spawned, so `run` never takes `start` and this is its only
            // owner.
            drop(unsafe { Box::from_raw(start) });
            return Err(error);
        }
        Ok(JoinHandle { thread, packet })
    }
}

impl<T> JoinHandle<T> {
    /// Waits for the thread to end, and returns its result, or `None` if it called [`exit`].
    /// Blocks.
    pub fn join(self) -> Option<T> {
        self.join_until(Deadline::NEVER).unwrap_or(None)
    }

    /// Waits for the thread to end, until the deadline at most. Blocks.
    ///
    /// # Errors
    /// The handle, if the thread has not ended by then.
    pub fn join_until(mut self, deadline: Deadline) -> Result<Option<T>, Self> {
        // SAFETY: the handle is not null, because only a successful join clears it, and joining
        // consumes `self`.
        if unsafe { raw::aero_thread_join(self.thread, deadline.0) } != abi::OK {
            return Err(self);
        }
        self.thread = core::ptr::null_mut();
        // SAFETY: the thread has ended, so it no longer writes the result and this is the only
        // access.
        Ok(unsafe { (*self.packet.0.get()).take() })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.thread.is_null() {
            // SAFETY: the handle was not joined, so it is live, and it is not used again.
            unsafe { raw::aero_thread_detach(self.thread) };
        }
    }
}

/// Lets other ready threads of this CPU run first.
pub fn yield_now() {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_thread_yield() };
}

/// Sleeps for a duration. Blocks.
pub fn sleep(duration: Duration) {
    // SAFETY: the interface allows this call in any state and with any deadline.
    unsafe { raw::aero_thread_sleep(Deadline::after(duration).0) };
}

/// Ends the calling thread without a result. Values on its stack are not dropped.
///
/// # Safety
/// Nothing may refer to the thread's stack, whose memory is reused from here on: it must hold no
/// pinned value, and nothing that is lent to another thread for a time, as fork and join does.
pub unsafe fn exit() -> ! {
    // SAFETY: the caller guarantees that nothing refers to the thread's stack any more.
    unsafe { raw::aero_thread_exit() }
}

/// Moves the calling thread to a CPU.
///
/// # Errors
/// [`Error::NoSuchCpu`].
pub fn migrate(cpu: usize) -> Result<(), Error> {
    let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
    // SAFETY: the interface allows this call in any state and with any argument.
    check(unsafe { raw::aero_thread_migrate(cpu) }).map(drop)
}

/// Returns the calling thread's id, which is never reused.
pub fn id() -> u64 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_thread_id() }
}
