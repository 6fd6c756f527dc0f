//! A program's end: pushes its threads out, waits for everything that could still run its code, and
//! takes back everything it owned.

use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use core::time::Duration;

use super::heap::{Overrun, Usage};
use super::{Outcome, Program, deadlock, forget};
use crate::arch::*;
use crate::call;
use crate::cpu;
use crate::interrupts;
use crate::scheduler;
use crate::scheduler::mailbox::Linked;
use crate::thread::{self, Thread};
use crate::time::Deadline;

/// Time between two attempts to end a program's threads.
const KILL_POLL: Duration = Duration::from_millis(1);
/// Time between two checks for a deadlock.
const DEADLOCK_POLL: Duration = Duration::from_secs(1);
/// How long a program's threads may take to end, and after them its handlers and calls.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(5);
/// What a program left behind at its end. It has been taken back, unless the program's memory may
/// still be in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Memory that it had not freed.
    pub memory: Usage,
    /// A block behind whose end it had written.
    pub overrun: Option<Overrun>,
}

/// The supervisor's main function: waits for the program's end, reports a deadlock meanwhile, and
/// gives everything back.
pub(super) fn supervise(program: &Arc<Program>) {
    let mut watch = deadlock::Watch::default();
    while !program.is_ending() && program.started_threads() > 0 {
        if program.changed.wait_until(Deadline::after(DEADLOCK_POLL)).is_err() {
            watch.look(program);
        }
    }
    program.end(Outcome::Exited(0));
    let deadline = Deadline::after(KILL_LIMIT);
    while program.started_threads() > 0 && !deadline.has_passed() {
        program.push_threads_out();
        let _ = program.changed.wait_until(Deadline::after(KILL_POLL));
    }
    while program.leaving.load(Ordering::Acquire) != 0 {
        Core::spin_hint();
    }
    match program.wait_until_unused() {
        Ok(()) => program.take_everything_back(),
        Err(user) => {
            log::error!("program {program}: {user}; its memory is kept");
            *program.left.lock() = Left { memory: program.heap.usage(), overrun: None };
            core::mem::forget(program.clone());
        }
    }
    forget(program);
    program.finished.latch();
}

/// What may still use a program's memory at its end.
enum User {
    Threads(usize),
    Handlers,
    Calls(usize),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(count) => write!(f, "{count} of its threads do not end"),
            Self::Handlers => f.write_str("a CPU does not leave one of its interrupt handlers"),
            Self::Calls(count) => write!(f, "CPUs have not run {count} of the functions it asked them to run"),
        }
    }
}

impl Program {
    /// Waits until nothing can run the program's code any more. The program's threads have been
    /// told to end.
    fn wait_until_unused(&self) -> Result<(), User> {
        match self.started_threads() {
            0 => (),
            stuck => return Err(User::Threads(stuck)),
        }
        let deadline = Deadline::after(KILL_LIMIT);
        loop {
            let left = self.silence();
            if left.is_ok() || deadline.has_passed() {
                return left;
            }
            thread::sleep(KILL_POLL);
        }
    }

    /// Stops timers, interrupts and lines, and checks whether a CPU is still in a function of the
    /// program.
    fn silence(&self) -> Result<(), User> {
        if !self.objects.silence_all() || interrupts::wait_for_handlers(call::DEFAULT_LIMIT).is_err() {
            return Err(User::Handlers);
        }
        match self.calls.load(Ordering::Acquire) {
            0 => (),
            calls => return Err(User::Calls(calls)),
        }
        // Silence the objects again: what ran until now may have set a timer.
        if self.objects.silence_all() { Ok(()) } else { Err(User::Handlers) }
    }

    fn take_everything_back(&self) {
        // SAFETY: the list holds threads from `keep_thread`, each kept alive by a reference that
        // the loop releases last.
        while let Some(thread) = unsafe { self.ended.load(Ordering::Acquire).as_ref() } {
            self.ended.store(thread.next().load(Ordering::Relaxed), Ordering::Relaxed);
            self.free_thread_locals(thread);
            thread::release_reference(thread);
        }
        if let Some(arguments) = NonNull::new(self.arguments.load(Ordering::Relaxed)) {
            // SAFETY: no thread of the program is left to use its arguments. If the program has
            // freed them itself, `free` returns an error or frees a block that is unused as well.
            let _ = unsafe { self.heap.free(arguments) };
        }
        *self.left.lock() = Left { memory: self.heap.usage(), overrun: self.heap.find_overrun() };
        self.objects.release_all();
        self.heap.release_all();
    }

    /// Ends the waits of the program's threads by a forced timeout, and interrupts the threads that
    /// run.
    fn push_threads_out(&self) {
        self.for_each_thread(Thread::force_time_out);
        cpu::all().for_each(|cpu| scheduler::nudge(cpu.index));
    }
}
