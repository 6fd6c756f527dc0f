//! Commands on a frozen machine: all other CPUs are stopped, after a crash or for a debugger.
//!
//! Whoever was stopped may hold any lock, and the heap may be half changed or broken. [`attempt`] runs a function that does
//! not know of this: what it allocates comes from memory set aside, in which nothing stays; a lock that is held is passed, and
//! is held again afterwards; and a fault or a panic ends the function, and nothing else.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arch_contract::debug::INTERRUPT_FLAG;
use arch_contract::fault::{Fault, Registers};
use arrayvec::ArrayString;

use crate::arch::{Architecture, Machine};
use crate::cpu;
use crate::memory::cache::ObjectCaches;
use crate::memory::stack::Stack;
use crate::memory::{self, OutOfMemory, Placement};

/// Memory set aside for what a function allocates, in bytes.
const MEMORY_SIZE: usize = 1 << 20;
/// Stack a function runs on, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// Locks a function may pass.
const PASS_LIMIT: usize = 64;
/// Longest reason kept, in bytes.
const REASON_LIMIT: usize = 120;

const NO_CPU: usize = usize::MAX;

/// The CPU that runs a function.
static RUNS_ON: AtomicUsize = AtomicUsize::new(NO_CPU);
/// Where the memory set aside begins, 0 while there is none; how much of it is used.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);
static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

/// Locks that were passed, by address.
static PASSED: [AtomicUsize; PASS_LIMIT] = [const { AtomicUsize::new(0) }; PASS_LIMIT];

/// What the running function's CPU comes back to, and with what.
struct Way {
    back: <Machine as Architecture>::Context,
    reason: Option<Abandoned>,
    /// The CPU's own object caches meanwhile.
    caches: ObjectCaches,
}

struct WayCell(UnsafeCell<Option<Way>>);

// SAFETY: used by the CPU in `RUNS_ON` only.
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
    let layout = core::alloc::Layout::from_size_align(MEMORY_SIZE, memory::cache::CACHED_LIMIT);
    let at = memory::allocate(layout.map_err(|_| OutOfMemory)?, Placement::Near)?;
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    MEMORY.store(at.as_ptr() as usize, Ordering::Release);
    Ok(())
}

/// True on the CPU that runs a function.
pub fn is_active() -> bool {
    let runs_on = RUNS_ON.load(Ordering::Relaxed);
    runs_on != NO_CPU && runs_on == cpu::this_index()
}

/// Runs a function as the module says.
///
/// # Errors
/// [`Abandoned`] if it faulted or panicked, or cannot run: what it has done so far is done.
///
/// # Safety
/// All other CPUs are stopped, interrupts are off, and nothing that the function allocates is used after it.
pub unsafe fn attempt(function: &mut dyn FnMut()) -> Result<(), Abandoned> {
    let memory = MEMORY.load(Ordering::Acquire);
    if memory == 0 {
        return Err(Abandoned::new(format_args!("there is no memory set aside for commands")));
    }
    if RUNS_ON.compare_exchange(NO_CPU, cpu::this_index(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(Abandoned::new(format_args!("another command runs")));
    }
    let was_tracing = Machine::is_tracing();
    Machine::set_tracing(false);
    USED.store(0, Ordering::Relaxed);
    let caches = ObjectCaches::of_span(memory, MEMORY_SIZE);
    // SAFETY: this CPU is the one in `RUNS_ON`, and its caches are used by nobody else, interrupts being off.
    let reason = unsafe {
        let caches = mem::replace(cpu::this().caches.get(), caches);
        let way = (*WAY.0.get()).insert(Way { back: Default::default(), reason: None, caches });
        let back = &raw mut way.back;
        let mut task = Task(function);
        Machine::switch_through(back, STACK_TOP.load(Ordering::Relaxed), run, &raw mut task as usize);
        let way = (*WAY.0.get()).take();
        way.and_then(|way| {
            *cpu::this().caches.get() = way.caches;
            way.reason
        })
    };
    for lock in &PASSED {
        let address = lock.swap(0, Ordering::Relaxed);
        if address != 0 {
            // SAFETY: the address of a lock somebody holds, who is stopped.
            unsafe { (*(address as *const AtomicBool)).store(true, Ordering::Relaxed) };
        }
    }
    Machine::set_tracing(was_tracing);
    RUNS_ON.store(NO_CPU, Ordering::SeqCst);
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

/// For a lock that is held: true if the caller shall go on as if it were not.
#[inline(always)]
pub(crate) fn passes(lock: &AtomicBool) -> bool {
    RUNS_ON.load(Ordering::Relaxed) != NO_CPU && passes_here(lock)
}

#[cold]
fn passes_here(lock: &AtomicBool) -> bool {
    if !is_active() {
        return false;
    }
    let address = core::ptr::from_ref(lock) as usize;
    match PASSED.iter().find(|place| [0, address].contains(&place.load(Ordering::Relaxed))) {
        Some(place) => place.store(address, Ordering::Relaxed),
        None => panic!("more than {PASS_LIMIT} locks are held"),
    }
    true
}

/// Memory for a function, if this CPU runs one; the inner `None` if there is no more. Freed when the function ends.
#[cold]
pub(crate) fn allocate(size: usize) -> Option<Option<NonNull<u8>>> {
    if !is_active() {
        return None;
    }
    let size = size.next_power_of_two();
    let start = USED.load(Ordering::Relaxed).next_multiple_of(size.min(memory::cache::CACHED_LIMIT));
    let end = start.checked_add(size).filter(|&end| end <= MEMORY_SIZE);
    if let Some(end) = end {
        USED.store(end, Ordering::Relaxed);
    }
    Some(end.and_then(|_| NonNull::new((MEMORY.load(Ordering::Relaxed) + start) as *mut u8)))
}

/// Bytes in a CPU's own object caches, while others stand in for them.
pub(crate) fn own_cached_bytes(cpu: usize) -> Option<u64> {
    // SAFETY: this CPU runs the function.
    let way = is_active().then(|| unsafe { &*WAY.0.get() }.as_ref()).flatten();
    way.filter(|_| cpu == cpu::this_index()).map(|way| way.caches.bytes())
}
