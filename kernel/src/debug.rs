//! Stopping all CPUs for a debugger, and letting them go on.
//!
//! A CPU that comes to a breakpoint, or that is told that something came on the debugger's line, becomes the *host*: it makes all
//! others stop by NMI, whatever they do, and runs the debugger on a stack of its own, interrupts off. The others wait where
//! they are, their registers in their slots, until the host has given each an order. Nothing here takes a lock or allocates, but
//! for [`install`].

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::MAX_CPUS;
use arch_contract::debug::{
    DebugEvent, Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint, RESUME_FLAG, SystemRegisters, TRAP_FLAG,
};
use arch_contract::fault::Registers;

use crate::arch::{Architecture, Machine};
use crate::cpu;
use crate::memory::stack::Stack;
use crate::memory::{self, OutOfMemory};
use crate::time::spin_until;

/// Stack the debugger runs on, in bytes.
const STACK_SIZE: usize = 64 * 1024;
/// How long the other CPUs may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// Alignment of a vector state, in bytes.
const VECTOR_ALIGN: usize = 64;

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
    /// A fault: whether it was an access to memory, for which the debugger has a signal of its own.
    Fault {
        /// An access that nothing allows.
        is_access: bool,
    },
}

/// What a stopped CPU shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Stay stopped.
    Stay = 0,
    /// Go on.
    Run = 1,
    /// Execute one instruction, interrupts off, and stop.
    Step = 2,
}

/// A CPU's state while it is stopped.
struct Slot {
    registers: UnsafeCell<Registers>,
    system: UnsafeCell<SystemRegisters>,
    /// Its floating-point and vector state, in an area of the machine's layout; null before [`install`].
    vectors: AtomicPtr<u8>,
    /// The thread it runs.
    thread: AtomicUsize,
    /// True while it is stopped.
    is_stopped: AtomicBool,
    /// See [`Order`].
    order: AtomicU8,
    /// The host wants it to stay stopped when all others go on.
    is_held: AtomicBool,
    /// Set on a CPU that is in this module's code.
    is_inside: AtomicBool,
    /// Set by an NMI that found the CPU there.
    was_called: AtomicBool,
    /// Interrupts are off for a step and were on before.
    masked_for_step: AtomicBool,
}

// SAFETY: the cells are written by their CPU before it is stopped and by the host while it is.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        registers: UnsafeCell::new(Registers::zero()),
        system: UnsafeCell::new(SystemRegisters::zero()),
        vectors: AtomicPtr::new(core::ptr::null_mut()),
        thread: AtomicUsize::new(0),
        is_stopped: AtomicBool::new(false),
        order: AtomicU8::new(Order::Stay as u8),
        is_held: AtomicBool::new(false),
        is_inside: AtomicBool::new(false),
        was_called: AtomicBool::new(false),
        masked_for_step: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// The CPU that runs the debugger.
static HOST: AtomicUsize = AtomicUsize::new(NO_CPU);
/// Times all CPUs were stopped.
static STOPS: AtomicU64 = AtomicU64::new(0);
/// Cycles from the event to all stopped, of the last stop.
static LAST_STOP_CYCLES: AtomicU64 = AtomicU64::new(0);
static STACK_TOP: AtomicUsize = AtomicUsize::new(0);

/// Written by the host only.
struct Breakpoints(UnsafeCell<[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]>);

// SAFETY: the host writes while all others are stopped; they read when they go on.
unsafe impl Sync for Breakpoints {}

static BREAKPOINTS: Breakpoints = Breakpoints(UnsafeCell::new([None; HARDWARE_BREAKPOINTS]));

