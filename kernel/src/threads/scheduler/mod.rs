//! The scheduler: per-CPU first-in-first-out run queues, a mailbox for threads that other CPUs
//! wake, an idle thread, and a tick only while more than one thread is runnable.

pub(crate) mod attention;
pub(crate) mod mailbox;
pub(crate) mod run_queue;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use wire::trace::EventKind;

use crate::arch::*;
use crate::call;
use crate::cpu::{self, Cpu, Here};
use crate::hybrid;
use crate::interrupts::RESCHEDULE_VECTOR;
use crate::lock::InterruptGuard;
use crate::thread::owner;
use crate::thread::{self, State, Thread};
use crate::time::{self, Deadline};
use crate::trace;
use attention::Attention;

/// Default quantum: how long a thread may run while other threads of its CPU are ready. The running
/// thread yields after one to two quanta.
pub const DEFAULT_QUANTUM: Duration = Duration::from_millis(5);

static QUANTUM_CYCLES: AtomicU64 = AtomicU64::new(u64::MAX >> 1);

/// Sets the quantum, at least 10 µs.
pub fn set_quantum(quantum: Duration) {
    let nanoseconds = u64::try_from(quantum.as_nanos()).unwrap_or(u64::MAX);
    QUANTUM_CYCLES.store(time::ns_to_cycles(nanoseconds.max(10_000)), Ordering::Relaxed);
}

/// Makes a blocked or new thread ready on its CPU. Interrupts are off, and the caller holds the
/// sole claim on the thread.
#[inline(always)]
pub(crate) fn make_runnable(thread: &Thread) {
    // Relaxed, because a thread that waits does not change its CPU: `hand_over` changes it only for
    // ready and running ones.
    let home = thread.cpu.load(Ordering::Relaxed) as usize;
    trace::event(EventKind::Wake, thread.id(), home as u64);
    // SAFETY: interrupts are off, as the caller guarantees, and nothing here switches.
    let here = unsafe { Here::assume() };
    if home == here.index {
        enqueue(&here, thread);
    } else {
        send(home, thread);
    }
}

/// Appends a thread to this CPU's run queue and arms the tick if the thread has to compete.
#[inline(always)]
fn enqueue(here: &Here<'_>, thread: &Thread) {
    thread.set_state(State::Ready);
    here.run_queue().push(thread);
    // The idle thread needs no tick, because it looks into the queue before it sleeps.
    if !here.tick_armed.load(Ordering::Relaxed) && !is_idle(here, Core::current()) {
        arm_tick(here.reborrow());
    }
}

#[inline(always)]
fn is_idle(here: &Cpu, thread: usize) -> bool {
    here.idle.load(Ordering::Relaxed) as usize == thread
}

/// Pushes a thread into another CPU's mailbox, and interrupts that CPU unless it will look by
/// itself.
fn send(to: usize, thread: &Thread) {
    // Threads are only ever bound to CPUs that run.
    let Some(cpu) = cpu::known(to) else { return };
    // SAFETY: the caller of `make_runnable` holds the sole claim on the thread, which is in no
    // queue.
    let first = unsafe { cpu.mailbox.push(thread) };
    // A later pusher leaves the interrupt to the first one, because the owner takes all mail at
    // once. The word is read after the push, so that either side sees the other (`AttentionWord`).
    if first && cpu.attention.wants_interrupt() {
        call::tell(cpu, RESCHEDULE_VECTOR);
    }
}

/// Interrupts another CPU so that it checks whether its running thread has to migrate or end.
pub(crate) fn nudge(cpu: usize) {
    let _guard = InterruptGuard::new();
    if let Some(cpu) = cpu::known(cpu)
        // On this CPU the caller runs, so the other thread does not: it moves or ends at its next
        // turn.
        && !cpu.is_this()
    {
        call::tell(cpu, RESCHEDULE_VECTOR);
    }
}

/// Moves the threads that other CPUs made ready into the run queue. A push that the plain load
/// misses has sent an interrupt, or is found at the next tick or poll.
#[inline(always)]
fn take_mail(here: &Here<'_>) {
    if !here.mailbox.is_empty() {
        empty_mailbox(here);
    }
}

