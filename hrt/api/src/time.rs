//! The clock, deadlines and one-shot timers.

use alloc::boxed::Box;
use core::mem::ManuallyDrop;
use core::time::Duration;

use crate::{Error, check, raw};

/// Returns the nanoseconds since the kernel was entered.
pub fn now_ns() -> u64 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_time_ns() }
}

/// Returns the CPU's time counter, which is the same on all CPUs.
pub fn cycles() -> u64 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_time_cycles() }
}

/// Returns the time counter's rate in Hz.
pub fn cycle_hz() -> u64 {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_time_cycle_hz() }
}

/// Writes a mark of the program's own, two words, into the kernel's trace if tracing is on.
pub fn trace_mark(first: u64, second: u64) {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_trace_mark(first, second) };
}

/// The end of a wait: a point on [`now_ns`]'s clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub(crate) u64);

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self(abi::NEVER);
    /// A deadline that has already passed.
    pub const NOW: Self = Self(0);

    /// Returns the deadline this long from now.
    pub fn after(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(now_ns().saturating_add(nanoseconds))
    }

    /// Returns the deadline as a point on [`now_ns`]'s clock.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// Returns the deadline at a point on [`now_ns`]'s clock.
    pub const fn at_ns(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }
}

/// Calls a function in an interrupt, once per [`Timer::set`]. The function must not block or
/// allocate.
pub struct Timer<F> {
    timer: *mut abi::Timer,
    function: ManuallyDrop<Box<F>>,
}

// SAFETY: the handle is valid on every thread, and the function's type permits calls on any CPU.
unsafe impl<F: Send> Send for Timer<F> {}

impl<F: Fn() + Send + Sync + 'static> Timer<F> {
    /// Creates a timer that is not set.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(function: F) -> Result<Self, Error> {
        unsafe extern "C" fn run<F: Fn()>(function: *mut u8) {
            // SAFETY: the argument is the boxed function, which is freed only after the timer is
            // destroyed.
            unsafe { (*function.cast::<F>())() };
        }
        let function = Box::new(function);
        let mut timer = core::ptr::null_mut();
        let argument = core::ptr::from_ref(&*function).cast_mut().cast();
        // SAFETY: the function stays in its box until the timer is destroyed, and the handle has a
        // place.
        check(unsafe { raw::aero_timer_create(Some(run::<F>), argument, &raw mut timer) })?;
        Ok(Self { timer, function: ManuallyDrop::new(function) })
    }

    /// Sets the timer on this CPU, replacing an earlier setting.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the function runs on another CPU and does not return.
    pub fn set(&mut self, deadline: Deadline) -> Result<(), Error> {
        // SAFETY: the handle names a live timer, and `&mut self` excludes other users.
        check(unsafe { raw::aero_timer_set(self.timer, deadline.0) }).map(drop)
    }

    /// Cancels the timer; returns true if the function was not and will not be called.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the function runs on another CPU and does not return.
    pub fn cancel(&mut self) -> Result<bool, Error> {
        // SAFETY: the handle names a live timer, and `&mut self` excludes other users.
        check(unsafe { raw::aero_timer_cancel(self.timer) }).map(|cancelled| cancelled == 1)
    }

    /// Returns the timer's function.
    pub fn function(&self) -> &F {
        &self.function
    }
}

impl<F> Drop for Timer<F> {
    fn drop(&mut self) {
        // SAFETY: the handle names a live timer and is not used again.
        let status = unsafe { raw::aero_timer_destroy(self.timer) };
        if status == abi::OK {
            // SAFETY: this is the only drop, and the timer is destroyed, so the function no longer
            // runs. If destruction failed, it may still run and is leaked instead.
            unsafe { ManuallyDrop::drop(&mut self.function) };
        }
    }
}
