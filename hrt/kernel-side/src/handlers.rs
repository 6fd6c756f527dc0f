//! Timers, inter-processor interrupts and device lines: what calls a program's functions in interrupts.

use alloc::boxed::Box;

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::call::{self, CallError};
use kernel::interrupts::{self, LineError, LineTrigger, RegisterError};
use kernel::program::Program;
use kernel::program::objects::{Kind, Object};
use kernel::time::{Deadline, Timer};
use kernel::wait::InterruptSafe;

use crate::handles::{borrow, keep, program, reserve, take, try_take};
use crate::plain::Handler;
use crate::pointers::place;
use crate::{attempt, blocking, deadline};

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
}

/// A callback that is freed with whoever has its registration, which must be over by then.
struct OwnedCallback(&'static Callback);

impl OwnedCallback {
    fn new(function: Option<unsafe extern "C" fn(*mut u8)>, argument: *mut u8) -> Result<Self, Status> {
        let handler = Handler::new(function.ok_or(INVALID)?, argument)?;
        let boxed = kernel::memory::try_box(Callback { handler }).map_err(|_| OUT_OF_MEMORY)?;
        Ok(Self(Box::leak(boxed)))
    }
}

impl Drop for OwnedCallback {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, freed once. The objects below are dropped when their functions can neither be called any
        // more nor run: their destruction waits for that, and so does the program's end, by `silence`.
        drop(unsafe { Box::from_raw(core::ptr::from_ref(self.0).cast_mut()) });
    }
}

/// How long a timer's function may take to return when its timer is withdrawn.
const RETURN_LIMIT: core::time::Duration = call::DEFAULT_LIMIT;

/// A timer, and what it calls. Dropped in this order.
struct OwnedTimer {
    timer: Timer,
    _callback: OwnedCallback,
}

// SAFETY: the only one of its kind.
unsafe impl Object for OwnedTimer {
    const KIND: Kind = Kind::Timer;

    fn silence(&self) -> bool {
        self.timer.withdraw();
        !self.timer.is_running_elsewhere()
    }
}

/// Withdraws a timer whose function is not running afterwards; true if that was not and will not be called. `TIMED_OUT` if the
/// function does not return on another CPU.
fn withdraw(timer: &Timer) -> Result<bool, Status> {
    let mut cancelled = timer.withdraw();
    if timer.is_running_elsewhere() {
        let deadline = Deadline::after(RETURN_LIMIT);
        while timer.is_running_elsewhere() {
            if deadline.has_passed() {
                return Err(TIMED_OUT);
            }
            core::hint::spin_loop();
        }
        // It may have set the timer again.
        cancelled |= timer.withdraw();
    }
    Ok(cancelled)
}

pub unsafe extern "C" fn aero_timer_create(
    function: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    timer: *mut *mut abi::Timer,
) -> Status {
    // SAFETY: the interface's own condition.
    let place = attempt!(unsafe { place(timer) });
    let callback = attempt!(OwnedCallback::new(function, argument));
    let reserved = attempt!(reserve());
    match Timer::new(callback.0, Callback::call) {
        Ok(timer) => {
            place.write(keep(reserved, OwnedTimer { timer, _callback: callback }));
            OK
        }
        Err(_) => OUT_OF_MEMORY,
    }
}

pub unsafe extern "C" fn aero_timer_set(timer: *mut abi::Timer, deadline_ns: u64) -> Status {
    let mut timer = attempt!(try_take::<OwnedTimer, _>(timer));
    attempt!(withdraw(&timer.timer));
    timer.timer.set(deadline(deadline_ns));
    OK
}

pub unsafe extern "C" fn aero_timer_cancel(timer: *mut abi::Timer) -> Status {
    let timer = attempt!(try_take::<OwnedTimer, _>(timer));
    Status::from(attempt!(withdraw(&timer.timer)))
}

pub unsafe extern "C" fn aero_timer_destroy(timer: *mut abi::Timer) -> Status {
    let timer = attempt!(take::<OwnedTimer, _>(timer));
    if timer.timer.is_running_here() {
        return BUSY;
    }
    attempt!(withdraw(&timer.timer));
    timer.remove();
    OK
}

