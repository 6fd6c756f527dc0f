//! Stopping all CPUs for a debugger, and resuming them.
//!
//! A CPU that hits a breakpoint, or is told of input on the debugger's line, becomes the *host*: it
//! stops all other CPUs by NMI, whatever they are doing, and runs the debugger on a stack of its
//! own with interrupts off. The other CPUs wait where they are, with their registers in their
//! slots, until the host has given each an order. After a crash or a report of the watchdog the
//! host runs the post-mortem prompt instead. Apart from `init`, nothing here takes a lock or
//! allocates, because a stopped CPU may hold any lock and be halfway through an allocation.

mod breakpoints;
mod rendezvous;
mod step;
mod stop;

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::MAX_CPUS;
use arch_contract::debug::{DebugEvent, HARDWARE_BREAKPOINTS, SystemRegisters};
use arch_contract::fault::Registers;

use crate::arch::*;
use crate::capability::StopAllCpus;
use crate::cpu;
use crate::crash::fault_text::FaultText;
use crate::crash::state;
use crate::hybrid;
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

/// Size of the debugger's stack, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// Time the other CPUs have to stop. A CPU that is late is left out, so that a dead CPU does not
/// keep the debugger from the others.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Alignment of a saved vector state, in bytes. XSAVE demands it.
const VECTOR_ALIGN: usize = 64;

/// The CPU that input on the line interrupts, and the interval at which it polls the line while it
/// is kept stopped. The interval is shorter than a byte takes at 115,200 baud, and long enough for
/// an emulated device to receive in between.
const LISTENER: usize = 0;
const LOOK_INTERVAL: Duration = Duration::from_micros(20);
/// Time for which a stopped CPU spins before it halts: most stops are shorter, and end sooner for a
/// CPU that need not be woken.
const SPIN_LIMIT: Duration = Duration::from_millis(200);

const NO_CPU: usize = usize::MAX;

/// A debugger on the other end of the debugger's line.
pub trait Debugger: Sync {
    /// Reads the input on the line while the CPUs run. Returns true if they must stop. May be
    /// called on any CPU, but not on two at once.
    fn attention(&self) -> bool;
    /// Returns whether the debugger claims faults, which it does while it is attached.
    fn takes_faults(&self) -> bool;
    /// Works on the stopped machine. Returns when the CPUs are to continue as ordered.
    fn stopped(&self, stop: &mut Stop);
}

/// Why the host stopped all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Input arrived on the line.
    Attention,
    /// A breakpoint instruction. The instruction pointer is at it if the debugger planted it, else
    /// past it.
    Breakpoint,
    /// A single step is complete.
    Stepped,
    /// A hardware breakpoint, by its index.
    Hardware(usize),
    /// The watchdog has reported something.
    Watchdog,
    /// The debugger has a message for its user; all CPUs continue afterwards.
    Message,
    /// A person at the console asked for a stop.
    Person,
    /// A fault.
    Fault {
        /// True for a forbidden memory access, for which the debugger has a signal of its own.
        is_access: bool,
    },
}

/// A CPU's state while it is stopped.
struct Slot {
    registers: UnsafeCell<Registers>,
    system: UnsafeCell<SystemRegisters>,
    /// Floating-point and vector state, in an area of the machine's layout; null before [`init`].
    vectors: AtomicPtr<u8>,
    /// Address of the thread the CPU runs.
    thread: AtomicUsize,
    /// The CPU's meeting point with the hosts: whether it is stopped, and its order.
    rendezvous: Rendezvous,
    /// Set while the CPU is in this module's code.
    is_inside: AtomicBool,
    /// Purpose of the next breakpoint on the CPU: 0, or the number of an [`Own`] for one of the
    /// kernel's.
    own_stop: AtomicU8,
    /// NMIs that hosts have sent and that have not arrived. An NMI without another cause may be one
    /// of these. At most two, because more arrive as two.
    awaited: AtomicU8,
    /// Set by an NMI that found the CPU in this module's code.
    was_called: AtomicBool,
    /// The CPU was told to execute one instruction. Once it is cleared, a trap that still arrives
    /// for the step is ignored.
    is_stepping: AtomicBool,
    /// Interrupts are off only for a step and were on before.
    masked_for_step: AtomicBool,
    /// The CPU stopped before it executed the instruction of its step.
    stopped_in_step: AtomicBool,
    /// The CPU has carried out an order during the event at hand.
    took_order: AtomicBool,
    /// The CPU continues under its last order; an unfinished step is still one.
    keeps_order: AtomicBool,
}

