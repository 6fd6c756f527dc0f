//! The clock, deadlines and one-shot timers.

use alloc::boxed::Box;
use core::mem::ManuallyDrop;
use core::time::Duration;

use crate::{Error, check, raw};

/// Nanoseconds since the kernel was entered.
pub fn now_ns() -> u64 {
    // SAFETY: no condition.
    unsafe { raw::aero_time_ns() }
}

/// The CPU's time counter, the same on all CPUs.
pub fn cycles() -> u64 {
    // SAFETY: no condition.
    unsafe { raw::aero_time_cycles() }
}

/// Its rate in Hz.
pub fn cycle_hz() -> u64 {
    // SAFETY: no condition.
    unsafe { raw::aero_time_cycle_hz() }
}

/// Puts a mark of the program's own, two words, into the kernel's trace, if tracing is on.
pub fn trace_mark(first: u64, second: u64) {
    // SAFETY: no condition.
    unsafe { raw::aero_trace_mark(first, second) };
}

/// The end of a wait: a point of [`now_ns`]'s clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub(crate) u64);

impl Deadline {
    /// No end.
    pub const NEVER: Self = Self(abi::NEVER);
    /// Already over.
    pub const NOW: Self = Self(0);

    /// So much from now.
    pub fn after(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(now_ns().saturating_add(nanoseconds))
    }

    /// As a point of [`now_ns`]'s clock.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// A point in time.
    pub const fn at_ns(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }
}

/// Calls a function in an interrupt, once per [`Timer::set`]. It must not block or allocate.
pub struct Timer<F> {
    timer: *mut abi::Timer,
    function: ManuallyDrop<Box<F>>,
}

// SAFETY: a handle; the function may run on any CPU.
unsafe impl<F: Send> Send for Timer<F> {}

impl<F: Fn() + Send + Sync + 'static> Timer<F> {
    /// A timer that is not set.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(function: F) -> Result<Self, Error> {
        unsafe extern "C" fn run<F: Fn()>(function: *mut u8) {
            // SAFETY: the boxed function, which outlives the timer.
            unsafe { (*function.cast::<F>())() };
        }
        let function = Box::new(function);
        let mut timer = core::ptr::null_mut();
        let argument = core::ptr::from_ref(&*function).cast_mut().cast();
        // SAFETY: the function stays in its box until the timer is destroyed.
        check(unsafe { raw::aero_timer_create(Some(run::<F>), argument, &raw mut timer) })?;
        Ok(Self { timer, function: ManuallyDrop::new(function) })
    }

    /// Sets it on this CPU; replaces what was set.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the function runs on another CPU and does not return.
    pub fn set(&mut self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: a live timer, used by nobody else.
        check(unsafe { raw::aero_timer_set(self.timer, deadline.0) }).map(drop)
    }

    /// Withdraws it; true if the function was not and will not be called.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the function runs on another CPU and does not return.
    pub fn cancel(&mut self) -> Result<bool, Error> {
        // SAFETY: a live timer, used by nobody else.
        check(unsafe { raw::aero_timer_cancel(self.timer) }).map(|cancelled| cancelled == 1)
    }

    /// Its function.
    pub fn function(&self) -> &F {
        &self.function
    }
}

impl<F> Drop for Timer<F> {
    fn drop(&mut self) {
        // SAFETY: a live timer, not used again.
        let status = unsafe { raw::aero_timer_destroy(self.timer) };
        if status == abi::OK {
            // SAFETY: dropped once, here; it does not run any more. Otherwise it may still run, and stays for ever.
            unsafe { ManuallyDrop::drop(&mut self.function) };
        }
    }
}
