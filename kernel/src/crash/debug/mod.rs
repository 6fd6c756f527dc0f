//! Stopping all CPUs for a debugger, and letting them go on.
//!
//! A CPU that comes to a breakpoint, or that is told that something came on the debugger's line, becomes the *host*: it makes all
//! others stop by NMI, whatever they do, and runs the debugger on a stack of its own, interrupts off. The others wait where
//! they are, their registers in their slots, until the host has given each an order. After a crash, or a watchdog's report, the
//! host runs the post-mortem prompt instead. Nothing here takes a lock or allocates, but for `init`.

mod breakpoints;
mod rendezvous;
mod step;
mod stop;

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::MAX_CPUS;
use arch_contract::debug::{DebugEvent, Debugging, HARDWARE_BREAKPOINTS, RESUME_FLAG, SystemRegisters, TRAP_FLAG};
use arch_contract::fault::Registers;

use crate::arch::{Architecture, Machine};
use crate::cpu;
use crate::crash::fault_text::FaultText;
use crate::crash::state;
use crate::lock::InterruptGuard;
use crate::memory::stack::Stack;
use crate::memory::{self, OutOfMemory};
use crate::sandbox;
use crate::time::{Deadline, spin_until};
pub use breakpoints::BREAKPOINT_LIMIT;
#[cfg(feature = "faults")]
pub use breakpoints::faults;
pub use rendezvous::Order;
use rendezvous::Rendezvous;
pub use stop::Stop;

/// Stack the debugger runs on, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// How long the other CPUs may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Alignment of a vector state, in bytes.
const VECTOR_ALIGN: usize = 64;

/// The CPU that is interrupted by what comes on the line, and how often it looks while it is kept stopped.
const LISTENER: usize = 0;
const LOOK_INTERVAL: Duration = Duration::from_micros(20);

const NO_CPU: usize = usize::MAX;

/// What comes on the line and stops.
pub trait Debugger: Sync {
    /// Looks at what has come on the line while the CPUs run; true if they shall stop. May be called on any CPU, not on two
    /// at once.
    fn attention(&self) -> bool;
    /// True if a fault is its business: somebody is there to be told.
    fn takes_faults(&self) -> bool;
    /// All CPUs are stopped; returns when they shall go on as the orders say.
    fn stopped(&self, stop: &mut Stop);
}

/// Why the host stopped everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something came on the line.
    Attention,
    /// A breakpoint instruction; the instruction pointer is at it if it is the debugger's, else behind it.
    Breakpoint,
    /// A step is done.
    Stepped,
    /// A hardware breakpoint, by its index.
    Hardware(usize),
    /// The watchdog has reported something.
    Watchdog,
    /// There is something to say to whoever debugs; then all go on.
    Message,
    /// A person at the console wants to look.
    Person,
    /// A fault: whether it was an access to memory, for which the debugger has a signal of its own.
    Fault {
        /// An access that nothing allows.
        is_access: bool,
    },
}

/// A CPU's state while it is stopped.
struct Slot {
    registers: UnsafeCell<Registers>,
    system: UnsafeCell<SystemRegisters>,
    /// Its floating-point and vector state, in an area of the machine's layout; null before [`install`].
    vectors: AtomicPtr<u8>,
    /// The thread it runs.
    thread: AtomicUsize,
    /// Whether it is stopped, and for how long.
    rendezvous: Rendezvous,
    /// Set on a CPU that is in this module's code.
    is_inside: AtomicBool,
    /// What the next breakpoint on it is for: nothing of its own, or the number of one of [`Own`].
    own_stop: AtomicU8,
    /// NMIs on their way that hosts have sent; one that comes for nothing may be one of these. More than two arrive as two.
    awaited: AtomicU8,
    /// Set by an NMI that found the CPU there.
    was_called: AtomicBool,
    /// It was told to execute one instruction.
    is_stepping: AtomicBool,
    /// Interrupts are off for a step and were on before.
    masked_for_step: AtomicBool,
    /// It was about to execute the one instruction when it stopped.
    stopped_in_step: AtomicBool,
    /// It goes on with the last order: if that was a step, which is not over, it still is one.
    keeps_order: AtomicBool,
}

impl Slot {
    /// An NMI is on its way to this CPU. A CPU has at most one in its handler and one waiting (SDM Vol. 3A, 6.7.1).
    fn await_one_more(&self) {
        let one_more = |awaited: u8| Some(2.min(awaited + 1));
        let _ = self.awaited.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
    }