impl Slot {
    /// Counts an NMI that is about to be sent to this CPU. A CPU has at most one NMI in its handler
    /// and one pending (SDM Vol. 3A, 6.7.1).
    fn await_one_more(&self) {
        let one_more = |awaited: u8| Some(2.min(awaited + 1));
        let _ = self.awaited.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
    }

    /// Counts an NMI that has arrived. Returns true if a host may have sent it.
    fn take_awaited(&self) -> bool {
        let one_less = |awaited: u8| awaited.checked_sub(1);
        self.awaited.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

// SAFETY: the cells are written by their CPU before it counts as stopped, and by the host while it
// is stopped.
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
        took_order: AtomicBool::new(false),
        keeps_order: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// The CPU that runs the debugger.
static HOST: AtomicUsize = AtomicUsize::new(NO_CPU);
/// Number of times all CPUs were stopped.
static STOPS: AtomicU64 = AtomicU64::new(0);
/// Cycles from the event to all CPUs stopped, at the last stop.
static LAST_STOP_CYCLES: AtomicU64 = AtomicU64::new(0);
static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

struct Installed(UnsafeCell<Option<&'static dyn Debugger>>);

// SAFETY: the cell is written once, by the boot CPU alone, before `IS_INSTALLED` is set, and read
// only after.
unsafe impl Sync for Installed {}

static INSTALLED: Installed = Installed(UnsafeCell::new(None));
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// A prompt for a person on a stopped machine. Returns when the machine is to continue, which it
/// cannot after a crash.
pub type PostMortem = fn(&mut Stop);

struct PostMortemPrompt(UnsafeCell<Option<PostMortem>>);

// SAFETY: the cell is written once, by the boot CPU alone, before `IS_READY` is set, and read only
// after.
unsafe impl Sync for PostMortemPrompt {}

static POST_MORTEM: PostMortemPrompt = PostMortemPrompt(UnsafeCell::new(None));
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Allocates everything that stopping needs, and sets the post-mortem prompt. Called once, by the
/// boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`]; the kernel then runs without debugging.
pub(crate) fn init(post_mortem: PostMortem) -> Result<(), OutOfMemory> {
    // Not only for the CPUs that run: any other one may be stopped as soon as it starts.
    (0..crate::boot::information().cpus.len()).try_for_each(prepare_for)?;
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    sandbox::init()?;
    // SAFETY: the boot CPU alone calls this, once, and no CPU reads the cell before `IS_READY` is
    // set.
    unsafe { *POST_MORTEM.0.get() = Some(post_mortem) };
    IS_READY.store(true, Ordering::Release);
    Ok(())
}

/// Installs a debugger. Returns false if there is no line to one, or if `init` failed.
///
/// # Safety
/// Called once, by the boot CPU, before other CPUs start, so that no CPU looks for a debugger
/// meanwhile. The debugger changes memory and registers at its user's command.
pub unsafe fn install(debugger: &'static dyn Debugger) -> bool {
    if !IS_READY.load(Ordering::Acquire) || !DebugLine::init() {
        return false;
    }
    // SAFETY: the caller guarantees that only the boot CPU runs, and no CPU reads the cell before
    // `IS_INSTALLED` is set.
    unsafe { *INSTALLED.0.get() = Some(debugger) };
    IS_INSTALLED.store(true, Ordering::Release);
    // Last, because input may raise an NMI at once, and its handler asks for the debugger.
    DebugLine::watch(true);
    true
}

/// Allocates what stopping a CPU needs. Called once for each CPU, before it starts.
///
/// # Errors
/// [`OutOfMemory`].
pub(crate) fn prepare_for(cpu: usize) -> Result<(), OutOfMemory> {
    let layout =
        core::alloc::Layout::from_size_align(Vectors::layout().size.max(1), VECTOR_ALIGN).map_err(|_| OutOfMemory)?;
    let area = memory::allocate(layout, memory::Placement::Near)?;
    SLOTS[cpu].vectors.store(area.as_ptr(), Ordering::Relaxed);
    Ok(())
}

fn post_mortem() -> Option<PostMortem> {
    // SAFETY: once `IS_READY` is set, nothing writes the cell any more.
    IS_READY.load(Ordering::Acquire).then(|| unsafe { *POST_MORTEM.0.get() }).flatten()
}

fn debugger() -> Option<&'static dyn Debugger> {
    // SAFETY: once `IS_INSTALLED` is set, nothing writes the cell any more.
    IS_INSTALLED.load(Ordering::Acquire).then(|| unsafe { *INSTALLED.0.get() }).flatten()
}

/// Returns whether a debugger is installed on a line.
pub fn is_installed() -> bool {
    IS_INSTALLED.load(Ordering::Acquire)
}

/// Returns whether all CPUs are stopped. Stopped CPUs may hold locks that they cannot release.
pub fn is_stopped() -> bool {
    // Ordered after the host's orders: a CPU that sees the host gone also sees that it is to stay.
    HOST.load(Ordering::SeqCst) != NO_CPU
}

/// Returns how often all CPUs were stopped, so that a waiter can tell lost time from lateness.
pub fn stops() -> u64 {
    STOPS.load(Ordering::Relaxed)
}

/// Stops all CPUs here for a debugger. Returns false if there is no line to one.
pub fn break_here(_: &StopAllCpus) -> bool {
    let is_installed = is_installed();
    if is_installed {
        Debug::breakpoint();
    }
    is_installed
}

/// Lets an attached debugger see a crash before it is reported.
pub(crate) fn before_crash() {
    // On a stopped machine it is the host that panics: a breakpoint inside this module is claimed
    // by no debugger and would be reported in place of the panic.
    if debugger().is_some_and(Debugger::takes_faults) && !is_stopped() {
        Debug::breakpoint();
    }
}

/// Stops all CPUs after a report of the watchdog: for the debugger if one is attached, else for the
/// post-mortem prompt.
pub(crate) fn stop_for_watchdog() {
    stop_for(Own::Watchdog);
}

/// Stops all CPUs here for a person at the console. Returns false if no person can be there or
/// stopping is not possible.
pub fn break_for_person(_: &StopAllCpus) -> bool {
    let is_possible = IS_READY.load(Ordering::Acquire) && state::halts_after_crash();
    if is_possible {
        stop_for(Own::Person);
    }
    is_possible
}

/// Stops all CPUs for a moment in which the debugger can send a message to its user. Does nothing
/// without a debugger.
pub fn stop_for_message(_: &StopAllCpus) {
    if is_installed() {
        stop_for(Own::Message);
    }
}

/// Purposes of the kernel's own breakpoints.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Own {
    Watchdog = 1,
    Message = 2,
    Person = 3,
}

fn stop_for(own: Own) {
    if IS_READY.load(Ordering::Acquire) {
        // The breakpoint must hit on the CPU whose slot is marked, with no interrupt in between.
        let _guard = InterruptGuard::new();
        SLOTS[cpu::this().index].own_stop.store(own as u8, Ordering::SeqCst);
        Debug::breakpoint();
    }
}

/// Handles a debug event on this CPU; the arch crate calls this. `registers` are the interrupted
/// context; edits take effect on resume. Returns false if no debugger claims the event.
pub(crate) fn event(event: &DebugEvent<'_>, registers: &mut Registers) -> bool {
    // The sandbox comes first, because it also runs after a crash and on a host, where every fault
    // is refused below.
    if let DebugEvent::Fault(fault) = event
        && sandbox::end_by_fault(fault, format_args!("{}", FaultText(fault)), registers)
    {
        return true;
    }
    // A CPU that starts can fault before it has data. After a crash no CPU can go on from a stop: a
    // further event there is part of the crash.
    if !IS_READY.load(Ordering::Acquire) || Core::local() == 0 || state::has_crashed() {
        return false;
    }
    let slot = &SLOTS[cpu::this().index];
    // Counted off once for each NMI: a second time would take the count of one still on its way.
    let is_awaited = matches!(event, DebugEvent::Attention) && slot.take_awaited();
    if slot.is_inside.swap(true, Ordering::SeqCst) {
        // An NMI found the CPU in this module. A waiting CPU is woken by it; one that is stopping
        // or leaving handles it in the loop below before it leaves. No other event is claimed here.
        slot.was_called.store(true, Ordering::SeqCst);
        return matches!(event, DebugEvent::Attention);
    }
    // Before the registers are shown or kept: the debugger must not see the flags of its own step.
    let was_in_step = step::finish(slot, registers);
    slot.stopped_in_step.store(was_in_step, Ordering::Relaxed);
    slot.took_order.store(false, Ordering::Relaxed);
    let taken = handle(slot, event, registers, is_awaited);
    loop {
        // The flag is cleared before the look: an NMI that comes between the two finds the CPU
        // outside and is handled on its own.
        slot.is_inside.store(false, Ordering::SeqCst);
        if !slot.was_called.swap(false, Ordering::SeqCst) {
            // An NMI that stops nothing, such as the one that woke this CPU for its step, must not
            // end the step.
            if was_in_step && matches!(event, DebugEvent::Attention) && !slot.took_order.load(Ordering::Relaxed) {
                step::begin(slot, registers);
            }
            return taken;
        }
        slot.is_inside.store(true, Ordering::SeqCst);
        handle(slot, &DebugEvent::Attention, registers, true);
    }
}

/// The code the host runs on the stopped machine.
#[derive(Clone, Copy)]
enum Visitor {
    Debugger(&'static dyn Debugger),
    PostMortem(PostMortem),
}

/// Handles an event of a CPU that is not inside this module yet. A fault is refused at once unless
/// a debugger is attached or the CPU steps, because `panic::fault` ends only the program whose
/// fault it is. A stale event is told from a new one before the instruction pointer is moved back
/// to a breakpoint, because both look at the place before it. A CPU that is not the first to become
/// the host stops like any other, and afterwards examines its own event again, of which no debugger
/// knows yet. `is_awaited` is true for an NMI that a host may have sent.
fn handle(slot: &Slot, event: &DebugEvent<'_>, registers: &mut Registers, is_awaited: bool) -> bool {
    let debugger = debugger();
    let visitor_of = |reason: Reason, is_planted: bool| {
        let is_prompts = match reason {
            Reason::Person => true,
            // If no debugger is attached, planted breakpoints and steps belong to the prompt.
            Reason::Breakpoint => is_planted && !debugger.is_some_and(Debugger::takes_faults),
            Reason::Watchdog | Reason::Stepped | Reason::Fault { .. } => !debugger.is_some_and(Debugger::takes_faults),
            _ => false,
        };
        if is_prompts { post_mortem().map(Visitor::PostMortem) } else { debugger.map(Visitor::Debugger) }
    };
    let started_at = Core::cycles();
    let here = cpu::this().index;
    let reason = match event {
        DebugEvent::Attention => {
            let was_stopped = is_stopped();
            if was_stopped {
                wait_for_order(slot, registers);
            }
            // Also after the wait: the same NMI may have come for input on the line.
            match debugger {
                Some(debugger) if look(debugger) => Reason::Attention,
                Some(_) => return true,
                // Without a line, an NMI that no host sent has another source and is not claimed.
                // If a CPU was sent one NMI to sample it and one to stop it, the first may have
                // served for both, and the second arrives when all CPUs go on.
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
        // Another CPU became the host first.
        let goes_on_as_before = wait_for_order(slot, registers);
        let comes_again = match reason {
            // The breakpoint instruction is executed again.
            Reason::Breakpoint => is_at_breakpoint,
            // New orders supersede a completed step. If the previous orders still hold, it is
            // reported.
            Reason::Stepped => !goes_on_as_before,
            // The other host may have handled this input too, or it arrived after that host's last
            // look.
            Reason::Attention => !debugger.is_some_and(look),
            Reason::Hardware(index) => breakpoints::is_free(index),
            Reason::Fault { .. } | Reason::Watchdog | Reason::Message | Reason::Person => false,
        };
        if comes_again {
            return true;
        }
    }
    host(visitor, slot, reason, registers, started_at);
    // A fault remains one after the debugger looked at it, unless the code continues elsewhere.
    match event {
        DebugEvent::Fault(fault) => registers.instruction_pointer != fault.registers.instruction_pointer,
        _ => true,
    }
}

/// Returns whether the cause of the event is gone: the CPU met it, was stopped for another reason
/// before it could report it, and the debugger has removed it meanwhile. An NMI can come in
/// between, on the first instructions of the exception's handler.
fn is_stale(slot: &Slot, reason: Reason, registers: &mut Registers) -> bool {
    match reason {
        Reason::Breakpoint => breakpoints::before_gone(registers),
        Reason::Hardware(index) => breakpoints::is_free(index),
        Reason::Stepped => {
            // The step is complete, so going on as before must not repeat it. An order to run,
            // given since, has cleared the other flag: the step is then no longer wanted.
            slot.stopped_in_step.store(false, Ordering::Relaxed);
            !slot.is_stepping.swap(false, Ordering::Relaxed)
        }
        Reason::Attention | Reason::Watchdog | Reason::Message | Reason::Person | Reason::Fault { .. } => false,
    }
}

/// Lets the debugger look at its line. Returns whether it wants a stop. Waits for a CPU that is
/// already looking, because input may arrive right after that CPU's look.
fn look(debugger: &dyn Debugger) -> bool {
    attend(|| debugger.attention())
}

/// Runs `work` on one CPU at a time. A CPU that has not stopped in time must not take bytes of the
/// line from the host either.
fn attend<T>(work: impl FnOnce() -> T) -> T {
    static ATTENDED: AtomicBool = AtomicBool::new(false);
    // After a crash, another CPU may have stopped for good inside.
    while ATTENDED.swap(true, Ordering::SeqCst) && !state::has_crashed() {
        Core::spin_hint();
    }
    let result = work();
    ATTENDED.store(false, Ordering::SeqCst);
    result
}

/// Fills this CPU's slot with its state.
fn describe(slot: &Slot, registers: &Registers) {
    slot.thread.store(Core::current(), Ordering::Relaxed);
    // SAFETY: the slot is this CPU's, and no host reads it before the CPU counts as stopped; the
    // area was allocated with the layout of the vector state.
    unsafe {
        *slot.registers.get() = *registers;
        *slot.system.get() = Debug::system_registers();
        // The kernel has no code that uses vector registers, so they still are the interrupted
        // code's. The area is missing only in a crash before `init`.
        let vectors = slot.vectors.load(Ordering::Relaxed);
        if !vectors.is_null() {
            Vectors::save(vectors);
        }
    }
}

/// Stops until there is an order, and carries it out. Returns whether the previous order still
/// holds.
fn wait_for_order(slot: &Slot, registers: &mut Registers) -> bool {
    describe(slot, registers);
    // This CPU goes on executing this module's code, where a breakpoint would be taken for a fault.
    Debug::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    let next_look = Cell::new(Deadline::after(LOOK_INTERVAL));
    let spins_until = Deadline::after(SPIN_LIMIT);
    let rest = || {
        // While there is a host, that CPU alone reads the line.
        if !is_stopped() && slot.rendezvous.is_held() && cpu::this_index() == LISTENER {
            if next_look.get().has_passed() {
                pass_on_attention();
                next_look.set(Deadline::after(LOOK_INTERVAL));
            }
            Core::spin_hint();
        } else if spins_until.has_passed() {
            Debug::wait_for_attention();
        } else {
            Core::spin_hint();
        }
    };
    let steps = slot.rendezvous.wait(is_stopped, rest);
    go_on(slot, registers, steps)
}

/// Looks at the line on the listener and makes the running CPUs look. Input on the line interrupts
/// only the listener. If the debugger keeps that CPU stopped while others run, the input does not
/// interrupt it any more, mostly because it is in an NMI handler.
fn pass_on_attention() {
    if debugger().is_some_and(look) {
        // The listener may just have been told to run, alone, and must then handle the input
        // itself.
        SLOTS[LISTENER].was_called.store(true, Ordering::SeqCst);
        // Not counted as awaited: where there is a debugger, no NMI is reported as one from
        // outside.
        Debug::stop_others();
    }
}

/// Applies the registers and breakpoints that the debugger has set for this CPU. Returns whether
/// the previous order still holds.
fn go_on(slot: &Slot, registers: &mut Registers, steps: bool) -> bool {
    take_changes(slot, registers);
    slot.took_order.store(true, Ordering::Relaxed);
    breakpoints::set_here();
    Debug::resume(registers);
    let goes_on_as_before = slot.keeps_order.swap(false, Ordering::Relaxed);
    // Otherwise a step whose trap is still to be handled stays one, although its order is to run.
    if !goes_on_as_before {
        slot.is_stepping.store(steps, Ordering::Relaxed);
    }
    if steps {
        step::begin(slot, registers);
    }
    goes_on_as_before
}

/// Takes the registers and the vector state that the debugger has set for this CPU.
fn take_changes(slot: &Slot, registers: &mut Registers) {
    // SAFETY: the host has given its order and no longer accesses the slot; `describe` has filled
    // the vector state.
    let changed = unsafe {
        Vectors::restore(slot.vectors.load(Ordering::Relaxed));
        *slot.registers.get()
    };
    *registers = changed;
}

/// Runs this CPU as the host: stops the other CPUs, runs the visitor, and gives all CPUs their
/// orders.
fn host(visitor: Visitor, slot: &Slot, reason: Reason, registers: &mut Registers, started_at: u64) {
    // The debugger reads and writes watched memory and runs code that may hold a breakpoint, and
    // inside this module neither can be reported.
    Debug::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    // The host polls the line, so further NMIs for it would only disturb CPU 0.
    DebugLine::watch(false);
    // Before this CPU describes itself, so that the others stop in the meantime.
    interrupt_others();
    describe(slot, registers);
    let here = cpu::this().index;
    let others = || hybrid::running_cpus().filter(|cpu| cpu.index != here);
    let all_stopped = spin_until(STOP_LIMIT, || others().all(|cpu| SLOTS[cpu.index].rendezvous.is_stopped()));
    STOPS.fetch_add(1, Ordering::Relaxed);
    LAST_STOP_CYCLES.store(Core::cycles().wrapping_sub(started_at), Ordering::Relaxed);
    let mut stop = Stop { reason, host: here, all_stopped, orders: [Order::Run; MAX_CPUS], goes_on_as_before: false };
    on_own_stack(&mut Visit { visitor, stop: &mut stop });
    let orders = if stop.goes_on_as_before { last_orders() } else { stop.orders };
    // All slots, because a CPU that is not published yet may have stopped, too.
    for (slot, order) in SLOTS.iter().zip(orders) {
        slot.rendezvous.give(order);
    }
    // Before `HOST` is free, because the next host turns this off, and it must stay off for that
    // one.
    DebugLine::watch(true);
    HOST.store(NO_CPU, Ordering::SeqCst);
    // A CPU that is not published yet may wait, too. It is interrupted after `HOST` is cleared, so
    // that it finds its order or no host.
    if SLOTS.iter().any(|slot| slot.rendezvous.may_halt()) {
        interrupt_others();
    }
    match orders[here] {
        Order::Stay => {
            // The wait describes this CPU anew, with what the debugger has changed.
            take_changes(slot, registers);
            wait_for_order(slot, registers)
        }
        order => go_on(slot, registers, order == Order::Step),
    };
}

/// Sends an NMI to all other CPUs, which then look for its cause.
fn interrupt_others() {
    // Counted first, because an NMI may arrive before this function returns.
    // A CPU whose partner does not let it run takes it later.
    cpu::all_known().filter(|cpu| !cpu.is_this()).for_each(|cpu| SLOTS[cpu.index].await_one_more());
    Debug::stop_others();
}

/// Returns orders by which each CPU continues what it was doing when it stopped.
fn last_orders() -> [Order; MAX_CPUS] {
    core::array::from_fn(|cpu| {
        let slot = &SLOTS[cpu];
        match (slot.rendezvous.is_held(), slot.stopped_in_step.load(Ordering::Relaxed)) {
            (true, _) => Order::Stay,
            (false, is_step) => {
                let is_here = cpu == HOST.load(Ordering::Relaxed);
                // Only where an order is about to be taken: a flag left over would hold at the
                // CPU's next stop.
                slot.keeps_order.store(is_here || slot.rendezvous.is_stopped(), Ordering::Relaxed);
                if is_step { Order::Step } else { Order::Run }
            }
        }
    })
}

/// Calls `function` on the stopped machine. This CPU has crashed, and the others that answer have
/// stopped for good. Does nothing if the debugger itself crashed, or if `init` has not succeeded.
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

/// Runs the post-mortem prompt, if there is one. This CPU has crashed, and the others that answer
/// have stopped for good. The CPU stays the host, because nothing goes on after a crash.
pub(crate) fn after_crash(registers: &Registers, is_access: bool) {
    let Some(post_mortem) = post_mortem() else { return };
    let here = cpu::this().index;
    if HOST.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        // The debugger itself crashed.
        return;
    }
    DebugLine::watch(false);
    describe(&SLOTS[here], registers);
    let all_stopped = hybrid::running_cpus().all(|cpu| cpu.index == here || SLOTS[cpu.index].rendezvous.is_stopped());
    let reason = Reason::Fault { is_access };
    let mut stop = Stop { reason, host: here, all_stopped, orders: [Order::Stay; MAX_CPUS], goes_on_as_before: false };
    on_own_stack(&mut Visit { visitor: Visitor::PostMortem(post_mortem), stop: &mut stop });
}

/// Stops this CPU for good, because another one has crashed.
pub(crate) fn stop_for_good(registers: &Registers) -> ! {
    let slot = &SLOTS[cpu::this().index];
    // A CPU that was already stopped was interrupted in its wait; its slot holds the state of
    // interest.
    if !slot.rendezvous.is_stopped() {
        describe(slot, registers);
    }
    slot.rendezvous.stop_for_good();
    Core::halt_forever()
}

/// Returns the registers of a stopped CPU; `None` if the CPU is not stopped.
pub(crate) fn stopped_registers(cpu: usize) -> Option<&'static Registers> {
    let slot = SLOTS.get(cpu)?;
    // The host has filled its slot without stopping, so its meeting point does not show it.
    let is_there = HOST.load(Ordering::Relaxed) == cpu || slot.rendezvous.is_stopped();
    // SAFETY: the CPU wrote them before it counted as stopped; from then on only the host writes
    // them, and the host is the caller.
    is_there.then(|| unsafe { &*slot.registers.get() })
}

/// Returns the thread that runs on a stopped CPU; `None` if the CPU is not stopped.
pub(crate) fn stopped_thread(cpu: usize) -> Option<&'static crate::thread::Thread> {
    stopped_registers(cpu)?;
    // SAFETY: the CPU stored its running thread, which is null or valid: a thread's memory is not
    // freed while the thread runs, and the CPU stays stopped.
    unsafe { (SLOTS[cpu].thread.load(Ordering::Relaxed) as *const crate::thread::Thread).as_ref() }
}

/// The argument of the code on the debugger's stack.
struct Visit<'a> {
    visitor: Visitor,
    stop: &'a mut Stop,
}