/// Empties the mailbox by an atomic exchange, which sees every completed push; the plain load in
/// [`take_mail`] can miss a recent one.
#[inline(always)]
fn empty_mailbox(here: &Here<'_>) {
    here.mailbox.drain(|thread| receive(here, thread));
}

/// Enqueues a thread that was in this CPU's mailbox.
#[inline(always)]
fn receive(here: &Here<'_>, thread: *mut Thread) {
    here.counters.remote_wakeups.add(1);
    // SAFETY: `send` pushed a valid thread, and draining the mailbox passed the claim on it to this
    // CPU.
    enqueue(here, unsafe { &*thread });
}

/// Where the outgoing thread was put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// In the run queue, so the next thread has company.
    InQueue,
    /// In a wait list, until a waker or a timeout.
    ToWait,
}

/// Passes the CPU to the next ready thread, or to the idle thread. The caller has already queued
/// the running thread where it waits; if that is the run queue and no other thread is ready, it
/// continues at once. Interrupts are off.
#[inline(always)]
fn switch(here: Here<'_>, leaving: Leaving) {
    let current = thread::running();
    let next = next_thread(&here, current);
    // Only now, because the mail that was just taken may be company.
    if leaving == Leaving::ToWait {
        note_if_alone(&here);
    }
    if core::ptr::eq(next, current) {
        current.set_state(State::Running);
        // `next_thread` does not hand over the running thread, because its stack is in use;
        // `move_away` leaves that first.
        if current.shall_move() {
            move_away(here);
        }
        return;
    }
    switch_to(&here, current, next);
}

/// Suspends the running thread and resumes another one of this CPU.
#[inline(always)]
fn switch_to(here: &Here<'_>, current: &Thread, next: &'static Thread) {
    next.set_state(State::Running);
    account(here, current);
    trace::event(EventKind::Switch, next.id(), 0);
    // Before the switch, because behind it each thread continues somewhere else, a new one in its
    // own first function.
    Core::set_current(core::ptr::from_ref(next) as usize);
    use_thread_locals(next);
    // SAFETY: `current` runs on this CPU; `next` came from this CPU's queue or is its idle thread,
    // so it is suspended or prepared, and no other CPU can resume it.
    unsafe { Contexts::switch(current.context.get(), next.context.get()) };
}

/// Loads the thread pointer of the thread being resumed. A thread without thread-local variables
/// never reads it, so the old value may stay.
#[inline(always)]
fn use_thread_locals(next: &Thread) {
    match next.thread_pointer() {
        0 => (),
        pointer => Core::set_thread_pointer(pointer),
    }
}

