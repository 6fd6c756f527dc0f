//! Inter-processor interrupts and device lines with a handler in the program.

use alloc::boxed::Box;
use core::mem::ManuallyDrop;

use crate::{Error, check, raw};

/// An interrupt vector whose handler is a function of the program. The handler runs in interrupt
/// context and must not block or allocate. Dropping unregisters the vector.
pub struct Interrupt<F> {
    interrupt: *mut abi::Interrupt,
    handler: ManuallyDrop<Box<F>>,
}

// SAFETY: the handle is valid on every thread, and the handler runs on all CPUs anyway.
unsafe impl<F: Send> Send for Interrupt<F> {}
// SAFETY: shared access only sends the interrupt, which the kernel supports from any CPU, and
// borrows the handler, which is `Sync`.
unsafe impl<F: Sync> Sync for Interrupt<F> {}

impl<F: Fn() + Send + Sync + 'static> Interrupt<F> {
    /// Registers a handler on all CPUs.
    ///
    /// # Errors
    /// [`Error::Busy`] if all vectors are taken; [`Error::OutOfMemory`].
    pub fn register(handler: F) -> Result<Self, Error> {
        unsafe extern "C" fn run<F: Fn()>(handler: *mut u8) {
            // SAFETY: the argument is the boxed handler, which is freed only after it is
            // unregistered.
            unsafe { (*handler.cast::<F>())() };
        }
        let handler = Box::new(handler);
        let mut interrupt = core::ptr::null_mut();
        let argument = core::ptr::from_ref(&*handler).cast_mut().cast();
        // SAFETY: the handler stays in its box until it is unregistered, and the handle has a
        // place.
        check(unsafe { raw::aero_interrupt_register(Some(run::<F>), argument, &raw mut interrupt) })?;
        Ok(Self { interrupt, handler: ManuallyDrop::new(handler) })
    }

    /// Interrupts a CPU.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`].
    pub fn send(&self, cpu: usize) -> Result<(), Error> {
        let cpu = u32::try_from(cpu).ok().filter(|&cpu| cpu != abi::ANY).ok_or(Error::NoSuchCpu)?;
        // SAFETY: the handle names a live registration, which ends only in `drop`.
        check(unsafe { raw::aero_interrupt_send(self.interrupt, cpu) }).map(drop)
    }

    /// Interrupts all other CPUs.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`].
    pub fn broadcast(&self) -> Result<(), Error> {
        // SAFETY: the handle names a live registration, which ends only in `drop`.
        check(unsafe { raw::aero_interrupt_send(self.interrupt, abi::ANY) }).map(drop)
    }

    /// Returns the handler.
    pub fn handler(&self) -> &F {
        &self.handler
    }
}

impl<F> Drop for Interrupt<F> {
    fn drop(&mut self) {
        // SAFETY: the handle names a live registration and is not used again.
        let status = unsafe { raw::aero_interrupt_unregister(self.interrupt) };
        if status == abi::OK {
            // SAFETY: this is the only drop, and the handler is unregistered, so it no longer runs.
            // If that failed, a CPU may still be in the handler, and it is leaked instead.
            unsafe { ManuallyDrop::drop(&mut self.handler) };
        }
    }
}

/// The signal by which a device's line announces interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// As the firmware states for this line, or the bus's default.
    #[default]
    Default,
    /// A rising edge.
    Edge,
    /// The active level of the line.
    Level,
}

/// A device's interrupt line (an I/O APIC's global system interrupt number) whose handler is a
/// function of the program. The handler runs in interrupt context and must not block or allocate.
/// Dropping masks and unregisters the line.
pub struct Line<F> {
    line: *mut abi::Line,
    handler: ManuallyDrop<Box<F>>,
}

// SAFETY: the handle is valid on every thread, and the handler's type permits calls on any CPU.
unsafe impl<F: Send> Send for Line<F> {}
// SAFETY: shared access only steers the line, which the kernel supports from any CPU, and borrows
// the handler, which is `Sync`.
unsafe impl<F: Sync> Sync for Line<F> {}

impl<F: Fn() + Send + Sync + 'static> Line<F> {
    /// Registers a handler for a line that is delivered to this CPU.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the line does not exist, [`Error::Busy`] if it has a handler,
    /// [`Error::NoSuchCpu`], [`Error::OutOfMemory`].
    pub fn register(number: u32, trigger: Trigger, cpu: usize, handler: F) -> Result<Self, Error> {
        unsafe extern "C" fn run<F: Fn()>(handler: *mut u8) {
            // SAFETY: the argument is the boxed handler, which is freed only after it is
            // unregistered.
            unsafe { (*handler.cast::<F>())() };
        }
        let handler = Box::new(handler);
        let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
        let trigger = match trigger {
            Trigger::Default => abi::TRIGGER_DEFAULT,
            Trigger::Edge => abi::TRIGGER_EDGE,
            Trigger::Level => abi::TRIGGER_LEVEL,
        };
        let mut line = core::ptr::null_mut();
        let argument = core::ptr::from_ref(&*handler).cast_mut().cast();
        // SAFETY: the handler stays in its box until it is unregistered, and the handle has a
        // place.
        check(unsafe { raw::aero_line_register(number, trigger, cpu, Some(run::<F>), argument, &raw mut line) })?;
        Ok(Self { line, handler: ManuallyDrop::new(handler) })
    }

    /// Delivers the line to another CPU from now on.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`].
    pub fn steer(&self, cpu: usize) -> Result<(), Error> {
        let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
        // SAFETY: the handle names a live registration, which ends only in `drop`.
        check(unsafe { raw::aero_line_steer(self.line, cpu) }).map(drop)
    }

    /// Returns the handler.
    pub fn handler(&self) -> &F {
        &self.handler
    }
}

impl<F> Drop for Line<F> {
    fn drop(&mut self) {
        // SAFETY: the handle names a live registration and is not used again.
        let status = unsafe { raw::aero_line_unregister(self.line) };
        if status == abi::OK {
            // SAFETY: this is the only drop, and the handler is unregistered, so it no longer runs.
            // If that failed, a CPU may still be in the handler, and it is leaked instead.
            unsafe { ManuallyDrop::drop(&mut self.handler) };
        }
    }
}
