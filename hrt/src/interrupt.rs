//! Inter-processor interrupts with a handler of the program's.

use alloc::boxed::Box;

use crate::{Error, check, raw};

/// An interrupt vector whose handler is a function of the program's. It runs in interrupt context: it must not block or
/// allocate. Unregistered when dropped.
pub struct Interrupt<F> {
    interrupt: *mut abi::Interrupt,
    handler: Box<F>,
}

// SAFETY: a handle; the handler runs on all CPUs anyway.
unsafe impl<F: Send> Send for Interrupt<F> {}
// SAFETY: sending is the kernel's business, on any CPU.
unsafe impl<F: Sync> Sync for Interrupt<F> {}

impl<F: Fn() + Send + Sync + 'static> Interrupt<F> {
    /// Registers a handler on all CPUs.
    ///
    /// # Errors
    /// [`Error::Busy`] if all vectors are taken; [`Error::OutOfMemory`].
    pub fn register(handler: F) -> Result<Self, Error> {
        unsafe extern "C" fn run<F: Fn()>(handler: *mut u8) {
            // SAFETY: the boxed handler, which outlives its registration.
            unsafe { (*handler.cast::<F>())() };
        }
        let handler = Box::new(handler);
        let mut interrupt = core::ptr::null_mut();
        let argument = core::ptr::from_ref(&*handler).cast_mut().cast();
        // SAFETY: the handler stays in its box until it is unregistered.
        check(unsafe { raw::aero_interrupt_register(Some(run::<F>), argument, &raw mut interrupt) })?;
        Ok(Self { interrupt, handler })
    }

    /// Interrupts a CPU.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`].
    pub fn send(&self, cpu: usize) -> Result<(), Error> {
        let cpu = u32::try_from(cpu).ok().filter(|&cpu| cpu != abi::ANY).ok_or(Error::NoSuchCpu)?;
        // SAFETY: a live registration.
        check(unsafe { raw::aero_interrupt_send(self.interrupt, cpu) }).map(drop)
    }

    /// Interrupts all other CPUs.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`].
    pub fn broadcast(&self) -> Result<(), Error> {
        // SAFETY: a live registration.
        check(unsafe { raw::aero_interrupt_send(self.interrupt, abi::ANY) }).map(drop)
    }

    /// Its handler.
    pub fn handler(&self) -> &F {
        &self.handler
    }
}

impl<F> Drop for Interrupt<F> {
    fn drop(&mut self) {
        // SAFETY: a live registration, not used again; its handler goes after it.
        unsafe { raw::aero_interrupt_unregister(self.interrupt) };
    }
}