/// Takes the next thread to run and hands over those that have to migrate. The thread `running` is
/// never handed over here, because this CPU still uses its stack.
#[inline(always)]
fn next_thread(here: &Here<'_>, running: *const Thread) -> &'static Thread {
    take_mail(here);
    loop {
        let Some(thread) = here.run_queue().pop() else {
            // SAFETY: the idle thread is set before the CPU takes part in scheduling and is never
            // freed.
            return unsafe { &*here.idle.load(Ordering::Relaxed) };
        };
        if !thread.shall_move() || stays(here.reborrow(), thread, running) {
            return thread;
        }
    }
}

/// Hands over a thread that has to migrate and returns false; returns true if it is the running
/// one, which stays.
#[cold]
fn stays(here: Here<'_>, thread: &'static Thread, running: *const Thread) -> bool {
    if core::ptr::eq(thread, running) {
        return true;
    }
    hand_over(here.reborrow(), thread);
    false
}

/// Sends a suspended thread of this CPU to its target CPU.
fn hand_over(here: Here<'_>, thread: &'static Thread) {
    // The two registries are locked one after the other: if both were held at once, two CPUs that
    // hand threads to each other could wait for each other.
    here.registry.lock().remove(thread);
    let to = thread.target_cpu.load(Ordering::Relaxed);
    // `JoinHandle::migrate` stores the target and then loads this. Both are `SeqCst`, so that it
    // finds the new CPU to interrupt, or the new CPU finds its target.
    thread.cpu.store(to, Ordering::SeqCst);
    if let Some(target) = cpu::known(to as usize) {
        target.registry.lock().add(thread);
    }
    // Last, because the target may run the thread as soon as it is in the mailbox. Not `send`,
    // because the target may have been set back to this CPU in the meantime.
    make_runnable(thread);
}

/// Charges the cycles since the last switch to the outgoing thread.
#[inline(always)]
fn account(here: &Here<'_>, leaving: &Thread) {
    let now = Core::cycles();
    let ran = now.wrapping_sub(here.switched_at.load(Ordering::Relaxed));
    here.switched_at.store(now, Ordering::Relaxed);
    leaving.run_cycles.store(leaving.run_cycles.load(Ordering::Relaxed).wrapping_add(ran), Ordering::Relaxed);
    here.counters.switches.add(1);
}

/// Suspends the calling thread until it is made runnable, which may already have happened.
#[inline(always)]
pub(crate) fn block() {
    // Interrupts may be on again if the caller has dropped an outer guard in the meantime. A waker
    // on another CPU may have pushed the thread into this CPU's mailbox by now, but only this CPU
    // takes it out, below, so no other one resumes it while its stack is in use.
    Core::disable_interrupts();
    thread::running().set_state(State::Blocked);
    // SAFETY: interrupts were turned off above.
    let here = unsafe { Here::assume() };
    switch(here, Leaving::ToWait);
}

/// Publishes [`Attention::Solo`] if the thread about to run is the only one, so that a waker on
/// another CPU sends an IPI instead of relying on a tick that is still armed.
#[inline(always)]
fn note_if_alone(here: &Here<'_>) {
    if here.attention.is(Attention::Ticking) && here.run_queue().is_empty() {
        become_solo(here.reborrow());
    }
}

/// Publishes [`Attention::Solo`] and takes the mail of pushers that still saw
/// [`Attention::Ticking`] and sent no IPI.
#[cold]
fn become_solo(here: Here<'_>) {
    here.attention.publish_and_take(Attention::Solo, &here.mailbox, |thread| receive(&here, thread));
}

/// Asserts that the caller is a thread that can block.
///
/// # Panics
/// In an interrupt handler and on the idle thread.
#[inline(always)]
pub(crate) fn assert_may_block() {
    let here = cpu::this();
    assert!(
        !here.in_interrupt.load(Ordering::Relaxed) && !is_idle(here, Core::current()),
        "a blocking operation in an interrupt handler, where no thread can wait; use the `try_` form"
    );
}

/// Returns true if another thread of this CPU is ready.
#[inline(always)]
pub(crate) fn others_are_ready() -> bool {
    let guard = InterruptGuard::new();
    let here = guard.here();
    !here.mailbox.is_empty() || !here.run_queue().is_empty()
}

/// Lets the other ready threads of this CPU run first.
#[inline]
pub(crate) fn yield_now() {
    let guard = InterruptGuard::new();
    let here = guard.here();
    take_mail(&here);
    let queue = here.run_queue();
    if queue.is_empty() {
        return;
    }
    assert!(!here.in_interrupt.load(Ordering::Relaxed), "a yield in an interrupt handler, where no thread gives way");
    let current = thread::running();
    current.set_state(State::Ready);
    // Behind the mail that was taken above, so that it lets those threads run first, too.
    queue.push(current);
    switch(here, Leaving::InQueue);
}

/// Makes the interrupted thread yield. Runs on that thread's own stack with interrupts off.
pub(crate) fn preempt() {
    // SAFETY: interrupts are off where a thread is preempted, until the switch.
    let here = unsafe { Here::assume() };
    if is_idle(&here, Core::current()) {
        return;
    }
    // Only a program's threads use floating-point and vector state that must survive the switch.
    if thread::running().owner().is_null() {
        return give_way(0);
    }
    // A thread interrupted in the code of an ending program ends here. The program may also start
    // to end while the thread is switched out, hence the second check.
    // The address is read before the switch, because the next interrupt on this CPU overwrites the
    // frame.
    let interrupted = Traps::interrupted().instruction_pointer;
    if owner::interrupted_in_ending(interrupted) {
        exit();
    }
    Vectors::keep(give_way, 0);
    if owner::interrupted_in_ending(interrupted) {
        exit();
    }
}

/// Yields or migrates. Runs on the thread's own stack with interrupts off.
extern "C" fn give_way(_: usize) {
    // SAFETY: interrupts are off where a thread is preempted, until the switch.
    let here = unsafe { Here::assume() };
    if thread::running().shall_move() {
        return move_away(here);
    }
    here.counters.preemptions.add(1);
    // The woken threads come first, among them the one for which this thread gives way.
    take_mail(&here);
    let current = thread::running();
    current.set_state(State::Ready);
    here.run_queue().push(current);
    // Kept on the thread's own stack, because the CPU's flag is for the next thread from here on.
    let was_displaced = here.displaced.load(Ordering::Relaxed);
    here.displaced.store(false, Ordering::Relaxed);
    let left_at = Core::cycles();
    switch(here, Leaving::InQueue);
    if was_displaced {
        // The displaced thread now runs undisturbed for as long as it waited, at most one quantum.
        let back_at = Core::cycles();
        let waited = back_at.wrapping_sub(left_at).min(QUANTUM_CYCLES.load(Ordering::Relaxed));
        // Not `here`: the thread may have resumed on another CPU.
        cpu::this().undisturbed_until.store(back_at.wrapping_add(waited), Ordering::Relaxed);
    }
}

/// Migrates the calling thread if it has another target CPU.
pub(crate) fn move_if_told() {
    let guard = InterruptGuard::new();
    assert_may_block();
    if thread::running().shall_move() {
        move_away(guard.here());
    }
}

/// Suspends the running thread and hands it over. The hand-over runs on the scheduler's stack,
/// because once the thread is in the other CPU's mailbox, that CPU may run it on its own stack.
fn move_away(here: Here<'_>) {
    let current = thread::running();
    let stack_top = here.scheduler_stack_top.load(Ordering::Relaxed);
    // SAFETY: `current` runs on this CPU; the scheduler's stack is used only with interrupts off
    // and only until the next resume, so nothing else uses it now.
    unsafe {
        Contexts::switch_through(
            current.context.get(),
            stack_top,
            move_suspended,
            core::ptr::from_ref(current) as usize,
        );
    }
}

/// The rest of [`move_away`], on the scheduler's stack.
extern "C" fn move_suspended(thread: usize) -> ! {
    // SAFETY: interrupts are off on the scheduler's stack.
    let here = unsafe { Here::assume() };
    // SAFETY: the argument is the thread that `move_away` suspended, which no other CPU can have
    // yet.
    let thread = unsafe { &*(thread as *const Thread) };
    // Before the hand-over, after which the thread may run on its new CPU and belongs to that one.
    account(&here, thread);
    let idle = here.idle.load(Ordering::Relaxed);
    // An NMI reads the running thread, which must stay valid: the other CPU may free this one.
    Core::set_current(idle as usize);
    hand_over(here.reborrow(), thread);
    resume_next(here)
}

/// Ends the calling thread. Its stack is left first, so that it can be reused while the rest
/// happens on the scheduler's stack.
pub(crate) fn exit() -> ! {
    Core::disable_interrupts();
    // SAFETY: interrupts were turned off above.
    let here = unsafe { Here::assume() };
    // In a handler, the running thread is the interrupted one, perhaps in the middle of the
    // kernel's code.
    assert!(!here.in_interrupt.load(Ordering::Relaxed), "a thread's exit in an interrupt handler, where there is none");
    let current = thread::running();
    let stack_top = here.scheduler_stack_top.load(Ordering::Relaxed);
    // SAFETY: `current` runs on this CPU, the scheduler's stack is free while interrupts are off,
    // and the saved context is never resumed.
    unsafe {
        Contexts::switch_through(
            current.context.get(),
            stack_top,
            exit_suspended,
            core::ptr::from_ref(current) as usize,
        );
    }
    unreachable!("a thread went on after its exit")
}

/// The rest of [`exit`], on the scheduler's stack.
extern "C" fn exit_suspended(thread: usize) -> ! {
    // SAFETY: interrupts are off on the scheduler's stack.
    let here = unsafe { Here::assume() };
    // SAFETY: the argument is the thread that `exit` suspended; it cannot be freed before its
    // reference is released below.
    let thread = unsafe { &*(thread as *const Thread) };
    account(&here, thread);
    thread.finish();
    // An NMI reads the running thread, which must stay valid: the release may free this one.
    Core::set_current(here.idle.load(Ordering::Relaxed) as usize);
    thread::release_reference(thread);
    resume_next(here)
}

/// Resumes the next thread from the scheduler's stack, which it abandons.
fn resume_next(here: Here<'_>) -> ! {
    // No thread's stack is in use on this CPU now, so all that have to migrate are handed over.
    let next = next_thread(&here, core::ptr::null());
    // Threads that became ready while the idle thread counted as running armed no tick.
    if !here.tick_armed.load(Ordering::Relaxed) && !here.run_queue().is_empty() {
        arm_tick(here.reborrow());
    }
    note_if_alone(&here);
    next.set_state(State::Running);
    trace::event(EventKind::Switch, next.id(), 0);
    Core::set_current(core::ptr::from_ref(next) as usize);
    use_thread_locals(next);
    // SAFETY: `next` came from this CPU's queue or is its idle thread, so it is suspended or
    // prepared, and no other CPU can resume it.
    unsafe { Contexts::resume(next.context.get()) }
}

/// What an idle CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Halts until an interrupt wakes it.
    Halt,
    /// Polls for work: waking it takes no interrupt, and so no hypervisor.
    Poll,
}