struct Installed(UnsafeCell<Option<&'static dyn Debugger>>);

// SAFETY: written once, by the boot CPU alone, before `IS_INSTALLED`.
unsafe impl Sync for Installed {}

static INSTALLED: Installed = Installed(UnsafeCell::new(None));
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// Gives the kernel a debugger, if there is a line to one; false if not. Once, by the boot CPU, before other CPUs start.
///
/// # Errors
/// [`OutOfMemory`]; the kernel goes on without.
pub fn install(debugger: &'static dyn Debugger) -> Result<bool, OutOfMemory> {
    if !Machine::debug_line_init() {
        return Ok(false);
    }
    let layout = core::alloc::Layout::from_size_align(Machine::vector_layout().size.max(1), VECTOR_ALIGN)
        .map_err(|_| OutOfMemory)?;
    for slot in &SLOTS[..crate::start::boot_information().cpus.len()] {
        let area = memory::allocate(layout, memory::Placement::Near)?;
        slot.vectors.store(area.as_ptr(), Ordering::Relaxed);
    }
    STACK_TOP.store(Stack::new(STACK_SIZE)?.top(), Ordering::Relaxed);
    // SAFETY: see `Installed`.
    unsafe { *INSTALLED.0.get() = Some(debugger) };
    IS_INSTALLED.store(true, Ordering::Release);
    Machine::debug_line_watch(true);
    Ok(true)
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
    HOST.load(Ordering::Relaxed) != NO_CPU
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

/// This CPU turns to the debugger: the arch crate's callback.
pub(crate) fn event(event: &DebugEvent<'_>, registers: &mut Registers) -> bool {
    let Some(debugger) = debugger() else { return false };
    if Machine::local() == 0 || crate::panic::has_crashed() {
        return false;
    }
    let slot = &SLOTS[cpu::this().index];
    if slot.is_inside.swap(true, Ordering::SeqCst) {
        // An NMI on a CPU that stops or goes on by itself, which sees to it before it leaves.
        slot.was_called.store(true, Ordering::SeqCst);
        return matches!(event, DebugEvent::Attention);
    }
    finish_step(slot, registers);
    let taken = handle(debugger, slot, event, registers);
    loop {
        slot.is_inside.store(false, Ordering::SeqCst);
        if !slot.was_called.swap(false, Ordering::SeqCst) {
            return taken;
        }
        slot.is_inside.store(true, Ordering::SeqCst);
        handle(debugger, slot, &DebugEvent::Attention, registers);
    }
}

fn handle(debugger: &dyn Debugger, slot: &Slot, event: &DebugEvent<'_>, registers: &mut Registers) -> bool {
    let started_at = Machine::cycles();
    let here = cpu::this().index;
    let reason = match event {
        DebugEvent::Attention => {
            if is_stopped() {
                wait_for_order(slot, registers);
            }
            // Also after the wait: the same NMI may have come for a byte on the line.
            if !look(debugger) {
                return true;
            }
            Reason::Attention
        }
        DebugEvent::Breakpoint => Reason::Breakpoint,
        DebugEvent::Trap { stepped: _, hit } if *hit != 0 => Reason::Hardware(hit.trailing_zeros() as usize),
        DebugEvent::Trap { .. } => Reason::Stepped,
        DebugEvent::Fault(_) if !debugger.takes_faults() => return false,
        DebugEvent::Fault(fault) => {
            Reason::Fault { is_access: matches!(fault.kind, arch_contract::fault::FaultKind::Page { .. }) }
        }
    };
    let is_at_breakpoint = reason == Reason::Breakpoint && before_breakpoint(registers);
    while HOST.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        // Another one was first.
        wait_for_order(slot, registers);
        let comes_again = match reason {
            // The instruction is executed again.
            Reason::Breakpoint => is_at_breakpoint,
            // A step that was done is no longer wanted, and what came on the line was for the other one too.
            Reason::Stepped | Reason::Attention => true,
            // SAFETY: written by hosts only; none is there for this CPU any more.
            Reason::Hardware(index) => unsafe { (*BREAKPOINTS.0.get())[index] }.is_none(),
            Reason::Fault { .. } => false,
        };
        if comes_again {
            return true;
        }
    }
    host(debugger, slot, reason, registers, started_at);
    // A fault that was looked at is still one, unless the code goes on elsewhere.
    match event {
        DebugEvent::Fault(fault) => registers.instruction_pointer != fault.registers.instruction_pointer,
        _ => true,
    }
}

/// Breakpoints that the debugger has put into the code, by address; 0 for none. Written by the host.
pub const BREAKPOINT_LIMIT: usize = 256;

struct Planted {
    addresses: [AtomicUsize; BREAKPOINT_LIMIT],
    originals: [AtomicU8; BREAKPOINT_LIMIT],
}

static PLANTED: Planted = Planted {
    addresses: [const { AtomicUsize::new(0) }; BREAKPOINT_LIMIT],
    originals: [const { AtomicU8::new(0) }; BREAKPOINT_LIMIT],
};

fn planted_at(address: usize) -> Option<usize> {
    PLANTED.addresses.iter().position(|place| place.load(Ordering::Relaxed) == address)
}

/// If one of the debugger's breakpoints was executed, the code goes on at it: true then.
fn before_breakpoint(registers: &mut Registers) -> bool {
    let at = registers.instruction_pointer.wrapping_sub(1);
    let is_planted = planted_at(at).is_some();
    if is_planted {
        registers.instruction_pointer = at;
    }
    is_planted
}

/// Lets the debugger look at its line, after another CPU that does: what comes when that one has just looked must be seen.
fn look(debugger: &dyn Debugger) -> bool {
    static LOOKING: AtomicBool = AtomicBool::new(false);
    while LOOKING.swap(true, Ordering::SeqCst) {
        Machine::spin_hint();
    }
    let wants_stop = debugger.attention();
    LOOKING.store(false, Ordering::SeqCst);
    wants_stop
}

/// Fills this CPU's slot.
fn describe(slot: &Slot, registers: &Registers) {
    slot.thread.store(Machine::current(), Ordering::Relaxed);
    // SAFETY: this CPU's slot, which nobody reads before it counts as stopped; the area was allocated for it.
    unsafe {
        *slot.registers.get() = *registers;
        *slot.system.get() = Machine::system_registers();
        Machine::save_vectors(slot.vectors.load(Ordering::Relaxed));
    }
}

/// Stops until there is an order, and does what that says.
fn wait_for_order(slot: &Slot, registers: &mut Registers) {
    describe(slot, registers);
    Machine::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    slot.is_stopped.store(true, Ordering::SeqCst);
    let order = loop {
        // Looked at in this order: a host gives its orders, and then is none any more.
        let came_late = !is_stopped() && !slot.is_held.load(Ordering::SeqCst);
        let order = slot.order.swap(Order::Stay as u8, Ordering::SeqCst);
        if order != Order::Stay as u8 {
            break order;
        }
        if came_late {
            // The next host must not take this CPU for stopped: either it sees this, or this sees it.
            slot.is_stopped.store(false, Ordering::SeqCst);
            if !is_stopped() {
                break Order::Run as u8;
            }
            slot.is_stopped.store(true, Ordering::SeqCst);
        }
        Machine::spin_hint();
    };
    go_on(slot, registers, order == Order::Step as u8);
}

/// Takes over what the debugger has made of this CPU's registers, and its breakpoints.
fn go_on(slot: &Slot, registers: &mut Registers, step: bool) {
    // SAFETY: the host has given its order and does not look any more.
    let changed = unsafe {
        Machine::restore_vectors(slot.vectors.load(Ordering::Relaxed));
        *slot.registers.get()
    };
    *registers = changed;
    // SAFETY: written by the host before its order.
    Machine::set_hardware_breakpoints(unsafe { &*BREAKPOINTS.0.get() });
    registers.flags = registers.flags & !TRAP_FLAG | RESUME_FLAG;
    if step {
        begin_step(slot, registers);
    }
}

/// Instructions whose step differs when interrupts are off (SDM Vol. 2).
mod opcode {
    pub const PUSH_FLAGS: u8 = 0x9c;
    pub const POP_FLAGS: u8 = 0x9d;
    pub const INTERRUPT_RETURN: u8 = 0xcf;
    pub const DISABLE_INTERRUPTS: u8 = 0xfa;
    pub const ENABLE_INTERRUPTS: u8 = 0xfb;
    pub const HALT: u8 = 0xf4;
    pub const WIDE: u8 = 0x48;
}

/// A step happens with interrupts off: what interrupts meanwhile would be stepped into. But an instruction that itself has
/// to do with that is executed as it is.
fn begin_step(slot: &Slot, registers: &mut Registers) {
    use arch_contract::debug::INTERRUPT_FLAG;
    registers.flags |= TRAP_FLAG;
    let mut code = [0; 2];
    let readable = Machine::probe_read(registers.instruction_pointer, &mut code).is_ok();
    let instruction = if code[0] == opcode::WIDE { code[1] } else { code[0] };
    let special = [
        opcode::PUSH_FLAGS,
        opcode::POP_FLAGS,
        opcode::INTERRUPT_RETURN,
        opcode::DISABLE_INTERRUPTS,
        opcode::ENABLE_INTERRUPTS,
        opcode::HALT,
    ];
    if readable && !special.contains(&instruction) && registers.flags & INTERRUPT_FLAG != 0 {
        registers.flags &= !INTERRUPT_FLAG;
        slot.masked_for_step.store(true, Ordering::Relaxed);
    }
}

/// The step, if there was one, is over, however it ended.
fn finish_step(slot: &Slot, registers: &mut Registers) {
    use arch_contract::debug::INTERRUPT_FLAG;
    registers.flags &= !TRAP_FLAG;
    if slot.masked_for_step.swap(false, Ordering::Relaxed) {
        registers.flags |= INTERRUPT_FLAG;
    }
}

/// This CPU runs the debugger.
fn host(debugger: &dyn Debugger, slot: &Slot, reason: Reason, registers: &mut Registers, started_at: u64) {
    Machine::set_hardware_breakpoints(&[None; HARDWARE_BREAKPOINTS]);
    Machine::debug_line_watch(false);
    Machine::debug_stop_others();
    describe(slot, registers);
    let here = cpu::this().index;
    let others = || cpu::all().filter(|cpu| cpu.index != here);
    let all_stopped = spin_until(STOP_LIMIT, || others().all(|cpu| SLOTS[cpu.index].is_stopped.load(Ordering::SeqCst)));
    STOPS.fetch_add(1, Ordering::Relaxed);
    LAST_STOP_CYCLES.store(Machine::cycles().wrapping_sub(started_at), Ordering::Relaxed);
    let mut stop = Stop { reason, host: here, all_stopped, orders: [Order::Run; MAX_CPUS] };
    on_own_stack(&mut Visit { debugger, stop: &mut stop });
    let orders = stop.orders;
    for cpu in cpu::all() {
        let slot = &SLOTS[cpu.index];
        slot.is_held.store(orders[cpu.index] == Order::Stay, Ordering::SeqCst);
        // One that has not stopped yet finds no host any more, and goes on. One that gets an order no longer counts as
        // stopped, however long it takes to go: the next host waits for it.
        if cpu.index != here && orders[cpu.index] != Order::Stay && slot.is_stopped.swap(false, Ordering::SeqCst) {
            slot.order.store(orders[cpu.index] as u8, Ordering::SeqCst);
        }
    }
    Machine::debug_line_watch(true);
    HOST.store(NO_CPU, Ordering::SeqCst);
    match orders[here] {
        Order::Stay => wait_for_order(slot, registers),
        order => go_on(slot, registers, order == Order::Step),
    }
}

/// What the debugger's stack is given.
struct Visit<'a> {
    debugger: &'a dyn Debugger,
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
        way.visit.debugger.stopped(way.visit.stop);
        // SAFETY: suspended by `switch_through`, resumed once.
        unsafe { Machine::resume(&raw const way.back) }
    }
    let mut way = Way { back: Default::default(), visit };
    let at = &raw mut way;
    // SAFETY: the debugger's stack is used by the host only; `run` comes back here.
    unsafe { Machine::switch_through(&raw mut (*at).back, STACK_TOP.load(Ordering::Relaxed), run, at as usize) };
}

