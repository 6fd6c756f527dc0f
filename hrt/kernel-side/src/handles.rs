//! From a handle to the object it stands for, in the calling program.

use abi::{BUSY, INVALID, OUT_OF_MEMORY, Status};
use kernel::program::objects::{Borrowed, Handle, HandleError, Object, Reserved, Taken};
use kernel::program::{self, Program};

/// The calling program, in a handler the one whose handler it is; `INVALID` for the kernel's own threads.
#[inline(always)]
pub(crate) fn program() -> Result<&'static Program, Status> {
    // SAFETY: nothing of the interface keeps it beyond the call; objects that refer to it end with it.
    unsafe { program::caller() }.ok_or(INVALID)
}

fn handle<H>(pointer: *const H) -> Handle {
    pointer as Handle
}

fn status(error: HandleError) -> Status {
    match error {
        HandleError::Invalid => INVALID,
        HandleError::Busy => BUSY,
    }
}

/// Reserves what an object and its handle need, before the object is made: afterwards nothing can fail any more.
pub(crate) fn reserve<T: Object>() -> Result<Reserved<'static, T>, Status> {
    program()?.objects().reserve().map_err(|_| OUT_OF_MEMORY)
}

/// Puts an object where memory was reserved for it, as the program's.
pub(crate) fn keep<T: Object, H>(reserved: Reserved<'_, T>, object: T) -> *mut H {
    reserved.fill(object) as *mut H
}

/// An object, beside others that use it.
#[inline(always)]
pub(crate) fn borrow<T: Object, H>(pointer: *const H) -> Result<Borrowed<'static, T>, Status> {
    program()?.objects().borrow(handle(pointer)).map_err(status)
}

/// An object alone; waits a little for others that are about to leave it.
pub(crate) fn take<T: Object, H>(pointer: *const H) -> Result<Taken<'static, T>, Status> {
    program()?.objects().take(handle(pointer)).map_err(status)
}

/// An object alone, or `BUSY` at once. Also in interrupt handlers.
pub(crate) fn try_take<T: Object, H>(pointer: *const H) -> Result<Taken<'static, T>, Status> {
    program()?.objects().try_take(handle(pointer)).map_err(status)
}