static IDLE_POLLS: AtomicBool = AtomicBool::new(false);

/// Returns what idle CPUs do.
pub fn idle_mode() -> Idle {
    if IDLE_POLLS.load(Ordering::Relaxed) { Idle::Poll } else { Idle::Halt }
}

/// Sets what idle CPUs do.
pub fn set_idle(idle: Idle) {
    IDLE_POLLS.store(idle == Idle::Poll, Ordering::Relaxed);
}

/// For how many cycles this CPU polls before it halts.
fn polls_for(here: &Here<'_>) -> u64 {
    if IDLE_POLLS.load(Ordering::Relaxed) {
        u64::MAX
    } else if here.has_partner() {
        hybrid::polls_for(here.index)
    } else {
        0
    }
}

/// Takes interrupts and polls the mailbox until there is a thread to run, or for so many cycles.
/// Interrupts are off on entry and on return.
fn poll(here: Here<'_>, cycles: u64) {
    here.attention.publish(Attention::Polling);
    let began = Core::cycles();
    while here.run_queue().is_empty() && Core::cycles().wrapping_sub(began) < cycles {
        Core::enable_interrupts();
        // STI delays interrupts by one instruction, and QEMU's emulator extends that over a spin
        // hint (STI, PAUSE, CLI), so this load stands in between.
        let has_mail = !here.mailbox.is_empty();
        Core::spin_hint();
        Core::disable_interrupts();
        if has_mail {
            break;
        }
    }
}