/// Waits until no handler runs that was called before.
fn wait_for_handlers() -> Result<(), Status> {
    blocking(|| interrupts::wait_for_handlers(call::DEFAULT_LIMIT))?.map_err(|error| match error {
        CallError::OutOfMemory => OUT_OF_MEMORY,
        CallError::NoAnswer { .. } | CallError::NoSuchCpu(_) => TIMED_OUT,
    })
}

struct OwnedInterrupt {
    vector: u8,
    _callback: OwnedCallback,
}

// SAFETY: the only one of its kind.
unsafe impl Object for OwnedInterrupt {
    const KIND: Kind = Kind::Interrupt;

    fn silence(&self) -> bool {
        interrupts::retire_vector(self.vector);
        true
    }
}

impl Drop for OwnedInterrupt {
    fn drop(&mut self) {
        interrupts::retire_vector(self.vector);
        // SAFETY: dropped once no handler runs any more: see `OwnedCallback`.
        unsafe { interrupts::release_vector(self.vector) };
    }
}

pub unsafe extern "C" fn aero_interrupt_register(
    handler: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    interrupt: *mut *mut abi::Interrupt,
) -> Status {
    // SAFETY: the interface's own condition.
    let place = attempt!(unsafe { place(interrupt) });
    let callback = attempt!(OwnedCallback::new(handler, argument));
    let reserved = attempt!(reserve());
    match interrupts::register_vector(callback.0, Callback::call) {
        Ok(vector) => {
            place.write(keep(reserved, OwnedInterrupt { vector, _callback: callback }));
            OK
        }
        Err(error) => line_status(Err(error)),
    }
}

pub unsafe extern "C" fn aero_interrupt_send(interrupt: *const abi::Interrupt, cpu: u32) -> Status {
    let vector = attempt!(borrow::<OwnedInterrupt, _>(interrupt)).vector;
    let sent = if cpu == ANY { call::broadcast_ipi(vector) } else { call::send_ipi(cpu as usize, vector) };
    if sent.is_ok() { OK } else { NO_SUCH_CPU }
}

pub unsafe extern "C" fn aero_interrupt_unregister(interrupt: *mut abi::Interrupt) -> Status {
    let interrupt = attempt!(take::<OwnedInterrupt, _>(interrupt));
    interrupts::retire_vector(interrupt.vector);
    attempt!(wait_for_handlers());
    interrupt.remove();
    OK
}

struct OwnedLine {
    number: u32,
    program: &'static Program,
    _callback: OwnedCallback,
}

// SAFETY: the only one of its kind.
unsafe impl Object for OwnedLine {
    const KIND: Kind = Kind::Line;

    fn silence(&self) -> bool {
        // Not masked, it may still come.
        interrupts::retire_line(self.number)
            .inspect_err(|error| log::error!("line {} stays registered: {error}", self.number))
            .is_ok()
    }
}

impl Drop for OwnedLine {
    fn drop(&mut self) {
        // SAFETY: as for vectors.
        unsafe { interrupts::release_line(self.number) };
        self.program.remove_handler();
    }
}

fn line_status(result: Result<(), RegisterError>) -> Status {
    match result {
        Ok(()) => OK,
        Err(RegisterError::NoFreeVector | RegisterError::LineInUse(_)) => BUSY,
        Err(RegisterError::Line(LineError::NoSuchCpu)) => NO_SUCH_CPU,
        Err(RegisterError::NoAnswer(_)) => TIMED_OUT,
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
    // SAFETY: the interface's own condition.
    let place = attempt!(unsafe { place(line) });
    let program = attempt!(program());
    let callback = attempt!(OwnedCallback::new(handler, argument));
    let reserved = attempt!(reserve());
    let status = line_status(interrupts::register_line(number, trigger, cpu as usize, callback.0, Callback::call));
    if status == OK {
        program.add_handler();
        place.write(keep(reserved, OwnedLine { number, program, _callback: callback }));
    }
    status
}

pub unsafe extern "C" fn aero_line_steer(line: *const abi::Line, cpu: u32) -> Status {
    let number = attempt!(borrow::<OwnedLine, _>(line)).number;
    line_status(interrupts::steer(number, cpu as usize))
}

pub unsafe extern "C" fn aero_line_unregister(line: *mut abi::Line) -> Status {
    let line = attempt!(take::<OwnedLine, _>(line));
    let status = line_status(interrupts::retire_line(line.number));
    if status != OK {
        return status;
    }
    attempt!(wait_for_handlers());
    line.remove();
    OK
}