    /// One has come: true if a host may have sent it.
    fn take_awaited(&self) -> bool {
        let one_less = |awaited: u8| awaited.checked_sub(1);
        self.awaited.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

// SAFETY: the cells are written by their CPU before it is stopped and by the host while it is.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        registers: UnsafeCell::new(Registers::zero()),
        system: UnsafeCell::new(SystemRegisters::zero()),
        vectors: AtomicPtr::new(core::ptr::null_mut()),
        thread: AtomicUsize::new(0),
        rendezvous: Rendezvous::new(),
        is_inside: AtomicBool::new(false),
        own_stop: AtomicU8::new(0),
        awaited: AtomicU8::new(0),
        was_called: AtomicBool::new(false),
        is_stepping: AtomicBool::new(false),
        masked_for_step: AtomicBool::new(false),
        stopped_in_step: AtomicBool::new(false),
        keeps_order: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// The CPU that runs the debugger.
static HOST: AtomicUsize = AtomicUsize::new(NO_CPU);
/// Times all CPUs were stopped.
static STOPS: AtomicU64 = AtomicU64::new(0);
/// Cycles from the event to all stopped, of the last stop.
static LAST_STOP_CYCLES: AtomicU64 = AtomicU64::new(0);
static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

struct Installed(UnsafeCell<Option<&'static dyn Debugger>>);

// SAFETY: written once, by the boot CPU alone, before `IS_INSTALLED`.
unsafe impl Sync for Installed {}

static INSTALLED: Installed = Installed(UnsafeCell::new(None));
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// A prompt for a person, on a stopped machine. Returns when the machine shall go on, which it cannot after a crash.
pub type PostMortem = fn(&mut Stop);

struct PostMortemPrompt(UnsafeCell<Option<PostMortem>>);

// SAFETY: written once, by the boot CPU alone, before `IS_READY`.
unsafe impl Sync for PostMortemPrompt {}

static POST_MORTEM: PostMortemPrompt = PostMortemPrompt(UnsafeCell::new(None));
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Readies stopping, and gives the kernel a prompt for it. Once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`]; the kernel goes on without.
pub(crate) fn init(post_mortem: PostMortem) -> Result<(), OutOfMemory> {
    let layout = core::alloc::Layout::from_size_align(Machine::vector_layout().size.max(1), VECTOR_ALIGN)
        .map_err(|_| OutOfMemory)?;
    for slot in &SLOTS[..crate::boot::information().cpus.len()] {
        let area = memory::allocate(layout, memory::Placement::Near)?;
        slot.vectors.store(area.as_ptr(), Ordering::Relaxed);
    }
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    sandbox::init()?;
    // SAFETY: see `PostMortemPrompt`.
    unsafe { *POST_MORTEM.0.get() = Some(post_mortem) };
    IS_READY.store(true, Ordering::Release);
    Ok(())
}

/// Gives the kernel a debugger, if there is a line to one; false if not, or if stopping is not possible. Once, by the boot CPU,
/// before other CPUs start.
///
/// # Safety
/// As that says: nobody looks for a debugger meanwhile. The debugger changes memory and registers as its user says.
pub unsafe fn install(debugger: &'static dyn Debugger) -> bool {
    if !IS_READY.load(Ordering::Acquire) || !Machine::debug_line_init() {
        return false;
    }
    // SAFETY: see `Installed`.
    unsafe { *INSTALLED.0.get() = Some(debugger) };
    IS_INSTALLED.store(true, Ordering::Release);
    Machine::debug_line_watch(true);
    true
}

fn post_mortem() -> Option<PostMortem> {
    // SAFETY: not written any more.
    IS_READY.load(Ordering::Acquire).then(|| unsafe { *POST_MORTEM.0.get() }).flatten()
}

fn debugger() -> Option<&'static dyn Debugger> {
    // SAFETY: not written any more.
    IS_INSTALLED.load(Ordering::Acquire).then(|| unsafe { *INSTALLED.0.get() }).flatten()
}

/// True if there is a line to a debugger.
pub fn is_installed() -> bool {
    IS_INSTALLED.load(Ordering::Acquire)
}

/// True while all CPUs are stopped: locks may be held by who cannot give them back.
pub fn is_stopped() -> bool {
    // A CPU that is to stay sees that when it sees the host gone.
    HOST.load(Ordering::SeqCst) != NO_CPU
}

/// Times all CPUs were stopped: what waited meanwhile is not late.
pub fn stops() -> u64 {
    STOPS.load(Ordering::Relaxed)
}

/// Stops all CPUs here, for a debugger; false if there is no line to one.
pub fn break_here() -> bool {
    let is_installed = is_installed();
    if is_installed {
        Machine::breakpoint();
    }
    is_installed
}

/// A crash is about to be reported: whoever debugs sees it first.
pub(crate) fn before_crash() {
    if debugger().is_some_and(Debugger::takes_faults) && !is_stopped() {
        Machine::breakpoint();
    }
}

/// The watchdog has reported something: a debugger that is attached sees it, or else the post-mortem prompt comes.
pub(crate) fn stop_for_watchdog() {
    stop_for(Own::Watchdog);
}

/// Stops all CPUs here, for a person at the console; false if there is none, or it is not possible.
pub fn break_for_person() -> bool {
    let is_possible = IS_READY.load(Ordering::Acquire) && state::halts_after_crash();
    if is_possible {
        stop_for(Own::Person);
    }
    is_possible
}

/// Stops all CPUs for a moment, in which the debugger can say something to whoever debugs; nothing if there is none.
pub fn stop_for_message() {
    if is_installed() {
        stop_for(Own::Message);
    }
}

/// Breakpoints of the kernel's own.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Own {
    Watchdog = 1,
    Message = 2,
    Person = 3,
}

fn stop_for(own: Own) {
    if IS_READY.load(Ordering::Acquire) {
        // On this CPU, and nothing in between.
        let _guard = InterruptGuard::new();
        SLOTS[cpu::this().index].own_stop.store(own as u8, Ordering::SeqCst);
        Machine::breakpoint();
    }
}

/// This CPU turns to the debugger: the arch crate's callback.
pub(crate) fn event(event: &DebugEvent<'_>, registers: &mut Registers) -> bool {
    if let DebugEvent::Fault(fault) = event
        && sandbox::end_by_fault(fault, format_args!("{}", FaultText(fault)), registers)
    {
        return true;
    }
    if !IS_READY.load(Ordering::Acquire) || Machine::local() == 0 || state::has_crashed() {
        return false;
    }
    let slot = &SLOTS[cpu::this().index];
    if slot.is_inside.swap(true, Ordering::SeqCst) {
        // An NMI on a CPU that stops or goes on by itself, which sees to it before it leaves, or that waits.
        slot.take_awaited();
        slot.was_called.store(true, Ordering::SeqCst);
        return matches!(event, DebugEvent::Attention);
    }
    slot.stopped_in_step.store(step::finish(slot, registers), Ordering::Relaxed);
    let taken = handle(slot, event, registers);
    loop {
        slot.is_inside.store(false, Ordering::SeqCst);
        if !slot.was_called.swap(false, Ordering::SeqCst) {
            return taken;
        }
        slot.is_inside.store(true, Ordering::SeqCst);
        handle(slot, &DebugEvent::Attention, registers);
    }
}

/// What the host runs.
#[derive(Clone, Copy)]
enum Visitor {
    Debugger(&'static dyn Debugger),
    PostMortem(PostMortem),
}

fn handle(slot: &Slot, event: &DebugEvent<'_>, registers: &mut Registers) -> bool {
    let debugger = debugger();
    let visitor_of = |reason: Reason, is_planted: bool| {
        let is_prompts = match reason {
            Reason::Person => true,
            // Without a debugger that is attached, what was planted, and what steps, is the prompt's.
            Reason::Breakpoint => is_planted && !debugger.is_some_and(Debugger::takes_faults),
            Reason::Watchdog | Reason::Stepped | Reason::Fault { .. } => !debugger.is_some_and(Debugger::takes_faults),
            _ => false,
        };
        if is_prompts { post_mortem().map(Visitor::PostMortem) } else { debugger.map(Visitor::Debugger) }
    };
    let started_at = Machine::cycles();
    let here = cpu::this().index;
    let reason = match event {
        DebugEvent::Attention => {
            let (was_stopped, is_awaited) = (is_stopped(), slot.take_awaited());
            if was_stopped {
                wait_for_order(slot, registers);
            }
            // Also after the wait: the same NMI may have come for a byte on the line.
            match debugger {
                Some(debugger) if look(debugger) => Reason::Attention,
                Some(_) => return true,
                // Without a line, one that nobody here has sent is somebody else's. Of two that were sent, to ask where this CPU
                // is and to stop it, the first may have done for both: the second comes when all go on.
                None => return was_stopped || is_awaited,
            }
        }
        DebugEvent::Breakpoint => match slot.own_stop.swap(0, Ordering::SeqCst) {
            own if own == Own::Watchdog as u8 => Reason::Watchdog,
            own if own == Own::Message as u8 => Reason::Message,
            own if own == Own::Person as u8 => Reason::Person,
            _ => Reason::Breakpoint,
        },
        DebugEvent::Trap { stepped: _, hit } if *hit != 0 => Reason::Hardware(hit.trailing_zeros() as usize),
        DebugEvent::Trap { .. } => Reason::Stepped,
        DebugEvent::Fault(_)
            if !debugger.is_some_and(Debugger::takes_faults) && !slot.is_stepping.load(Ordering::Relaxed) =>
        {
            return false;
        }
        DebugEvent::Fault(fault) => {
            Reason::Fault { is_access: matches!(fault.kind, arch_contract::fault::FaultKind::Page { .. }) }
        }
    };
    if is_stale(slot, reason, registers) {
        return true;
    }
    let is_at_breakpoint = reason == Reason::Breakpoint && breakpoints::before_breakpoint(registers);
    let Some(visitor) = visitor_of(reason, is_at_breakpoint) else { return false };
    while HOST.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        // Another one was first.
        let goes_on_as_before = wait_for_order(slot, registers);
        let comes_again = match reason {
            // The instruction is executed again.
            Reason::Breakpoint => is_at_breakpoint,
            // A step that was done is no longer wanted, unless nobody has decided anew.
            Reason::Stepped => !goes_on_as_before,
            // What came on the line may have been for the other one too; or it came when that one had looked for the last time.
            Reason::Attention => !debugger.is_some_and(look),
            Reason::Hardware(index) => breakpoints::is_free(index),
            Reason::Fault { .. } | Reason::Watchdog | Reason::Message | Reason::Person => false,
        };
        if comes_again {
            return true;
        }
    }
    host(visitor, slot, reason, registers, started_at);
    // A fault that was looked at is still one, unless the code goes on elsewhere.
    match event {
        DebugEvent::Fault(fault) => registers.instruction_pointer != fault.registers.instruction_pointer,
        _ => true,
    }
}

/// True for what the CPU came to before it was stopped for another reason, if the debugger has meanwhile taken it away. An NMI can
/// come in between, on the first instructions of the exception's handler.
fn is_stale(slot: &Slot, reason: Reason, registers: &mut Registers) -> bool {
    match reason {
        Reason::Breakpoint => breakpoints::before_gone(registers),
        Reason::Hardware(index) => breakpoints::is_free(index),
        Reason::Stepped => {
            slot.stopped_in_step.store(false, Ordering::Relaxed);
            !slot.is_stepping.swap(false, Ordering::Relaxed)
        }
        Reason::Attention | Reason::Watchdog | Reason::Message | Reason::Person | Reason::Fault { .. } => false,
    }
}

/// Lets the debugger look at its line: true if it wants a stop. What comes when another CPU has just looked must be seen.
fn look(debugger: &dyn Debugger) -> bool {
    attend(|| debugger.attention())
}

/// One CPU at a time attends to the debugger: also one that has not stopped in time must not take bytes from a host.
fn attend<T>(work: impl FnOnce() -> T) -> T {
    static ATTENDED: AtomicBool = AtomicBool::new(false);
    // After a crash others may have stopped for good in here.
    while ATTENDED.swap(true, Ordering::SeqCst) && !state::has_crashed() {
        Machine::spin_hint();
    }
    let result = work();
    ATTENDED.store(false, Ordering::SeqCst);
    result
}

/// Fills this CPU's slot.
fn describe(slot: &Slot, registers: &Registers) {
    slot.thread.store(Machine::current(), Ordering::Relaxed);
    // SAFETY: this CPU's slot, which nobody reads before it counts as stopped; the area was allocated for it.
    unsafe {
        *slot.registers.get() = *registers;
        *slot.system.get() = Machine::system_registers();
        let vectors = slot.vectors.load(Ordering::Relaxed);
        if !vectors.is_null() {
            Machine::save_vectors(vectors);
        }
    }
}

/// Stops until there is an order, and does what that says; true if the one before still holds.
fn wait_for_order(slot: &Slot, registers: &mut Registers) -> bool {
    describe(slot, registers);
    Machine::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    let next_look = Cell::new(Deadline::after(LOOK_INTERVAL));
    let rest = || {
        if !is_stopped() && slot.rendezvous.is_held() && cpu::this_index() == LISTENER {
            if next_look.get().has_passed() {
                pass_on_attention();
                next_look.set(Deadline::after(LOOK_INTERVAL));
            }
            Machine::spin_hint();
        } else {
            Machine::wait_for_attention();
        }
    };
    let steps = slot.rendezvous.wait(is_stopped, rest);
    go_on(slot, registers, steps)
}

/// What comes on the line interrupts one CPU. If the debugger keeps that one stopped while others run, it is not interrupted any more,
/// most often being in the handler of an NMI; so it looks, and makes those that run look.
fn pass_on_attention() {
    if debugger().is_some_and(look) {
        // This one may just have been told to run, alone.
        SLOTS[LISTENER].was_called.store(true, Ordering::SeqCst);
        Machine::debug_stop_others();
    }
}

/// Takes over what the debugger has made of this CPU's registers, and its breakpoints; true if the order before still holds.
fn go_on(slot: &Slot, registers: &mut Registers, steps: bool) -> bool {
    // SAFETY: the host has given its order and does not look any more.
    let changed = unsafe {
        Machine::restore_vectors(slot.vectors.load(Ordering::Relaxed));
        *slot.registers.get()
    };
    *registers = changed;
    breakpoints::set_here();
    registers.flags = registers.flags & !TRAP_FLAG | RESUME_FLAG;
    let goes_on_as_before = slot.keeps_order.swap(false, Ordering::Relaxed);
    if !goes_on_as_before {
        slot.is_stepping.store(steps, Ordering::Relaxed);
    }
    if steps {
        step::begin(slot, registers);
    }
    goes_on_as_before
}

/// This CPU runs the debugger.
fn host(visitor: Visitor, slot: &Slot, reason: Reason, registers: &mut Registers, started_at: u64) {
    Machine::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    Machine::debug_line_watch(false);
    interrupt_others();
    describe(slot, registers);
    let here = cpu::this().index;
    let others = || cpu::all().filter(|cpu| cpu.index != here);
    let all_stopped = spin_until(STOP_LIMIT, || others().all(|cpu| SLOTS[cpu.index].rendezvous.is_stopped()));
    STOPS.fetch_add(1, Ordering::Relaxed);
    LAST_STOP_CYCLES.store(Machine::cycles().wrapping_sub(started_at), Ordering::Relaxed);
    let mut stop = Stop { reason, host: here, all_stopped, orders: [Order::Run; MAX_CPUS], goes_on_as_before: false };
    on_own_stack(&mut Visit { visitor, stop: &mut stop });
    let orders = if stop.goes_on_as_before { last_orders() } else { stop.orders };
    // Also to a CPU that does not count as started yet.
    for (slot, order) in SLOTS.iter().zip(orders) {
        slot.rendezvous.give(order);
    }
    Machine::debug_line_watch(true);
    HOST.store(NO_CPU, Ordering::SeqCst);
    // Also one that does not count as started yet.
    if SLOTS.iter().any(|slot| slot.rendezvous.may_halt()) {
        interrupt_others();
    }
    match orders[here] {
        Order::Stay => wait_for_order(slot, registers),
        order => go_on(slot, registers, order == Order::Step),
    };
}

/// Makes all other CPUs look why.
fn interrupt_others() {
    cpu::all().filter(|cpu| !cpu.is_this()).for_each(|cpu| SLOTS[cpu.index].await_one_more());
    Machine::debug_stop_others();
}

/// What all CPUs were doing when they stopped.
fn last_orders() -> [Order; MAX_CPUS] {
    core::array::from_fn(|cpu| {
        let slot = &SLOTS[cpu];
        match (slot.rendezvous.is_held(), slot.stopped_in_step.load(Ordering::Relaxed)) {
            (true, _) => Order::Stay,
            (false, is_step) => {
                let is_here = cpu == HOST.load(Ordering::Relaxed);
                slot.keeps_order.store(is_here || slot.rendezvous.is_stopped(), Ordering::Relaxed);
                if is_step { Order::Step } else { Order::Run }
            }
        }
    })
}

/// Calls `function` on the stopped machine: this CPU has crashed, and others that answer have stopped for good. Not if the debugger
/// has crashed.
pub(crate) fn with_crashed(registers: &Registers, function: impl FnOnce()) {
    let here = cpu::this().index;
    if !IS_READY.load(Ordering::Acquire)
        || HOST.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst).is_err()
    {
        return;
    }
    describe(&SLOTS[here], registers);
    function();
    HOST.store(NO_CPU, Ordering::SeqCst);
}

/// The post-mortem prompt, if there is one: this CPU has crashed, and others that answer have stopped for good.
pub(crate) fn after_crash(registers: &Registers, is_access: bool) {
    let Some(post_mortem) = post_mortem() else { return };
    let here = cpu::this().index;
    if HOST.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        // It was the debugger that crashed.
        return;
    }
    Machine::debug_line_watch(false);
    describe(&SLOTS[here], registers);
    let all_stopped = cpu::all().all(|cpu| cpu.index == here || SLOTS[cpu.index].rendezvous.is_stopped());
    let reason = Reason::Fault { is_access };
    let mut stop = Stop { reason, host: here, all_stopped, orders: [Order::Stay; MAX_CPUS], goes_on_as_before: false };
    on_own_stack(&mut Visit { visitor: Visitor::PostMortem(post_mortem), stop: &mut stop });
}

/// Another CPU has crashed, this one stops for good.
pub(crate) fn stop_for_good(registers: &Registers) -> ! {
    let slot = &SLOTS[cpu::this().index];
    // One that was stopped before has been interrupted where it waits, which is of no interest.
    if !slot.rendezvous.is_stopped() {
        describe(slot, registers);
    }
    slot.rendezvous.stop_for_good();
    Machine::halt_forever()
}

/// Registers of a CPU that is stopped.
pub(crate) fn stopped_registers(cpu: usize) -> Option<&'static Registers> {
    let slot = SLOTS.get(cpu)?;
    let is_there = HOST.load(Ordering::Relaxed) == cpu || slot.rendezvous.is_stopped();
    // SAFETY: written before it stopped, and by the host, which is the caller.
    is_there.then(|| unsafe { &*slot.registers.get() })
}

/// The thread that runs on a CPU that is stopped.
pub(crate) fn stopped_thread(cpu: usize) -> Option<&'static crate::thread::Thread> {
    stopped_registers(cpu)?;
    // SAFETY: noted by the CPU, where the thread still is; threads' memory is never given back while they run.
    unsafe { (SLOTS[cpu].thread.load(Ordering::Relaxed) as *const crate::thread::Thread).as_ref() }
}

/// What the debugger's stack is given.
struct Visit<'a> {
    visitor: Visitor,
    stop: &'a mut Stop,
}

/// A context to come back to.
struct Way<'a, 'b> {
    back: <Machine as Architecture>::Context,
    visit: &'a mut Visit<'b>,
}

fn on_own_stack(visit: &mut Visit<'_>) {
    extern "C" fn run(way: usize) -> ! {
        // SAFETY: the way of the suspended flow below, which waits.
        let way = unsafe { &mut *(way as *mut Way<'_, '_>) };
        match way.visit.visitor {
            Visitor::Debugger(debugger) => attend(|| debugger.stopped(way.visit.stop)),
            Visitor::PostMortem(post_mortem) => post_mortem(way.visit.stop),
        }
        // SAFETY: suspended by `switch_through`, resumed once.
        unsafe { Machine::resume(&raw const way.back) }
    }
    let mut way = Way { back: Default::default(), visit };
    let at = &raw mut way;
    // SAFETY: the debugger's stack is used by the host only; `run` comes back here.
    unsafe { Machine::switch_through(&raw mut (*at).back, STACK_TOP.load(Ordering::Relaxed), run, at as usize) };
}

/// Time from the event to all CPUs stopped, of the last stop, in cycles.
pub fn last_stop_cycles() -> u64 {
    LAST_STOP_CYCLES.load(Ordering::Relaxed)
}
