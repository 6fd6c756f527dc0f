//! The kernel's side of the interface that programs are linked against: the functions of [`abi::functions!`], by name.
//!
//! What can end the calling thread's program, or switch threads, keeps the vector control words, which the calling
//! convention makes callees preserve, and does not return to a program that is ending.
//!
//! - `objects`: events, mutexes and the like, in the program's own memory.
//! - `owned`: threads, channels and fibers, which the program owns by handles; `teams`: pools of tasks and groups;
//!   `handlers`: timers, interrupts and device lines.
//! - `plain`: text, memory, time, topology.
#![no_std]

extern crate alloc;

mod handlers;
mod objects;
mod owned;
mod plain;
mod teams;

use abi::{INVALID, NEVER, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::arch::{Architecture, Machine};
use kernel::memory::OutOfMemory;
use kernel::program;
use kernel::time::Deadline;
use kernel::wait::TimedOut;

/// Fills a table of names and addresses, and checks each function against the definition.
macro_rules! table {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        const FUNCTIONS: &[(&str, fn() -> usize)] = {
            use abi::*;
            &[$((stringify!($name), || {
                let function: unsafe extern "C" fn($($kind),*) $(-> $result)? = implementation::$name;
                function as *const () as usize
            })),*]
        };
    };
}
abi::functions!(table);

/// All functions of the interface.
mod implementation {
    pub use crate::handlers::*;
    pub use crate::objects::*;
    pub use crate::owned::*;
    pub use crate::plain::*;
    pub use crate::teams::*;
}

/// The address of a function of the interface.
pub fn resolve(name: &str) -> Option<usize> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, address)| address())
}

/// Runs something that may switch threads, on behalf of a program.
#[inline(always)]
fn blocking<T>(operation: impl FnOnce() -> T) -> T {
    let control = Machine::vector_control();
    let result = operation();
    Machine::set_vector_control(control);
    program::leave_if_ending();
    result
}

/// A deadline from the interface's nanoseconds.
#[inline(always)]
fn deadline(nanoseconds: u64) -> Deadline {
    if nanoseconds == NEVER { Deadline::NEVER } else { Deadline::at_ns(nanoseconds) }
}

/// What can go wrong, as the interface says it.
trait IntoStatus {
    fn into_status(self) -> Status;
}

impl IntoStatus for Result<(), TimedOut> {
    fn into_status(self) -> Status {
        if self.is_ok() { OK } else { TIMED_OUT }
    }
}

impl IntoStatus for Result<(), OutOfMemory> {
    fn into_status(self) -> Status {
        if self.is_ok() { OK } else { OUT_OF_MEMORY }
    }
}

/// The value behind a program's pointer, or `INVALID` for null and misaligned ones.
///
/// # Safety
/// Otherwise the pointer leads to a live `T` for as long as the caller says.
#[inline(always)]
unsafe fn borrow<'a, T, O>(pointer: *const O) -> Result<&'a T, Status> {
    let pointer = pointer.cast::<T>();
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(INVALID);
    }
    // SAFETY: by the caller's word.
    Ok(unsafe { &*pointer })
}

/// Unwraps, or returns the error as a status.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(status) => return status,
        }
    };
}
use attempt;

/// Text of a program, valid UTF-8 or not: calls `each` with its good parts.
///
/// # Safety
/// `text` leads to `length` readable bytes, or is null.
unsafe fn for_text(text: *const u8, length: usize, mut each: impl FnMut(&str)) {
    if text.is_null() {
        return;
    }
    // SAFETY: by the caller's word.
    let bytes = unsafe { core::slice::from_raw_parts(text, length) };
    for chunk in bytes.utf8_chunks() {
        each(chunk.valid());
        if !chunk.invalid().is_empty() {
            each("\u{fffd}");
        }
    }
}