/// All CPUs are stopped; the debugger works with this.
pub struct Stop {
    /// Why.
    pub reason: Reason,
    /// The CPU it happened on.
    pub host: usize,
    /// False if a CPU does not answer.
    pub all_stopped: bool,
    orders: [Order; MAX_CPUS],
}

impl Stop {
    /// A CPU's registers.
    pub fn registers(&mut self, cpu: usize) -> &mut Registers {
        // SAFETY: it is stopped, and this is the host's only reference.
        unsafe { &mut *SLOTS[cpu].registers.get() }
    }

    /// A CPU's further registers.
    pub fn system(&self, cpu: usize) -> &SystemRegisters {
        // SAFETY: as above.
        unsafe { &*SLOTS[cpu].system.get() }
    }

    /// A CPU's floating-point and vector state, as [`Debugging::vector_layout`] says.
    pub fn vectors(&mut self, cpu: usize) -> &mut [u8] {
        let area = SLOTS[cpu].vectors.load(Ordering::Relaxed);
        // SAFETY: as above; the area has that size.
        unsafe { core::slice::from_raw_parts_mut(area, Machine::vector_layout().size) }
    }

    /// True if the CPU is stopped: it is there, and has answered.
    pub fn is_stopped(&self, cpu: usize) -> bool {
        cpu == self.host || SLOTS[cpu].is_stopped.load(Ordering::SeqCst)
    }

