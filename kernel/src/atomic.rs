//! Atomics for the model-checked files. The model checker compiles the same files against its own
//! atomics.

pub use core::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Declares a `const fn`. The model checker's version of this macro drops the `const`, because its
/// atomics have no `const` constructors.
macro_rules! const_fn {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
        $(#[$attribute])* $visibility const fn $name($($argument: $type),*) -> $result $body
    };
}
pub(crate) use const_fn;

pub(crate) use crate::lock::passing::passes;

/// Tells the CPU that it is in a spin loop.
#[inline(always)]
pub fn spin_hint() {
    use crate::arch::*;
    Core::spin_hint();
}
