//! Who runs: per-CPU first-in-first-out queues, a mailbox for what other CPUs make ready, an idle thread, and a tick
//! only while more than one thread wants to run.

pub(crate) mod attention;
pub(crate) mod mailbox;
pub(crate) mod run_queue;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use wire::trace::Kind;

use crate::arch::{Architecture, Machine};
use crate::call;
use crate::cpu::{self, Cpu};
use crate::interrupts::RESCHEDULE_VECTOR;
use crate::lock::InterruptGuard;
use crate::thread::owner;
use crate::thread::{self, State, Thread};
use crate::time::{self, Deadline};
use crate::trace;
use attention::Attention;

/// How long a thread may run while others of its CPU are ready, unless the command line says otherwise. It gives way
/// after one to two quanta.
pub const DEFAULT_QUANTUM: Duration = Duration::from_millis(5);

static QUANTUM_CYCLES: AtomicU64 = AtomicU64::new(u64::MAX >> 1);

/// Sets the quantum.
pub fn set_quantum(quantum: Duration) {
    let nanoseconds = u64::try_from(quantum.as_nanos()).unwrap_or(u64::MAX);
    QUANTUM_CYCLES.store(time::ns_to_cycles(nanoseconds.max(10_000)), Ordering::Relaxed);
}

/// Makes a blocked or new thread ready on its CPU. Interrupts off; who calls has the sole claim on the thread.
#[inline(always)]
pub(crate) fn make_runnable(thread: &Thread) {
    let home = thread.cpu.load(Ordering::Relaxed) as usize;
    trace::event(Kind::Wake, thread.id(), home as u64);
    let here = cpu::this();
    if home == here.index {
        enqueue(here, thread);
    } else {
        send(home, thread);
    }
}

/// Puts a thread into this CPU's run queue.
#[inline(always)]
fn enqueue(here: &Cpu, thread: &Thread) {
    thread.set_state(State::Ready);
    // SAFETY: this CPU's queue, interrupts off.
    unsafe { here.run_queue.get() }.push(thread);
    if !here.tick_armed.load(Ordering::Relaxed) && !is_idle(here, Machine::current()) {
        arm_tick(here);
    }
}

#[inline(always)]
fn is_idle(here: &Cpu, thread: usize) -> bool {
    here.idle.load(Ordering::Relaxed) as usize == thread
}

/// Puts a thread into another CPU's mailbox, and interrupts that CPU if it would not look by itself.
fn send(to: usize, thread: &Thread) {
    // Threads are only ever bound to CPUs that run.
    let Some(cpu) = cpu::get(to) else { return };
    // SAFETY: the thread is ours (see `make_runnable`) and in no queue.
    let first = unsafe { cpu.mailbox.push(thread) };
    if first && cpu.attention.wants_interrupt() {
        call::tell(cpu, RESCHEDULE_VECTOR);
    }
}

/// Makes a CPU look whether its running thread shall move.
pub(crate) fn nudge(cpu: usize) {
    let _guard = InterruptGuard::new();
    if let Some(cpu) = cpu::get(cpu)
        && !cpu.is_this()
    {
        call::tell(cpu, RESCHEDULE_VECTOR);
    }
}

/// Takes what other CPUs made ready.
#[inline(always)]
fn take_mail(here: &Cpu) {
    if !here.mailbox.is_empty() {
        empty_mailbox(here);
    }
}

/// Takes what other CPUs made ready, also what a look without writing could miss.
#[inline(always)]
fn empty_mailbox(here: &Cpu) {
    here.mailbox.drain(|thread| receive(here, thread));
}

/// Takes a thread that was in this CPU's mailbox.
#[inline(always)]
fn receive(here: &Cpu, thread: *mut Thread) {
    here.counters.remote_wakeups.add(1);
    // SAFETY: pushed by `send`, and ours now.
    enqueue(here, unsafe { &*thread });
}

/// Where the running thread went that gives its CPU away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Into the run queue, so that the next one is not alone.
    InQueue,
    /// To wait for something.
    ToWait,
}

/// Gives the CPU to the next ready thread, or to the idle thread. The caller has put the running thread wherever it
/// waits; if that was the run queue and nobody else is ready, it goes on at once. Interrupts off.
#[inline(always)]
fn switch(here: &'static Cpu, leaving: Leaving) {
    let current = thread::running();
    let next = next_thread(here, current);
    if leaving == Leaving::ToWait {
        note_if_alone(here);
    }
    if core::ptr::eq(next, current) {
        current.set_state(State::Running);
        if current.shall_move() {
            move_away(here);
        }
        return;
    }
    switch_to(here, current, next);
}

