//! Capabilities: rights over the machine as a whole, which safe code does not have by itself.
//!
//! A function that needs one takes it as an argument. Only unsafe code creates one, so the places
//! where a part is trusted with it can be found and reviewed.

use arch_contract::ProbeError;

use crate::arch::*;

/// The right to stop all CPUs, wherever they are, on behalf of a person at a console or a debugger.
#[derive(Debug)]
pub struct StopAllCpus(());

impl StopAllCpus {
    /// Creates the right.
    ///
    /// # Safety
    /// The holder stops CPUs only when a person asks for it: every deadline of every thread passes
    /// meanwhile.
    pub const unsafe fn claim() -> Self {
        Self(())
    }
}

/// The right to write to any memory.
#[derive(Debug)]
pub struct WriteAnyMemory(());

impl WriteAnyMemory {
    /// Creates the right.
    ///
    /// # Safety
    /// The holder writes only what a person asks for, who answers for what becomes of the machine.
    pub const unsafe fn claim() -> Self {
        Self(())
    }

    /// Writes bytes at an address.
    ///
    /// # Errors
    /// If an address cannot be written; the bytes before it have been.
    pub fn write(&self, address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        // SAFETY: the right shows that a person answers for the write.
        unsafe { AddressSpace::probe_write(address, bytes) }
    }
}
