//! CPUs and NUMA nodes, both numbered from 0.

use alloc::vec::Vec;

use crate::{Error, check, raw};

/// A value per CPU, each on its own cache lines. Another thread of the same CPU may run between two
/// accesses, so values are only accessible by shared reference: use atomics, or cells behind a
/// lock.
pub struct PerCpu<T> {
    values: Vec<CacheLine<T>>,
}

#[repr(align(64))]
struct CacheLine<T>(T);

impl<T> PerCpu<T> {
    /// Creates a value for each CPU from its number.
    pub fn new(mut make: impl FnMut(usize) -> T) -> Self {
        Self { values: (0..count()).map(|cpu| CacheLine(make(cpu))).collect() }
    }

    /// Returns the current CPU's value.
    pub fn here(&self) -> &T {
        &self.values[this()].0
    }

    /// Returns all values in CPU order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|value| &value.0)
    }
}

/// Returns the number of CPUs.
pub fn count() -> usize {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_cpu_count() as usize }
}

/// Returns the CPU that the caller runs on.
pub fn this() -> usize {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_cpu_this() as usize }
}

/// Returns the NUMA node of a CPU.
pub fn node(cpu: usize) -> Option<usize> {
    // SAFETY: the interface allows this call in any state and with any argument.
    let node = unsafe { raw::aero_cpu_node(u32::try_from(cpu).ok()?) };
    (node != abi::ANY).then_some(node as usize)
}

/// Returns the number of NUMA nodes.
pub fn node_count() -> usize {
    // SAFETY: the interface allows this call in any state and with any argument.
    unsafe { raw::aero_node_count() as usize }
}

/// Returns the distance between two nodes; 10 means local.
pub fn node_distance(from: usize, to: usize) -> Option<u32> {
    // SAFETY: the interface allows this call in any state and with any argument.
    let distance = unsafe { raw::aero_node_distance(u32::try_from(from).ok()?, u32::try_from(to).ok()?) };
    (distance != 0).then_some(distance)
}

/// Calls a function on a CPU, in an interrupt, and waits for it. The function must not block or
/// allocate.
///
/// # Errors
/// [`Error::NoSuchCpu`]; [`Error::TimedOut`] if the CPU does not answer within a second. The
/// function may then still run later, which is why it must be `'static`.
pub fn call<F: Fn() + Sync + 'static>(cpu: usize, function: &'static F) -> Result<(), Error> {
    unsafe extern "C" fn run<F: Fn()>(function: *mut u8) {
        // SAFETY: the argument is the `&'static F` that `call` passes below.
        unsafe { (*function.cast::<F>())() };
    }
    let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
    // SAFETY: the function is `'static` and `Sync`, so the CPU may call it at any later time.
    check(unsafe { raw::aero_cpu_call(cpu, Some(run::<F>), core::ptr::from_ref(function).cast_mut().cast()) })?;
    Ok(())
}
