//! Timers, inter-processor interrupts and device lines: what calls a program's functions in interrupts.

use core::ptr;

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status};
use kernel::call;
use kernel::interrupts::{self, LineError, LineTrigger, RegisterError};
use kernel::program::{self, Program};
use kernel::time::Timer;
use kernel::wait::InterruptSafe;

use crate::owned::{keep, release};
use crate::plain::Handler;
use crate::{attempt, borrow, deadline};

/// A program's function with a place of its own, for timers and interrupts.
struct Callback {
    handler: Handler,
}

// SAFETY: words that do not change.
unsafe impl Sync for Callback {}
// SAFETY: what its function may do in an interrupt, the interface says.
unsafe impl InterruptSafe for Callback {}

impl Callback {
    fn call(&self) {
        self.handler.call_in_interrupt();
    }

    /// In a box that whoever has the registration frees after it.
    fn new(function: Option<unsafe extern "C" fn(*mut u8)>, argument: *mut u8) -> Result<&'static Self, Status> {
        let function = function.ok_or(INVALID)?;
        let handler = Handler { function, argument };
        let boxed = kernel::memory::try_box(Self { handler }).map_err(|_| OUT_OF_MEMORY)?;
        Ok(alloc::boxed::Box::leak(boxed))
    }

    /// # Safety
    /// Nothing can call it any more.
    unsafe fn free(&'static self) {
        // SAFETY: made by `Box::leak`, freed once.
        drop(unsafe { alloc::boxed::Box::from_raw(ptr::from_ref(self).cast_mut()) });
    }
}

struct OwnedTimer {
    timer: Option<Timer>,
    callback: &'static Callback,
}

impl Drop for OwnedTimer {
    fn drop(&mut self) {
        self.timer = None;
        // SAFETY: a dropped timer's function is not called and does not run.
        unsafe { self.callback.free() };
    }
}

pub unsafe extern "C" fn aero_timer_create(
    function: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    timer: *mut *mut abi::Timer,
) -> Status {
    if timer.is_null() {
        return INVALID;
    }
    let callback = attempt!(Callback::new(function, argument));
    let made = Timer::new(callback, Callback::call);
    let owned = OwnedTimer { timer: made.ok(), callback };
    if owned.timer.is_none() {
        return OUT_OF_MEMORY;
    }
    // SAFETY: the interface's own condition.
    unsafe { keep(owned, timer) }
}

/// # Safety
/// Null, misaligned, or a live handle that nobody else uses now.
unsafe fn timer_of<'a>(timer: *mut abi::Timer) -> Option<&'a mut Timer> {
    let owned = timer.cast::<OwnedTimer>();
    if owned.is_null() || !owned.is_aligned() {
        return None;
    }
    // SAFETY: by the caller's word.
    unsafe { (*owned).timer.as_mut() }
}

pub unsafe extern "C" fn aero_timer_set(timer: *mut abi::Timer, deadline_ns: u64) -> Status {
    // SAFETY: the interface's own condition.
    match unsafe { timer_of(timer) } {
        Some(timer) => {
            timer.set(deadline(deadline_ns));
            OK
        }
        None => INVALID,
    }
}

pub unsafe extern "C" fn aero_timer_cancel(timer: *mut abi::Timer) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { timer_of(timer) }.map_or(INVALID, |timer| Status::from(timer.cancel()))
}

pub unsafe extern "C" fn aero_timer_destroy(timer: *mut abi::Timer) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(timer) }
}

struct OwnedInterrupt {
    vector: u8,
    callback: &'static Callback,
}

impl Drop for OwnedInterrupt {
    fn drop(&mut self) {
        interrupts::unregister_vector(self.vector);
        // SAFETY: an unregistered handler is not called and does not run.
        unsafe { self.callback.free() };
    }
}

pub unsafe extern "C" fn aero_interrupt_register(
    handler: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    interrupt: *mut *mut abi::Interrupt,
) -> Status {
    if interrupt.is_null() {
        return INVALID;
    }
    let callback = attempt!(Callback::new(handler, argument));
    match interrupts::register_vector(callback, Callback::call) {
        // SAFETY: the interface's own condition.
        Ok(vector) => unsafe { keep(OwnedInterrupt { vector, callback }, interrupt) },
        Err(error) => {
            // SAFETY: it was not registered.
            unsafe { callback.free() };
            if error == RegisterError::NoFreeVector { BUSY } else { INVALID }
        }
    }
}

pub unsafe extern "C" fn aero_interrupt_send(interrupt: *const abi::Interrupt, cpu: u32) -> Status {
    // SAFETY: the interface's own condition.
    let vector = attempt!(unsafe { borrow::<OwnedInterrupt, _>(interrupt) }).vector;
    let sent = if cpu == ANY { call::broadcast_ipi(vector) } else { call::send_ipi(cpu as usize, vector) };
    if sent.is_ok() { OK } else { NO_SUCH_CPU }
}

pub unsafe extern "C" fn aero_interrupt_unregister(interrupt: *mut abi::Interrupt) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(interrupt) }
}

struct OwnedLine {
    number: u32,
    callback: &'static Callback,
    program: &'static Program,
}

impl Drop for OwnedLine {
    fn drop(&mut self) {
        match interrupts::unregister_line(self.number) {
            Ok(()) => {
                self.program.remove_handler();
                // SAFETY: an unregistered handler is not called and does not run.
                unsafe { self.callback.free() };
            }
            // Not masked, it may still come: its handler stays.
            Err(error) => log::error!("line {} stays registered: {error}", self.number),
        }
    }
}

fn line_status(result: Result<(), RegisterError>) -> Status {
    match result {
        Ok(()) => OK,
        Err(RegisterError::NoFreeVector | RegisterError::LineInUse(_)) => BUSY,
        Err(RegisterError::Line(LineError::NoSuchCpu)) => NO_SUCH_CPU,
        Err(RegisterError::NotRegistered(_) | RegisterError::Line(LineError::NoSuchLine)) => INVALID,
    }
}

pub unsafe extern "C" fn aero_line_register(
    number: u32,
    trigger: u32,
    cpu: u32,
    handler: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    line: *mut *mut abi::Line,
) -> Status {
    let trigger = match trigger {
        abi::TRIGGER_DEFAULT => LineTrigger::Default,
        abi::TRIGGER_EDGE => LineTrigger::Edge,
        abi::TRIGGER_LEVEL => LineTrigger::Level,
        _ => return INVALID,
    };
    if line.is_null() {
        return INVALID;
    }
    let program = attempt!(program::current().ok_or(INVALID));
    let callback = attempt!(Callback::new(handler, argument));
    let status = line_status(interrupts::register_line(number, trigger, cpu as usize, callback, Callback::call));
    if status != OK {
        // SAFETY: it was not registered.
        unsafe { callback.free() };
        return status;
    }
    program.add_handler();
    // SAFETY: the interface's own condition.
    unsafe { keep(OwnedLine { number, callback, program }, line) }
}

pub unsafe extern "C" fn aero_line_steer(line: *const abi::Line, cpu: u32) -> Status {
    // SAFETY: the interface's own condition.
    let number = attempt!(unsafe { borrow::<OwnedLine, _>(line) }).number;
    line_status(interrupts::steer(number, cpu as usize))
}

pub unsafe extern "C" fn aero_line_unregister(line: *mut abi::Line) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(line) }
}
