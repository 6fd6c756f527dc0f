//! Lookup of the object behind a handle, in the calling program.

use abi::{BUSY, INVALID, OUT_OF_MEMORY, Status};
use kernel::program::objects::{Borrowed, Handle, HandleError, Object, Reserved, Taken};
use kernel::program::{self, Program};

/// Returns the calling program; in an interrupt handler, the program that owns the handler.
/// `INVALID` for the kernel's own threads.
#[inline(always)]
pub(crate) fn program() -> Result<&'static Program, Status> {
    // SAFETY: no function of the interface keeps the reference beyond its call, except in objects
    // that are destroyed before the program is.
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

/// Reserves the memory for an object and its handle. Reserving before the object is made leaves no
/// step after its creation that can fail.
pub(crate) fn reserve<T: Object>() -> Result<Reserved<'static, T>, Status> {
    program()?.objects().reserve().map_err(|_| OUT_OF_MEMORY)
}

/// Stores an object in its reservation, as one of the program's, and returns the handle.
pub(crate) fn keep<T: Object, H>(reserved: Reserved<'_, T>, object: T) -> *mut H {
    reserved.fill(object) as *mut H
}

/// Borrows an object, shared with other callers that use it.
#[inline(always)]
pub(crate) fn borrow<T: Object, H>(pointer: *const H) -> Result<Borrowed<'static, T>, Status> {
    program()?.objects().borrow(handle(pointer)).map_err(status)
}

/// Takes an object for exclusive use, waiting briefly for other users that are about to release it.
pub(crate) fn take<T: Object, H>(pointer: *const H) -> Result<Taken<'static, T>, Status> {
    program()?.objects().take(handle(pointer)).map_err(status)
}

/// Takes an object for exclusive use, or returns `BUSY` at once. Also callable in interrupt
/// handlers.
pub(crate) fn try_take<T: Object, H>(pointer: *const H) -> Result<Taken<'static, T>, Status> {
    program()?.objects().try_take(handle(pointer)).map_err(status)
}