    /// Tells a CPU what to do when the debugger is done.
    pub fn order(&mut self, cpu: usize, order: Order) {
        self.orders[cpu] = order;
    }

    /// The hardware breakpoints of all CPUs.
    pub fn hardware_breakpoints(&mut self) -> &mut [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS] {
        // SAFETY: this is the host, and all others are stopped.
        unsafe { &mut *BREAKPOINTS.0.get() }
    }

    /// Puts a breakpoint into the code; false if nothing is mapped there, or there are too many.
    pub fn plant(&mut self, address: usize) -> bool {
        if planted_at(address).is_some() {
            return true;
        }
        let Some(index) = planted_at(0) else { return false };
        let mut original = [0];
        if address == 0 || Machine::probe_read(address, &mut original).is_err() {
            return false;
        }
        if Machine::write_protected(address, &[Machine::BREAKPOINT]).is_err() {
            return false;
        }
        PLANTED.originals[index].store(original[0], Ordering::Relaxed);
        PLANTED.addresses[index].store(address, Ordering::Relaxed);
        true
    }

    /// True if there is one of the debugger's breakpoints.
    pub fn has_planted(&self, address: usize) -> bool {
        address != 0 && planted_at(address).is_some()
    }

    /// Number and name of the thread that runs on a CPU.
    pub fn running(&self, cpu: usize) -> (u64, &str) {
        // SAFETY: noted by the CPU, where the thread still is; threads' memory is never given back while they run.
        let thread = unsafe { (SLOTS[cpu].thread.load(Ordering::Relaxed) as *const crate::thread::Thread).as_ref() };
        thread.map_or((0, ""), |thread| (thread.id(), thread.name()))
    }