/// The idle thread's body: waits until there is a thread to run. Interrupts are off on entry.
pub(crate) fn idle() -> ! {
    let mut has_polled = false;
    loop {
        // SAFETY: interrupts are off in the idle thread but where it waits for one, and it stays on
        // its CPU.
        let here = unsafe { Here::assume() };
        take_mail(&here);
        if here.run_queue().is_empty() {
            // Read once, because the two modes leave in different ways below, and the setting can
            // change meanwhile.
            let limit = if has_polled { 0 } else { polls_for(&here) };
            let polls = limit != 0;
            has_polled = polls && limit != u64::MAX;
            if polls {
                poll(here.reborrow(), limit);
            } else {
                here.attention.publish(Attention::Asleep);
                // The look comes after the publication and writes to the mailbox, so that either it
                // sees a push or the pusher sees `Asleep` and interrupts. A push that it sees is
                // also seen at the top of the loop, because only this CPU empties the mailbox.
                if here.mailbox.is_surely_empty() {
                    Core::wait_for_interrupt();
                }
            }
            let ticking = here.tick_armed.load(Ordering::Relaxed);
            let awake = if ticking { Attention::Ticking } else { Attention::Solo };
            // A pusher that still saw `Polling` sent no interrupt, so its mail is taken here.
            if polls {
                here.attention.publish_and_take(awake, &here.mailbox, |thread| receive(&here, thread));
            } else {
                // A pusher that saw `Asleep` has sent an interrupt, and the top of the loop takes
                // its mail.
                here.attention.publish(awake);
            }
            continue;
        }
        let before = here.switched_at.load(Ordering::Relaxed);
        here.counters.idle_cycles.add(Core::cycles().wrapping_sub(before));
        let idle = thread::running();
        let next = next_thread(&here, idle);
        if core::ptr::eq(next, idle) {
            continue; // Every ready thread had to migrate.
        }
        // Threads that became ready while the idle thread was running armed no tick.
        let others_ready = !here.run_queue().is_empty();
        if others_ready && !here.tick_armed.load(Ordering::Relaxed) {
            arm_tick(here.reborrow());
        }
        note_if_alone(&here);
        idle.set_state(State::Ready);
        has_polled = false;
        switch_to(&here, idle, next);
    }
}

