//! Fibers: cooperative contexts inside a thread. A thread's fibers, including its own initial flow,
//! form a ring in order of creation. A fiber that blocks blocks its thread.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;

use crate::{Error, check, raw};

/// A fiber of the calling thread. Dropping it runs the fiber to its end.
pub struct Fiber<T> {
    fiber: *mut abi::Fiber,
    result: Rc<Cell<Option<T>>>,
}

/// Creates a fiber with the default stack. It first runs when another fiber yields to it.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn create<F: FnOnce() -> T + 'static, T: 'static>(body: F) -> Result<Fiber<T>, Error> {
    struct Start<F, T> {
        body: F,
        result: Rc<Cell<Option<T>>>,
    }
    unsafe extern "C" fn run<F: FnOnce() -> T, T>(start: *mut u8) {
        // SAFETY: `start` comes from `Box::into_raw` below, and the fiber's body runs only once.
        let Start { body, result } = *unsafe { Box::from_raw(start.cast::<Start<F, T>>()) };
        result.set(Some(body()));
    }
    let result = Rc::new(Cell::new(None));
    let start = Box::into_raw(Box::new(Start { body, result: result.clone() }));
    let mut fiber = core::ptr::null_mut();
    // SAFETY: `run` takes ownership of `start`, which has the type that `run` expects, and the
    // handle has a place.
    if let Err(error) = check(unsafe { raw::aero_fiber_create(Some(run::<F, T>), start.cast(), 0, &raw mut fiber) }) {
        // SAFETY: the fiber was not created, so `run` never takes `start` and this is its only
        // owner.
        drop(unsafe { Box::from_raw(start) });
        return Err(error);
    }
    Ok(Fiber { fiber, result })
}

/// Lets the thread's next fiber run.
pub fn yield_now() {
    // SAFETY: the interface allows this call in any state; without fibers it does nothing.
    unsafe { raw::aero_fiber_yield() };
}

impl<T> Fiber<T> {
    /// Lets this fiber run.
    pub fn yield_to(&self) {
        // SAFETY: `Fiber` is neither `Send` nor `Sync`, so the handle names a live fiber of the
        // calling thread.
        unsafe { raw::aero_fiber_yield_to(self.fiber) };
    }

    /// Yields until the fiber has ended, and returns its result.
    pub fn join(self) -> T {
        let result = self.result.clone();
        drop(self);
        result.take().expect("a fiber that ended left its result")
    }
}

impl<T> Drop for Fiber<T> {
    fn drop(&mut self) {
        // SAFETY: the handle names a live fiber of the calling thread and is not used again.
        unsafe { raw::aero_fiber_join(self.fiber) };
    }
}
