//! Where the files that are model-checked get their atomics: the checker includes the same files with its own.

pub use core::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Declares a `const fn`; the model checker's atomics have no `const` constructors, so its version drops the `const`.
macro_rules! const_fn {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
        $(#[$attribute])* $visibility const fn $name($($argument: $type),*) -> $result $body
    };
}
pub(crate) use const_fn;

pub(crate) use crate::lock::passing::passes;

/// Tells the CPU it is in a spin loop.
#[inline(always)]
pub fn spin_hint() {
    use crate::arch::Architecture;
    crate::arch::Machine::spin_hint();
}
