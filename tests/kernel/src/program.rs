//! Programs that are functions of this image; they call the interface as a separate image would.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use kernel::program::{self, Outcome, Program};
use kernel::time::Deadline;

use crate::TestResult;
use crate::support::{LIMIT, text};

/// Declares the interface's functions as a program sees them.
macro_rules! declare {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        #[allow(dead_code, clippy::missing_safety_doc, reason = "all of it, as in the definition")]
        pub mod api {
            use abi::*;
            $(pub unsafe fn $name($($parameter: $kind),*) $(-> $result)? {
                type Entry = unsafe extern "C" fn($($kind),*) $(-> $result)?;
                let address = hrt_kernel::resolve(stringify!($name)).expect("the interface has it");
                // SAFETY: `resolve` returns an entry whose type was checked against the same
                // definition.
                let entry = unsafe { core::mem::transmute::<usize, Entry>(address) };
                // SAFETY: the caller guarantees the conditions that the interface states for this
                // function.
                unsafe { entry($($parameter),*) }
            })*
        }
    };
}
abi::functions!(declare);

/// Ends a program's function with the line number as its status unless a condition holds.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            return line!() as i32;
        }
    };
}
pub(crate) use check;

/// Starts a program whose main function is a function of this image.
pub fn start(body: fn() -> i32) -> Result<Arc<Program>, String> {
    program::start_function("test", body).map_err(text)
}

/// Waits for a program's end and returns its outcome.
pub fn end(program: &Program) -> Result<Outcome, String> {
    program.wait_until(Deadline::after(LIMIT)).map_err(|_| String::from("the program does not end"))?;
    program.outcome().ok_or_else(|| "no outcome".into())
}

/// Runs a program that must succeed.
pub fn succeed(body: fn() -> i32) -> TestResult {
    match end(&*start(body)?)? {
        Outcome::Exited(0) => Ok(()),
        Outcome::Exited(line) => Err(format!("the check in line {line} failed")),
        outcome => Err(format!("the program {outcome}")),
    }
}