    /// Takes a breakpoint out of the code again; false if there is none.
    pub fn remove(&mut self, address: usize) -> bool {
        let Some(index) = planted_at(address).filter(|_| address != 0) else { return false };
        PLANTED.addresses[index].store(0, Ordering::Relaxed);
        let mut now = [0];
        // Code that is gone, or written anew since, has no breakpoint of ours.
        if Machine::probe_read(address, &mut now).is_ok() && now[0] == Machine::BREAKPOINT {
            return Machine::write_protected(address, &[PLANTED.originals[index].load(Ordering::Relaxed)]).is_ok();
        }
        true
    }

    /// Takes all breakpoints away.
    pub fn remove_all(&mut self) {
        for place in &PLANTED.addresses {
            let address = place.load(Ordering::Relaxed);
            if address != 0 {
                self.remove(address);
            }
        }
        *self.hardware_breakpoints() = [None; HARDWARE_BREAKPOINTS];
    }

    /// Reads memory, without the debugger's breakpoints in it; returns how many bytes could be read.
    pub fn read(&self, address: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done);
            // Up to the next page: what can be read in one can be read whole.
            let length = (arch_contract::PAGE_SIZE - at % arch_contract::PAGE_SIZE).min(bytes.len() - done);
            if Machine::is_device_memory(at) || Machine::probe_read(at, &mut bytes[done..done + length]).is_err() {
                break;
            }
            done += length;
        }
        for (place, original) in PLANTED.addresses.iter().zip(&PLANTED.originals) {
            let offset = place.load(Ordering::Relaxed).wrapping_sub(address);
            if place.load(Ordering::Relaxed) != 0 && offset < done {
                bytes[offset] = original.load(Ordering::Relaxed);
            }
        }
        done
    }

    /// Writes memory, also where that is read-only; false if it cannot be.
    pub fn write(&mut self, address: usize, bytes: &[u8]) -> bool {
        !Machine::is_device_memory(address) && Machine::write_protected(address, bytes).is_ok()
    }
}

/// Time from the event to all CPUs stopped, of the last stop, in cycles.
pub fn last_stop_cycles() -> u64 {
    LAST_STOP_CYCLES.load(Ordering::Relaxed)
}
