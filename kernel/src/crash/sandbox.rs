//! Commands on a stopped machine: all other CPUs are stopped, after a crash or for a debugger.
//!
//! A stopped CPU may hold any lock, and the heap may be half changed or broken. [`attempt`] runs a
//! function that is unaware of this. Its allocations come from memory set aside, which is reclaimed
//! afterwards. A held lock is passed and is held again afterwards. A fault or panic ends the
//! function and nothing else.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::fault::{Fault, Registers};
use arrayvec::ArrayString;

use crate::arch::*;
use crate::lock::passing;
use crate::memory::stack::Stack;
use crate::memory::{OutOfMemory, aside};

/// Size of the stack a function runs on, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// Maximum length of a kept reason, in bytes. The text is not allocated, because it outlives the
/// memory set aside.
const REASON_LIMIT: usize = 120;

static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

/// The context the CPU returns to after the function, and the reason if the function was ended.
struct Way {
    back: Context,
    reason: Option<Abandoned>,
}

struct WayCell(UnsafeCell<Option<Way>>);

// SAFETY: only the CPU that passes locks accesses the cell, and there is at most one such CPU.
unsafe impl Sync for WayCell {}

// A static, because a fault's or a panic's handler has to find it.
static WAY: WayCell = WayCell(UnsafeCell::new(None));

/// Why a function was ended.
#[derive(Clone, Copy, Debug)]
pub struct Abandoned {
    reason: ArrayString<REASON_LIMIT>,
}

impl Abandoned {
    fn new(reason: fmt::Arguments<'_>) -> Self {
        let mut kept = ArrayString::new();
        // Text over the limit is cut off.
        let _ = kept.write_fmt(reason);
        Self { reason: kept }
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Sets memory aside. Called once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`]; [`attempt`] then refuses to run functions.
pub(crate) fn init() -> Result<(), OutOfMemory> {
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    aside::init()
}

/// Returns whether this CPU runs a function in the sandbox.
pub fn is_active() -> bool {
    passing::is_here()
}

/// Runs a function in the sandbox.
///
/// # Errors
/// [`Abandoned`] if the function faulted, panicked or cannot run. Its effects up to that point
/// remain.
///
/// # Safety
/// All other CPUs are stopped, interrupts are off, and memory that the function allocates is not
/// used after it returns.
pub unsafe fn attempt(function: &mut dyn FnMut()) -> Result<(), Abandoned> {
    if !aside::exists() {
        return Err(Abandoned::new(format_args!("there is no memory set aside for commands")));
    }
    // This refuses an attempt inside another one, too, so that there is one stack, one way back and
    // one memory.
    if !passing::begin() {
        return Err(Abandoned::new(format_args!("another command runs")));
    }
    let was_tracing = TraceRing::is_on();
    // The function's own events would otherwise overwrite those that led to the stop.
    TraceRing::set_on(false);
    // SAFETY: the caller guarantees that interrupts are off and that the other CPUs, which hold the
    // passed locks, stay stopped until after `end`. `passing::begin` admits one CPU, so this one
    // alone uses `WAY` and the stack.
    let reason = unsafe {
        aside::begin();
        let way = (*WAY.0.get()).insert(Way { back: Default::default(), reason: None });
        // A pointer and not the reference, because a fault's handler accesses the cell in the
        // meantime.
        let back = &raw mut way.back;
        let mut task = Task(function);
        // On a stack of its own, so that the function can be left at any depth, also after an
        // overflow, by resuming the flow that waits here.
        Contexts::switch_through(back, STACK_TOP.load(Ordering::Relaxed), run, &raw mut task as usize);
        let way = (*WAY.0.get()).take();
        // Before `passing::end`, because the right to pass locks is also the right to the memory
        // set aside.
        aside::end();
        passing::end();
        way.and_then(|way| way.reason)
    };
    TraceRing::set_on(was_tracing);
    reason.map_or(Ok(()), Err)
}

struct Task<'a>(&'a mut dyn FnMut());

extern "C" fn run(task: usize) -> ! {
    // SAFETY: `task` points to the `Task` in `attempt`, whose control flow is suspended until the
    // function ends.
    (unsafe { &mut *(task as *mut Task<'_>) }.0)();
    come_back()
}

extern "C" fn come_back() -> ! {
    // SAFETY: this CPU runs the function, so it alone accesses `WAY`; `attempt` suspended the
    // context on this CPU, and it is resumed once.
    unsafe {
        match &*WAY.0.get() {
            Some(way) => Contexts::resume(&raw const way.back),
            // Cannot occur: `attempt` fills the cell before the function runs and empties it after.
            None => Core::halt_forever(),
        }
    }
}

fn note(reason: fmt::Arguments<'_>) {
    // SAFETY: this CPU runs the function, so no other CPU accesses `WAY`.
    if let Some(way) = unsafe { &mut *WAY.0.get() } {
        way.reason = Some(Abandoned::new(reason));
    }
}

/// Ends the function this CPU runs, which has faulted: changes `registers` so that the CPU
/// continues after the function, with interrupts off, and returns true. Returns false if this CPU
/// runs no function. The CPU goes there by the trap's return, so that the trap's stack is free
/// again. The stack is used from its top, because it may be the one that overflowed.
pub(crate) fn end_by_fault(fault: &Fault, text: fmt::Arguments<'_>, registers: &mut Registers) -> bool {
    if !is_active() {
        return false;
    }
    note(format_args!("{text}, at {:#x}", fault.registers.instruction_pointer));
    registers.go_to(come_back as *const () as usize, STACK_TOP.load(Ordering::Relaxed));
    registers.disable_interrupts();
    true
}

/// Ends the function this CPU runs, which has panicked, and does not return. Does nothing if this
/// CPU runs no function. A panic is in the function's own flow, so it resumes the waiting one at
/// once.
pub(crate) fn end_by_panic(text: fmt::Arguments<'_>) {
    if is_active() {
        note(text);
        come_back();
    }
}
