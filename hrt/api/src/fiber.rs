//! Fibers: cooperative contexts inside a thread. The fibers of a thread, its own flow among them, form a ring in the order
//! they were made. A fiber that blocks blocks its thread.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;

use crate::{Error, check, raw};

/// A fiber of the calling thread. Dropping it runs it to its end.
pub struct Fiber<T> {
    fiber: *mut abi::Fiber,
    result: Rc<Cell<Option<T>>>,
}

/// Makes a fiber with the default stack. It first runs when somebody gives way to it.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn create<F: FnOnce() -> T + 'static, T: 'static>(body: F) -> Result<Fiber<T>, Error> {
    struct Start<F, T> {
        body: F,
        result: Rc<Cell<Option<T>>>,
    }
    unsafe extern "C" fn run<F: FnOnce() -> T, T>(start: *mut u8) {
        // SAFETY: made below, used once.
        let Start { body, result } = *unsafe { Box::from_raw(start.cast::<Start<F, T>>()) };
        result.set(Some(body()));
    }
    let result = Rc::new(Cell::new(None));
    let start = Box::into_raw(Box::new(Start { body, result: result.clone() }));
    let mut fiber = core::ptr::null_mut();
    // SAFETY: `run` takes over the start.
    if let Err(error) = check(unsafe { raw::aero_fiber_create(Some(run::<F, T>), start.cast(), 0, &raw mut fiber) }) {
        // SAFETY: the fiber was not made, so the start is still ours.
        drop(unsafe { Box::from_raw(start) });
        return Err(error);
    }
    Ok(Fiber { fiber, result })
}

/// Lets the thread's next fiber run.
pub fn yield_now() {
    // SAFETY: no condition.
    unsafe { raw::aero_fiber_yield() };
}

impl<T> Fiber<T> {
    /// Lets this fiber run.
    pub fn yield_to(&self) {
        // SAFETY: a live fiber of this thread: handles do not leave it.
        unsafe { raw::aero_fiber_yield_to(self.fiber) };
    }

    /// Gives way until it has ended, and returns its result.
    pub fn join(self) -> T {
        let result = self.result.clone();
        drop(self);
        result.take().expect("a fiber that ended left its result")
    }
}

impl<T> Drop for Fiber<T> {
    fn drop(&mut self) {
        // SAFETY: a live fiber, not used again.
        unsafe { raw::aero_fiber_join(self.fiber) };
    }
}
