//! Interrupt handlers: registered by vector or device line, steered to a CPU, counted by vector and
//! CPU.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::{FIRST_VECTOR, MAX_CPUS};
pub use arch_contract::{LineError, LineTrigger};
use arrayvec::ArrayVec;
use wire::trace::EventKind;

use crate::arch::*;
use crate::call::{self, CallError};
use crate::cpu;
use crate::lock::SpinLock;
use crate::scheduler;
use crate::thread;
use crate::time::{Deadline, timer};
use crate::trace;
use crate::wait::InterruptSafe;

/// Vector that tells a CPU to look into its mailbox.
pub const RESCHEDULE_VECTOR: u8 = 0xf1;
/// Vector that tells a CPU to run the functions in its call mailbox.
pub const CALL_VECTOR: u8 = 0xf2;
/// Vectors that [`register_vector`] hands out.
const FREE_VECTORS: core::ops::Range<u8> = FIRST_VECTOR..0xe0;
/// Maximum number of device lines with handlers.
const LINE_LIMIT: usize = 64;

/// A handler: a function and its argument. The function is 0 if there is none.
struct Handler {
    function: AtomicUsize,
    argument: AtomicUsize,
}

static HANDLERS: [Handler; 256] =
    [const { Handler { function: AtomicUsize::new(0), argument: AtomicUsize::new(0) } }; 256];

/// Device lines with handlers.
static LINES: SpinLock<ArrayVec<Line, LINE_LIMIT>> = SpinLock::new(ArrayVec::new_const());

/// A device line with a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of the line.
    pub number: u32,
    /// Vector at which the handler is registered.
    pub vector: u8,
    /// CPU that the line interrupts.
    pub cpu: usize,
    trigger: LineTrigger,
}

/// Why a handler was not registered or removed, or a line not steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// All vectors are taken, or the limit of lines is reached.
    NoFreeVector,
    /// The line already has a handler.
    LineInUse(u32),
    /// The line has no handler.
    NotRegistered(u32),
    /// The interrupt controller refused.
    Line(LineError),
    /// A CPU did not leave the handler in time.
    NoAnswer(CallError),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFreeVector => f.write_str("all interrupt vectors are taken"),
            Self::LineInUse(line) => write!(f, "line {line} has a handler already"),
            Self::NotRegistered(line) => write!(f, "line {line} has no handler"),
            Self::Line(error) => error.fmt(f),
            Self::NoAnswer(error) => error.fmt(f),
        }
    }
}

/// Registers the kernel's own handlers. Called once, by the boot CPU.
pub(crate) fn init() {
    let own: [(u8, fn(usize)); 3] = [
        (Clock::VECTOR, timer::interrupt),
        (RESCHEDULE_VECTOR, scheduler::reschedule_interrupt),
        (CALL_VECTOR, call::interrupt),
    ];
    for (vector, function) in own {
        HANDLERS[usize::from(vector)].function.store(function as usize, Ordering::Release);
    }
}

/// Runs the handler of an interrupt that arrived; the arch crate calls this with interrupts off.
/// Returns true if the interrupted thread must give way.
#[inline(always)]
pub(crate) fn dispatch(vector: u8) -> bool {
    let here = cpu::this();
    here.interrupt_counts[usize::from(vector)].add(1);
    trace::event(EventKind::InterruptBegin, u64::from(vector), 0);
    let handler = &HANDLERS[usize::from(vector)];
    let function = handler.function.load(Ordering::Acquire);
    if function != 0 {
        here.in_interrupt.store(true, Ordering::Relaxed);
        // SAFETY: the word is nonzero, and only pointers to functions with one word-sized argument,
        // called like `fn(usize)`, are stored in it.
        let function = unsafe { core::mem::transmute::<usize, fn(usize)>(function) };
        function(handler.argument.load(Ordering::Relaxed));
        here.in_interrupt.store(false, Ordering::Relaxed);
    }
    trace::event(EventKind::InterruptEnd, u64::from(vector), 0);
    if here.give_way.load(Ordering::Relaxed) {
        here.give_way.store(false, Ordering::Relaxed);
        return true;
    }
    false
}