/// Suspends the running thread and resumes another one of this CPU.
#[inline(always)]
fn switch_to(here: &Cpu, current: &Thread, next: &'static Thread) {
    next.set_state(State::Running);
    account(here, current);
    trace::event(Kind::Switch, next.id(), 0);
    Machine::set_current(core::ptr::from_ref(next) as usize);
    use_thread_locals(next);
    // SAFETY: `current` runs on this CPU; `next` came from this CPU's queue, so it is suspended or prepared, and
    // nobody else has it.
    unsafe { Machine::switch(current.context.get(), next.context.get()) };
}

/// Points this CPU at the thread-local variables of the thread it resumes. Where that has none, nothing looks there.
#[inline(always)]
fn use_thread_locals(next: &Thread) {
    match next.thread_pointer() {
        0 => (),
        pointer => Machine::set_thread_pointer(pointer),
    }
}

/// Takes the next thread to run, sending those away that shall move; but never the one that still runs on its stack.
#[inline(always)]
fn next_thread(here: &Cpu, running: *const Thread) -> &'static Thread {
    take_mail(here);
    loop {
        // SAFETY: this CPU's queue, interrupts off.
        let Some(thread) = unsafe { here.run_queue.get() }.pop() else {
            // SAFETY: set before the CPU takes part in scheduling.
            return unsafe { &*here.idle.load(Ordering::Relaxed) };
        };
        if !thread.shall_move() || stays(here, thread, running) {
            return thread;
        }
    }
}

/// Hands over a thread that shall move, unless it is the one that still runs: then true.
#[cold]
fn stays(here: &Cpu, thread: &'static Thread, running: *const Thread) -> bool {
    if core::ptr::eq(thread, running) {
        return true;
    }
    hand_over(here, thread);
    false
}

/// Sends a suspended thread of this CPU to the CPU it shall move to.
fn hand_over(here: &Cpu, thread: &'static Thread) {
    here.registry.lock().remove(thread);
    let to = thread.target_cpu.load(Ordering::Relaxed);
    thread.cpu.store(to, Ordering::SeqCst);
    if let Some(target) = cpu::get(to as usize) {
        target.registry.lock().add(thread);
    }
    make_runnable(thread);
}

#[inline(always)]
fn account(here: &Cpu, leaving: &Thread) {
    let now = Machine::cycles();
    let ran = now.wrapping_sub(here.switched_at.load(Ordering::Relaxed));
    here.switched_at.store(now, Ordering::Relaxed);
    leaving.run_cycles.store(leaving.run_cycles.load(Ordering::Relaxed).wrapping_add(ran), Ordering::Relaxed);
    here.counters.switches.add(1);
}

/// Sleeps until somebody makes the calling thread runnable, which may have happened already.
#[inline(always)]
pub(crate) fn block() {
    // Also where the caller's code let go of a guard that it had before.
    Machine::disable_interrupts();
    thread::running().set_state(State::Blocked);
    switch(cpu::this(), Leaving::ToWait);
}

/// The thread that runs next is the only one: whoever wakes another need not wait for a tick that is still armed.
#[inline(always)]
fn note_if_alone(here: &Cpu) {
    // SAFETY: this CPU's queue, interrupts off.
    if here.attention.is(Attention::Ticking) && unsafe { here.run_queue.get() }.is_empty() {
        become_solo(here);
    }
}

#[cold]
fn become_solo(here: &Cpu) {
    here.attention.publish_and_take(Attention::Solo, &here.mailbox, |thread| receive(here, thread));
}

/// Panics where there is no thread that could block.
#[inline(always)]
pub(crate) fn assert_may_block() {
    let here = cpu::this();
    assert!(
        !here.in_interrupt.load(Ordering::Relaxed) && !is_idle(here, Machine::current()),
        "a blocking operation in an interrupt handler, where no thread can wait; use the `try_` form"
    );
}

/// True if another thread of this CPU wants to run.
#[inline(always)]
pub(crate) fn others_are_ready() -> bool {
    let _guard = InterruptGuard::new();
    let here = cpu::this();
    // SAFETY: this CPU's queue, interrupts off.
    !here.mailbox.is_empty() || !unsafe { here.run_queue.get() }.is_empty()
}

/// Lets others run first.
#[inline]
pub(crate) fn yield_now() {
    let _guard = InterruptGuard::new();
    let here = cpu::this();
    take_mail(here);
    // SAFETY: this CPU's queue, interrupts off.
    let queue = unsafe { here.run_queue.get() };
    if queue.is_empty() {
        return;
    }
    assert!(!here.in_interrupt.load(Ordering::Relaxed), "a yield in an interrupt handler, where no thread gives way");
    let current = thread::running();
    current.set_state(State::Ready);
    queue.push(current);
    switch(here, Leaving::InQueue);
}