/// Handles the interrupt that other CPUs send after pushing to the mailbox or to make the running
/// thread migrate or end. A thread alone on its CPU yields at once to one woken by another CPU;
/// when it resumes it runs undisturbed for as long as it waited, at most one quantum. Where several
/// threads already take turns, the woken one waits for its turn.
pub(crate) fn reschedule_interrupt(_: usize) {
    // SAFETY: interrupts are off in their handlers.
    let here = unsafe { Here::assume() };
    // Before the mail comes in, which makes company.
    let was_alone = here.run_queue().is_empty();
    // Not `take_mail`, because no further interrupt comes for a push that its plain load would
    // miss.
    empty_mailbox(&here);
    let has_company = !here.run_queue().is_empty();
    if was_alone
        && has_company
        // The idle thread gives way by itself when the interrupt has woken it.
        && !is_idle(&here, Core::current())
        && Core::cycles() >= here.undisturbed_until.load(Ordering::Relaxed)
    {
        here.displaced.store(true, Ordering::Relaxed);
        here.give_way.store(true, Ordering::Relaxed);
    }
    if thread::running().shall_move() || owner::is_ending() {
        here.give_way.store(true, Ordering::Relaxed);
    }
}

#[cold]
fn arm_tick(here: Here<'_>) {
    here.tick_armed.store(true, Ordering::Relaxed);
    here.switches_at_tick.store(here.counters.switches.read(), Ordering::Relaxed);
    // No look into the mailbox follows: a push without an interrupt waits for the tick that is set
    // here.
    here.attention.publish(Attention::Ticking);
    let deadline = Core::cycles().saturating_add(QUANTUM_CYCLES.load(Ordering::Relaxed));
    here.tick.set(&here, Deadline::at_cycles(deadline));
}

/// Ends a quantum, in the timer interrupt.
pub(crate) fn tick(_: usize) {
    // SAFETY: interrupts are off in their handlers.
    let here = unsafe { Here::assume() };
    // A thread that was switched to since the tick was armed has not had a whole quantum yet. It
    // keeps the CPU until the next tick, so that a switch need not set the timer. Compared before
    // the mail is taken, because `enqueue` arms the next tick if some has come.
    let same_thread = here.switches_at_tick.load(Ordering::Relaxed) == here.counters.switches.read();
    here.tick_armed.store(false, Ordering::Relaxed);
    take_mail(&here);
    let mut others_ready = !here.run_queue().is_empty();
    if !others_ready {
        become_solo(here.reborrow());
        others_ready = !here.run_queue().is_empty();
    }
    if others_ready && !is_idle(&here, Core::current()) {
        if !here.tick_armed.load(Ordering::Relaxed) {
            arm_tick(here.reborrow());
        }
        if same_thread {
            // The flag may be stale: the thread told to yield may have ended or migrated instead.
            here.displaced.store(false, Ordering::Relaxed);
            here.give_way.store(true, Ordering::Relaxed);
        }
    }
}
