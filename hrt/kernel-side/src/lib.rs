//! The kernel's side of the interface that programs are linked against: the functions of [`abi::functions!`], by name.
//!
//! What can end the calling thread's program, or switch threads, keeps the vector control words, which the calling
//! convention makes callees preserve. No function returns to a program that is ending.
//!
//! - `objects`: events, mutexes and the like, in the program's own memory.
//! - `owned`: threads, channels and fibers, which the program owns by handles; `teams`: pools of tasks and collectives;
//!   `handlers`: timers, interrupts and device lines; `handles`: from a handle to what it stands for.
//! - `plain`: text, memory, time, topology. `pointers`: what a program's pointers lead to.
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
use kernel::arch::{Architecture, Machine};
use kernel::cpu;
use kernel::memory::OutOfMemory;
use kernel::time::Deadline;
use kernel::wait::TimedOut;
use kernel::{program, thread};

/// Fills a table of names and addresses, and checks each function against the definition. Each is called through a
/// function that does not return to a program that is ending.
macro_rules! table {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        const FUNCTIONS: &[(&str, fn() -> usize)] = {
            use abi::*;
            &[$((stringify!($name), || {
                #[allow(unreachable_code, unused_variables, clippy::diverging_sub_expression, reason = "some functions of the interface do not return")]
                unsafe extern "C" fn entry($($parameter: $kind),*) $(-> $result)? {
                    // SAFETY: the caller's own obligation.
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

/// The address of a function of the interface.
pub fn resolve(name: &str) -> Option<usize> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, address)| address())
}

/// Runs something that may switch threads, on behalf of a program.
///
/// # Errors
/// [`INVALID`] in an interrupt handler, where no thread can wait: the program whose handler it is ends.
#[inline(always)]
fn blocking<T>(operation: impl FnOnce() -> T) -> Result<T, Status> {
    if cpu::in_interrupt() {
        return Err(refuse_in_handler());
    }
    let control = Machine::vector_control();
    let result = operation();
    Machine::set_vector_control(control);
    Ok(result)
}

#[cold]
fn refuse_in_handler() -> Status {
    program::fail_handler(format_args!("a blocking call in an interrupt handler, where no thread can wait"));
    INVALID
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

impl<T: IntoStatus> IntoStatus for Result<T, Status> {
    fn into_status(self) -> Status {
        self.map_or_else(|status| status, IntoStatus::into_status)
    }
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
