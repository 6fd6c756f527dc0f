//! CPUs and NUMA nodes. CPUs are numbered from 0, nodes too.

use alloc::vec::Vec;

use crate::{Error, check, raw};

/// A value for each CPU, on cache lines of its own. Another thread of the same CPU may come in between two accesses, so
/// values are shared: atomics, cells behind a lock.
pub struct PerCpu<T> {
    values: Vec<CacheLine<T>>,
}

#[repr(align(64))]
struct CacheLine<T>(T);

impl<T> PerCpu<T> {
    /// Makes a value for each CPU, by its number.
    pub fn new(mut make: impl FnMut(usize) -> T) -> Self {
        Self { values: (0..count()).map(|cpu| CacheLine(make(cpu))).collect() }
    }

    /// This CPU's value.
    pub fn here(&self) -> &T {
        &self.values[this()].0
    }

    /// All values, by CPU.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|value| &value.0)
    }
}

/// Number of CPUs.
pub fn count() -> usize {
    // SAFETY: no condition.
    unsafe { raw::aero_cpu_count() as usize }
}

/// The CPU the caller runs on.
pub fn this() -> usize {
    // SAFETY: no condition.
    unsafe { raw::aero_cpu_this() as usize }
}

/// NUMA node of a CPU.
pub fn node(cpu: usize) -> Option<usize> {
    // SAFETY: no condition.
    let node = unsafe { raw::aero_cpu_node(u32::try_from(cpu).ok()?) };
    (node != abi::ANY).then_some(node as usize)
}

/// Number of NUMA nodes.
pub fn node_count() -> usize {
    // SAFETY: no condition.
    unsafe { raw::aero_node_count() as usize }
}

/// Distance between two nodes; 10 is local.
pub fn node_distance(from: usize, to: usize) -> Option<u32> {
    // SAFETY: no condition.
    let distance = unsafe { raw::aero_node_distance(u32::try_from(from).ok()?, u32::try_from(to).ok()?) };
    (distance != 0).then_some(distance)
}

/// Calls a function on a CPU, in an interrupt, and waits for it. It must not block or allocate.
///
/// # Errors
/// [`Error::NoSuchCpu`]; [`Error::TimedOut`] if the CPU does not answer within a second: then the function may still run
/// later, so it is leaked and must be `'static`.
pub fn call<F: Fn() + Sync + 'static>(cpu: usize, function: &'static F) -> Result<(), Error> {
    unsafe extern "C" fn run<F: Fn()>(function: *mut u8) {
        // SAFETY: a `&'static F`.
        unsafe { (*function.cast::<F>())() };
    }
    let cpu = u32::try_from(cpu).map_err(|_| Error::NoSuchCpu)?;
    // SAFETY: the function lives for ever.
    check(unsafe { raw::aero_cpu_call(cpu, Some(run::<F>), core::ptr::from_ref(function).cast_mut().cast()) })?;
    Ok(())
}
