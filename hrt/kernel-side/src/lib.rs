//! The kernel's side of the interface that programs link against: the functions of
//! [`abi::functions!`], resolved by name.
//!
//! A function that can end the calling thread's program or switch threads keeps the vector control
//! words, which the calling convention requires callees to preserve. No function returns to a
//! program that is ending.
//!
//! - `objects`: events, mutexes and the other objects in the program's own memory.
//! - `owned`: threads, message queues and fibers, which the program owns through handles; `teams`:
//!   task pools and collectives; `handlers`: timers, interrupts and device lines; `handles`: the
//!   lookup from a handle to its object.
//! - `plain`: text, memory, time, topology. `pointers`: checked access through a program's
//!   pointers.
#![no_std]

extern crate alloc;

mod handlers;
mod handles;
mod objects;
mod owned;
mod plain;
mod pointers;
mod teams;

use abi::{INVALID, NEVER, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::arch::*;
use kernel::cpu;
use kernel::memory::OutOfMemory;
use kernel::time::Deadline;
use kernel::wait::TimedOut;
use kernel::{program, thread};

/// Builds the table of names and addresses, and checks each function against its definition. Each
/// entry wraps its function so that the call does not return to a program that is ending.
macro_rules! table {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        const FUNCTIONS: &[(&str, fn() -> usize)] = {
            use abi::*;
            &[$((stringify!($name), || {
                #[allow(unreachable_code, unused_variables, clippy::diverging_sub_expression, reason = "some functions of the interface do not return")]
                unsafe extern "C" fn entry($($parameter: $kind),*) $(-> $result)? {
                    // SAFETY: the program that calls the entry guarantees the interface's
                    // conditions for this function, and the arguments are passed on unchanged.
                    let result = unsafe { implementation::$name($($parameter),*) };
                    thread::leave_if_ending();
                    result
                }
                let function: unsafe extern "C" fn($($kind),*) $(-> $result)? = entry;
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

/// Returns the address of the interface function with this name.
pub fn resolve(name: &str) -> Option<usize> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, address)| address())
}

/// Runs an operation that may switch threads on behalf of a program.
///
/// # Errors
/// [`INVALID`] in an interrupt handler, where no thread can wait; the program that owns the handler
/// ends.
#[inline(always)]
fn blocking<T>(operation: impl FnOnce() -> T) -> Result<T, Status> {
    if cpu::in_interrupt() {
        return Err(refuse_in_handler());
    }
    let control = Vectors::control();
    let result = operation();
    Vectors::set_control(control);
    Ok(result)
}

#[cold]
fn refuse_in_handler() -> Status {
    program::fail_handler(format_args!("a blocking call in an interrupt handler, where no thread can wait"));
    INVALID
}

/// Converts the interface's nanoseconds into a deadline.
#[inline(always)]
fn deadline(nanoseconds: u64) -> Deadline {
    if nanoseconds == NEVER { Deadline::NEVER } else { Deadline::at_ns(nanoseconds) }
}

/// Converts a kernel result into a status of the interface.
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

impl<T: IntoStatus> IntoStatus for Result<T, Status> {
    fn into_status(self) -> Status {
        self.map_or_else(|status| status, IntoStatus::into_status)
    }
}

/// Unwraps a result, or returns its error as the status.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(status) => return status,
        }
    };
}
use attempt;