/// Registers `handler(context)` on all CPUs at a vector of its own and returns the vector. The
/// handler runs in interrupt context with interrupts off; see [`InterruptSafe`].
///
/// # Errors
/// [`RegisterError::NoFreeVector`].
pub fn register_vector<C: InterruptSafe + 'static>(context: &'static C, handler: fn(&C)) -> Result<u8, RegisterError> {
    register_among(FREE_VECTORS, context, handler)
}

/// Registers `handler(context)` as [`register_vector`] does, at the given vector, which something
/// outside the kernel has chosen.
///
/// # Errors
/// [`RegisterError::NoFreeVector`], if the vector is taken or is not for devices.
pub fn register_vector_at<C: InterruptSafe + 'static>(
    vector: u8,
    context: &'static C,
    handler: fn(&C),
) -> Result<(), RegisterError> {
    let is_free = FREE_VECTORS.contains(&vector);
    let among = if is_free { vector..vector + 1 } else { 0..0 };
    register_among(among, context, handler).map(|_| ())
}

fn register_among<C: InterruptSafe + 'static>(
    mut among: core::ops::Range<u8>,
    context: &'static C,
    handler: fn(&C),
) -> Result<u8, RegisterError> {
    let _lines = LINES.lock();
    let vector = among
        .find(|&vector| HANDLERS[usize::from(vector)].function.load(Ordering::Relaxed) == 0)
        .ok_or(RegisterError::NoFreeVector)?;
    let slot = &HANDLERS[usize::from(vector)];
    // The argument first: `dispatch` reads it after it has seen the function.
    slot.argument.store(core::ptr::from_ref(context) as usize, Ordering::Relaxed);
    slot.function.store(handler as *const () as usize, Ordering::Release);
    Ok(vector)
}

/// Removes the handler of a vector. On success the handler runs on no CPU any more. For threads
/// only.
///
/// # Errors
/// [`CallError`], if a CPU did not answer: the handler is no longer called, but may still be
/// running there, and the vector is not handed out again. Calling this function again waits again.
pub fn unregister_vector(vector: u8) -> Result<(), CallError> {
    retire_vector(vector);
    wait_for_handlers(call::DEFAULT_LIMIT)?;
    // SAFETY: the vector is retired, and `wait_for_handlers` has just found every CPU outside the
    // handler.
    unsafe { release_vector(vector) };
    Ok(())
}

/// Stops a vector's handler from being called. A handler that is already running continues.
/// Callable from any context.
pub fn retire_vector(vector: u8) {
    if FREE_VECTORS.contains(&vector) {
        HANDLERS[usize::from(vector)].function.store(retired as fn(usize) as usize, Ordering::Release);
    }
}

/// Waits until every CPU has left the handler it was in, if any. For threads only.
///
/// # Errors
/// [`CallError`], if a CPU has not left it within the limit.
pub fn wait_for_handlers(limit: Duration) -> Result<(), CallError> {
    let deadline = Deadline::after(limit);
    let counts = || cpu::all().map(|cpu| cpu.seen_outside_handlers.read());
    let before: ArrayVec<u64, MAX_CPUS> = counts().collect();
    loop {
        // A CPU that answers a call has left its handlers, unless one of them is waiting and serves
        // calls meanwhile.
        let note = || {
            let here = cpu::this();
            if !here.handler_waits.load(Ordering::Relaxed) {
                here.seen_outside_handlers.add(1);
            }
        };
        call::on_all(note, limit)?;
        let inside = cpu::all().zip(counts().zip(&before)).find(|(_, (now, before))| now == *before);
        match inside {
            None => return Ok(()),
            Some((cpu, _)) if deadline.has_passed() => return Err(CallError::NoAnswer { cpu: cpu.index }),
            Some(_) => thread::yield_now(),
        }
    }
}

/// Makes a retired vector available again.
///
/// # Safety
/// The vector's handler runs on no CPU: [`wait_for_handlers`] has returned `Ok` since the vector
/// was retired.
pub unsafe fn release_vector(vector: u8) {
    let retired = retired as fn(usize) as usize;
    let function = &HANDLERS[usize::from(vector)].function;
    let _ = function.compare_exchange(retired, 0, Ordering::AcqRel, Ordering::Relaxed);
}

/// Placeholder handler of a retired vector that cannot be handed out again yet.
fn retired(_: usize) {}