/// The interrupted thread gives way: on its own stack, interrupts off.
pub(crate) fn preempt() {
    let here = cpu::this();
    if is_idle(here, Machine::current()) {
        return;
    }
    if thread::running().owner().is_null() {
        return give_way(0);
    }
    let interrupted = Machine::interrupted().instruction_pointer;
    if owner::interrupted_in_ending(interrupted) {
        exit();
    }
    Machine::keep_vectors(give_way, 0);
    if owner::interrupted_in_ending(interrupted) {
        exit();
    }
}

/// Lets others run, or moves: on the thread's own stack, interrupts off.
extern "C" fn give_way(_: usize) {
    let here = cpu::this();
    if thread::running().shall_move() {
        return move_away(here);
    }
    here.counters.preemptions.add(1);
    take_mail(here);
    let current = thread::running();
    current.set_state(State::Ready);
    // SAFETY: this CPU's queue, interrupts off.
    unsafe { here.run_queue.get() }.push(current);
    let was_displaced = here.displaced.load(Ordering::Relaxed);
    here.displaced.store(false, Ordering::Relaxed);
    let left_at = Machine::cycles();
    switch(here, Leaving::InQueue);
    if was_displaced {
        // As long as it had to wait, at most a quantum, it is let alone.
        let back_at = Machine::cycles();
        let waited = back_at.wrapping_sub(left_at).min(QUANTUM_CYCLES.load(Ordering::Relaxed));
        cpu::this().undisturbed_until.store(back_at.wrapping_add(waited), Ordering::Relaxed);
    }
}

/// Moves the calling thread if it was told to.
pub(crate) fn move_if_told() {
    let _guard = InterruptGuard::new();
    assert_may_block();
    if thread::running().shall_move() {
        move_away(cpu::this());
    }
}

/// Suspends the running thread; the rest happens on the scheduler's stack, because once the thread is in the other
/// CPU's mailbox, its stack is in use there.
fn move_away(here: &'static Cpu) {
    let current = thread::running();
    let stack_top = here.scheduler_stack_top.load(Ordering::Relaxed);
    // SAFETY: `current` runs here; the scheduler's stack is only used with interrupts off, up to the next resume.
    unsafe {
        Machine::switch_through(
            current.context.get(),
            stack_top,
            move_suspended,
            core::ptr::from_ref(current) as usize,
        );
    }
}

extern "C" fn move_suspended(thread: usize) -> ! {
    let here = cpu::this();
    // SAFETY: the thread `move_away` suspended.
    let thread = unsafe { &*(thread as *const Thread) };
    account(here, thread);
    hand_over(here, thread);
    resume_next(here)
}

/// Ends the calling thread.
pub(crate) fn exit() -> ! {
    Machine::disable_interrupts();
    let here = cpu::this();
    assert!(!here.in_interrupt.load(Ordering::Relaxed), "a thread's exit in an interrupt handler, where there is none");
    let current = thread::running();
    let stack_top = here.scheduler_stack_top.load(Ordering::Relaxed);
    // SAFETY: as in `move_away`; the context saved is never resumed.
    unsafe {
        Machine::switch_through(
            current.context.get(),
            stack_top,
            exit_suspended,
            core::ptr::from_ref(current) as usize,
        );
    }
    unreachable!("a thread went on after its exit")
}

extern "C" fn exit_suspended(thread: usize) -> ! {
    let here = cpu::this();
    // SAFETY: the thread `exit` suspended; nobody frees it before `finish` gives its reference up.
    let thread = unsafe { &*(thread as *const Thread) };
    account(here, thread);
    thread.finish();
    resume_next(here)
}

fn resume_next(here: &'static Cpu) -> ! {
    let next = next_thread(here, core::ptr::null());
    note_if_alone(here);
    next.set_state(State::Running);
    trace::event(Kind::Switch, next.id(), 0);
    Machine::set_current(core::ptr::from_ref(next) as usize);
    use_thread_locals(next);
    // SAFETY: as in `switch`.
    unsafe { Machine::resume(next.context.get()) }
}

/// What a CPU does that has nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Halts, until an interrupt wakes it.
    Halt,
    /// Looks for work all the time: it needs no interrupt, and no hypervisor to go on.
    Poll,
}

static IDLE_POLLS: AtomicBool = AtomicBool::new(false);

/// What idle CPUs do.
pub fn idle_mode() -> Idle {
    if IDLE_POLLS.load(Ordering::Relaxed) { Idle::Poll } else { Idle::Halt }
}

/// Sets what idle CPUs do.
pub fn set_idle(idle: Idle) {
    IDLE_POLLS.store(idle == Idle::Poll, Ordering::Relaxed);
}