/// A visit, and the context to return to after it.
struct Way<'a, 'b> {
    back: Context,
    visit: &'a mut Visit<'b>,
}

fn on_own_stack(visit: &mut Visit<'_>) {
    extern "C" fn run(way: usize) -> ! {
        // SAFETY: `way` is a local of the control flow below, which stays suspended until the
        // resume at the end of this function.
        let way = unsafe { &mut *(way as *mut Way<'_, '_>) };
        match way.visit.visitor {
            Visitor::Debugger(debugger) => attend(|| debugger.stopped(way.visit.stop)),
            // Not inside `attend`, which does not nest: the prompt attends to the debugger itself.
            Visitor::PostMortem(post_mortem) => post_mortem(way.visit.stop),
        }
        // SAFETY: `switch_through` suspended this context on this CPU, and it is resumed only here,
        // once.
        unsafe { Contexts::resume(&raw const way.back) }
    }
    let mut way = Way { back: Default::default(), visit };
    let at = &raw mut way;
    // SAFETY: only the host uses the debugger's stack, and there is one host at a time; `run`
    // resumes this flow.
    unsafe { Contexts::switch_through(&raw mut (*at).back, STACK_TOP.load(Ordering::Relaxed), run, at as usize) };
}

/// Returns the cycles from the event to all CPUs stopped, for the last stop.
pub fn last_stop_cycles() -> u64 {
    LAST_STOP_CYCLES.load(Ordering::Relaxed)
}