/// Registers `handler(context)` for a device line that is delivered to `cpu`.
///
/// # Errors
/// See [`RegisterError`]; nothing is registered then.
pub fn register_line<C: InterruptSafe + 'static>(
    line: u32,
    trigger: LineTrigger,
    cpu: usize,
    context: &'static C,
    handler: fn(&C),
) -> Result<(), RegisterError> {
    let vector = register_vector(context, handler)?;
    let mut known = LINES.lock();
    let routed = if known.iter().any(|other| other.number == line) {
        Err(RegisterError::LineInUse(line))
    } else if known.is_full() {
        Err(RegisterError::NoFreeVector)
    } else {
        Lines::route(line, vector, cpu, trigger).map_err(RegisterError::Line)
    };
    if routed.is_ok() {
        known.push(Line { number: line, vector, cpu, trigger });
    }
    drop(known);
    if routed.is_err() {
        // The line was not routed to the vector, but any CPU may have sent it as an IPI, so its
        // handler may be running. If this fails, the vector stays taken.
        let _ = unregister_vector(vector);
    }
    routed
}

/// Masks a device line and removes its handler. On success the handler runs on no CPU any more. For
/// threads only.
///
/// # Errors
/// See [`RegisterError`]. After [`RegisterError::NoAnswer`] the handler is no longer called, but
/// may still be running. The line stays taken, and calling this function again waits again.
pub fn unregister_line(line: u32) -> Result<(), RegisterError> {
    retire_line(line)?;
    wait_for_handlers(call::DEFAULT_LIMIT).map_err(RegisterError::NoAnswer)?;
    // SAFETY: the line is retired, and `wait_for_handlers` has just found every CPU outside the
    // handler.
    unsafe { release_line(line) };
    Ok(())
}

/// Masks a device line and stops its handler from being called. A handler that is already running
/// continues.
///
/// # Errors
/// See [`RegisterError`].
pub fn retire_line(line: u32) -> Result<(), RegisterError> {
    let known = LINES.lock();
    let entry = known.iter().find(|entry| entry.number == line).ok_or(RegisterError::NotRegistered(line))?;
    Lines::mask(line).map_err(RegisterError::Line)?;
    retire_vector(entry.vector);
    Ok(())
}

/// Makes a retired line and its vector available again.
///
/// # Safety
/// The line's handler runs on no CPU: [`wait_for_handlers`] has returned `Ok` since the line was
/// retired.
pub unsafe fn release_line(line: u32) {
    let mut known = LINES.lock();
    if let Some(position) = known.iter().position(|entry| entry.number == line) {
        // SAFETY: the caller guarantees that the line's handler, which is this vector's, runs on no
        // CPU any more.
        unsafe { release_vector(known.remove(position).vector) };
    }
}

/// Delivers a device line to another CPU.
///
/// # Errors
/// See [`RegisterError`].
pub fn steer(line: u32, cpu: usize) -> Result<(), RegisterError> {
    let mut known = LINES.lock();
    let entry = known.iter_mut().find(|entry| entry.number == line).ok_or(RegisterError::NotRegistered(line))?;
    Lines::route(line, entry.vector, cpu, entry.trigger).map_err(RegisterError::Line)?;
    entry.cpu = cpu;
    Ok(())
}

/// Returns how often this CPU has taken an interrupt with `vector`.
pub fn count_here(vector: u8) -> u64 {
    let _guard = crate::lock::InterruptGuard::new();
    cpu::this().interrupt_counts[usize::from(vector)].read()
}

/// Returns the device lines with handlers.
pub fn lines() -> ArrayVec<Line, LINE_LIMIT> {
    LINES.lock().clone()
}

/// Returns the purpose of a vector that the kernel or a device line uses, [`Purpose::Other`] for
/// the rest.
pub fn purpose(vector: u8) -> Purpose {
    match vector {
        vector if vector == Clock::VECTOR => Purpose::Timer,
        RESCHEDULE_VECTOR => Purpose::Reschedule,
        CALL_VECTOR => Purpose::Call,
        vector => match LINES.lock().iter().find(|line| line.vector == vector) {
            Some(line) => Purpose::Line(line.number),
            None => Purpose::Other,
        },
    }
}

/// The purpose of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The one-shot timer.
    Timer,
    /// Mail from another CPU.
    Reschedule,
    /// A cross-CPU function call.
    Call,
    /// A device line.
    Line(u32),
    /// A vector from [`register_vector`] without a line, or one without a handler.
    Other,
}