/// Takes interrupts and looks for mail until there is something to run. Interrupts off at the start and the end.
fn poll(here: &Cpu) {
    here.attention.publish(Attention::Polling);
    // SAFETY: this CPU's queue, interrupts off.
    while unsafe { here.run_queue.get() }.is_empty() {
        Machine::enable_interrupts();
        // Right after they are enabled none is taken; QEMU's emulator extends that over a spin hint (STI, PAUSE, CLI).
        let has_mail = !here.mailbox.is_empty();
        Machine::spin_hint();
        Machine::disable_interrupts();
        if has_mail {
            break;
        }
    }
}

/// The idle thread: waits until there is something to run. Interrupts off at the start.
pub(crate) fn idle() -> ! {
    loop {
        let here = cpu::this();
        take_mail(here);
        // SAFETY: this CPU's queue, interrupts off.
        if unsafe { here.run_queue.get() }.is_empty() {
            let polls = IDLE_POLLS.load(Ordering::Relaxed);
            if polls {
                poll(here);
            } else {
                here.attention.publish(Attention::Asleep);
                if here.mailbox.is_surely_empty() {
                    Machine::wait_for_interrupt();
                }
            }
            let ticking = here.tick_armed.load(Ordering::Relaxed);
            let awake = if ticking { Attention::Ticking } else { Attention::Solo };
            if polls {
                here.attention.publish_and_take(awake, &here.mailbox, |thread| receive(here, thread));
            } else {
                // Who sends mail to one that sleeps interrupts it; it looks at the top of the loop.
                here.attention.publish(awake);
            }
            continue;
        }
        let before = here.switched_at.load(Ordering::Relaxed);
        here.counters.idle_cycles.add(Machine::cycles().wrapping_sub(before));
        let idle = thread::running();
        let next = next_thread(here, idle);
        if core::ptr::eq(next, idle) {
            continue; // All that were ready had to move.
        }
        // Threads that became ready while the idle thread was running armed no tick.
        // SAFETY: as above.
        let others_ready = !unsafe { here.run_queue.get() }.is_empty();
        if others_ready && !here.tick_armed.load(Ordering::Relaxed) {
            arm_tick(here);
        }
        note_if_alone(here);
        idle.set_state(State::Ready);
        switch_to(here, idle, next);
    }
}

/// The interrupt other CPUs send when they left mail, or want the running thread to move. A thread that has the CPU for itself
/// makes room at once for those who were woken, and has its turn again after them, for at least as long as it waited; where several take
/// turns, they wait for theirs.
pub(crate) fn reschedule_interrupt(_: usize) {
    let here = cpu::this();
    // SAFETY: this CPU's queue, interrupts off.
    let was_alone = unsafe { here.run_queue.get() }.is_empty();
    empty_mailbox(here);
    // SAFETY: as above.
    let has_company = !unsafe { here.run_queue.get() }.is_empty();
    if was_alone
        && has_company
        && !is_idle(here, Machine::current())
        && Machine::cycles() >= here.undisturbed_until.load(Ordering::Relaxed)
    {
        here.displaced.store(true, Ordering::Relaxed);
        here.give_way.store(true, Ordering::Relaxed);
    }
    if thread::running().shall_move() || owner::is_ending() {
        here.give_way.store(true, Ordering::Relaxed);
    }
}

#[cold]
fn arm_tick(here: &Cpu) {
    here.tick_armed.store(true, Ordering::Relaxed);
    here.switches_at_tick.store(here.counters.switches.read(), Ordering::Relaxed);
    here.attention.publish(Attention::Ticking);
    let deadline = Machine::cycles().saturating_add(QUANTUM_CYCLES.load(Ordering::Relaxed));
    here.tick.set(here, Deadline::at_cycles(deadline));
}

/// A quantum is over: timer interrupt.
pub(crate) fn tick(_: usize) {
    let here = cpu::this();
    here.tick_armed.store(false, Ordering::Relaxed);
    take_mail(here);
    // SAFETY: this CPU's queue, interrupts off.
    let mut others_ready = !unsafe { here.run_queue.get() }.is_empty();
    if !others_ready {
        become_solo(here);
        // SAFETY: as above.
        others_ready = !unsafe { here.run_queue.get() }.is_empty();
    }
    if others_ready && !is_idle(here, Machine::current()) {
        let same_thread = here.switches_at_tick.load(Ordering::Relaxed) == here.counters.switches.read();
        if !here.tick_armed.load(Ordering::Relaxed) {
            arm_tick(here);
        }
        if same_thread {
            // Also if somebody who was told to make room has ended, or moved, instead.
            here.displaced.store(false, Ordering::Relaxed);
            here.give_way.store(true, Ordering::Relaxed);
        }
    }
}
