//! Commands on a stopped machine: all other CPUs are stopped, after a crash or for a debugger.
//!
//! Whoever was stopped may hold any lock, and the heap may be half changed or broken. [`attempt`] runs a function that does
//! not know of this: what it allocates comes from memory set aside, in which nothing stays; a lock that is held is passed, and
//! is held again afterwards; and a fault or a panic ends the function, and nothing else.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::debug::INTERRUPT_FLAG;
use arch_contract::fault::{Fault, Registers};
use arrayvec::ArrayString;

use crate::arch::{Architecture, Machine};
use crate::lock::passing;
use crate::memory::stack::Stack;
use crate::memory::{OutOfMemory, aside};

/// Stack a function runs on, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// Longest reason kept, in bytes.
const REASON_LIMIT: usize = 120;

static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

/// What the running function's CPU comes back to, and with what.
struct Way {
    back: <Machine as Architecture>::Context,
    reason: Option<Abandoned>,
}

struct WayCell(UnsafeCell<Option<Way>>);

// SAFETY: used by the CPU that passes locks only.
unsafe impl Sync for WayCell {}

static WAY: WayCell = WayCell(UnsafeCell::new(None));

/// Why a function was ended.
#[derive(Clone, Copy, Debug)]
pub struct Abandoned {
    reason: ArrayString<REASON_LIMIT>,
}

impl Abandoned {
    fn new(reason: fmt::Arguments<'_>) -> Self {
        let mut kept = ArrayString::new();
        // What does not fit is cut off.
        let _ = kept.write_fmt(reason);
        Self { reason: kept }
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Sets memory aside. Once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`]: then no function runs.
pub(crate) fn init() -> Result<(), OutOfMemory> {
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    aside::init()
}

/// True on the CPU that runs a function.
pub fn is_active() -> bool {
    passing::is_here()
}

/// Runs a function as the module says.
///
/// # Errors
/// [`Abandoned`] if it faulted or panicked, or cannot run: what it has done so far is done.
///
/// # Safety
/// All other CPUs are stopped, interrupts are off, and nothing that the function allocates is used after it.
pub unsafe fn attempt(function: &mut dyn FnMut()) -> Result<(), Abandoned> {
    if !aside::exists() {
        return Err(Abandoned::new(format_args!("there is no memory set aside for commands")));
    }
    if !passing::begin() {
        return Err(Abandoned::new(format_args!("another command runs")));
    }
    let was_tracing = Machine::is_tracing();
    Machine::set_tracing(false);
    // SAFETY: this CPU passes locks, with interrupts off, and the others, which hold them, are stopped until after `end`. `WAY` is
    // used by this CPU alone meanwhile.
    let reason = unsafe {
        aside::begin();
        let way = (*WAY.0.get()).insert(Way { back: Default::default(), reason: None });
        let back = &raw mut way.back;
        let mut task = Task(function);
        Machine::switch_through(back, STACK_TOP.load(Ordering::Relaxed), run, &raw mut task as usize);
        let way = (*WAY.0.get()).take();
        aside::end();
        passing::end();
        way.and_then(|way| way.reason)
    };
    Machine::set_tracing(was_tracing);
    reason.map_or(Ok(()), Err)
}

struct Task<'a>(&'a mut dyn FnMut());

extern "C" fn run(task: usize) -> ! {
    // SAFETY: the task of `attempt`, whose flow waits.
    (unsafe { &mut *(task as *mut Task<'_>) }.0)();
    come_back()
}

extern "C" fn come_back() -> ! {
    // SAFETY: suspended by `attempt` on this CPU, resumed once.
    unsafe {
        match &*WAY.0.get() {
            Some(way) => Machine::resume(&raw const way.back),
            None => Machine::halt_forever(),
        }
    }
}

fn note(reason: fmt::Arguments<'_>) {
    // SAFETY: this CPU runs the function.
    if let Some(way) = unsafe { &mut *WAY.0.get() } {
        way.reason = Some(Abandoned::new(reason));
    }
}

/// If this CPU runs a function, which has faulted: makes the CPU go on behind it, and is true.
pub(crate) fn end_by_fault(fault: &Fault, text: fmt::Arguments<'_>, registers: &mut Registers) -> bool {
    if !is_active() {
        return false;
    }
    note(format_args!("{text}, at {:#x}", fault.registers.instruction_pointer));
    registers.go_to(come_back as *const () as usize, STACK_TOP.load(Ordering::Relaxed));
    registers.flags &= !INTERRUPT_FLAG;
    true
}

/// If this CPU runs a function, which has panicked: does not return.
pub(crate) fn end_by_panic(text: fmt::Arguments<'_>) {
    if is_active() {
        note(text);
        come_back();
    }
}
