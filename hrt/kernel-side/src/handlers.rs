//! Timers, inter-processor interrupts and device lines, which call a program's functions in
//! interrupts.

use alloc::boxed::Box;

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::call::{self, CallError};
use kernel::interrupts::{self, LineError, LineTrigger, RegisterError};
use kernel::program::Program;
use kernel::program::objects::{Object, ObjectKind};
use kernel::time::{Deadline, Timer};
use kernel::wait::InterruptSafe;

use crate::handles::{borrow, keep, program, reserve, take, try_take};
use crate::plain::Handler;
use crate::pointers::place;
use crate::{attempt, blocking, deadline};

/// A program's function at an address of its own, as timers and interrupts need it.
struct Callback {
    handler: Handler,
}

// SAFETY: the fields never change after creation, so any number of CPUs may read them.
unsafe impl Sync for Callback {}
// SAFETY: the callback only calls the program's function, and the interface defines what that may
// do in an interrupt.
unsafe impl InterruptSafe for Callback {}

impl Callback {
    fn call(&self) {
        self.handler.call_in_interrupt();
    }
}

/// A callback that is freed together with the object that registered it; the registration must be
/// over by then.
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
        // SAFETY: the callback comes from `Box::leak` and is freed only here. The objects below are
        // dropped only once their functions neither run nor can be called: their destruction waits
        // for that, and at the program's end `silence` ensures it.
        drop(unsafe { Box::from_raw(core::ptr::from_ref(self.0).cast_mut()) });
    }
}

/// Time that a timer's function has to return when the timer is withdrawn.
const RETURN_LIMIT: core::time::Duration = call::DEFAULT_LIMIT;

/// A timer and its callback. The field order makes the timer drop first.
struct OwnedTimer {
    timer: Timer,
    _callback: OwnedCallback,
}

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedTimer {
    const KIND: ObjectKind = ObjectKind::Timer;

    fn silence(&self) -> bool {
        self.timer.withdraw();
        !self.timer.is_running_elsewhere()
    }
}

/// Withdraws a timer and ensures that its function no longer runs on another CPU. Returns true if a
/// setting was cancelled, for which the function was not and will not be called; `TIMED_OUT` if the
/// function does not return on the other CPU.
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
        // The function may have set the timer again while it ran.
        cancelled |= timer.withdraw();
    }
    Ok(cancelled)
}

pub unsafe extern "C" fn aero_timer_create(
    function: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    timer: *mut *mut abi::Timer,
) -> Status {
    // SAFETY: by the interface's contract, `timer` is null or the program's memory for the handle.
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

/// Waits until every interrupt handler that was already called has returned.
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

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedInterrupt {
    const KIND: ObjectKind = ObjectKind::Interrupt;

    fn silence(&self) -> bool {
        interrupts::retire_vector(self.vector);
        true
    }
}

impl Drop for OwnedInterrupt {
    fn drop(&mut self) {
        interrupts::retire_vector(self.vector);
        // SAFETY: the object is dropped only once no handler of the vector runs any more;
        // `OwnedCallback` relies on the same.
        unsafe { interrupts::release_vector(self.vector) };
    }
}

pub unsafe extern "C" fn aero_interrupt_register(
    handler: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    interrupt: *mut *mut abi::Interrupt,
) -> Status {
    // SAFETY: by the interface's contract, `interrupt` is null or the program's memory for the
    // handle.
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

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedLine {
    const KIND: ObjectKind = ObjectKind::Line;

    fn silence(&self) -> bool {
        // A line that could not be masked may still interrupt.
        interrupts::retire_line(self.number)
            .inspect_err(|error| log::error!("line {} stays registered: {error}", self.number))
            .is_ok()
    }
}

impl Drop for OwnedLine {
    fn drop(&mut self) {
        // SAFETY: the object is dropped only once the line is retired and no handler of it runs any
        // more.
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
    // SAFETY: by the interface's contract, `line` is null or the program's memory for the handle.
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
