//! Deadlock detection for programs.
//!
//! Three cases are recognized. No thread can go on: all wait without a deadline, none of the
//! program's timers is set, and no device can call it. Or some threads wait for each other's
//! mutexes in a circle. Or a thread waits for the mutex of a thread that has ended, as only a
//! mutex's owner unlocks it. The threads are examined one after the other while others may run, so
//! a finding counts only if two successive looks agree.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::{fmt, ptr};

use arrayvec::{ArrayString, ArrayVec};

use super::Program;
use crate::backtrace;
use crate::cpu;
use crate::lock::SpinLock;
use crate::thread::{NAME_LIMIT, Thread};

/// Largest number of a deadlock's threads that are shown.
const SHOWN: usize = 16;
/// Number of ended threads that are remembered.
const REMEMBERED: usize = 32;
/// Largest number of waiting threads among which circles are searched.
const WAITERS: usize = 1024;

/// What a supervisor has seen so far.
#[derive(Default)]
pub(super) struct Watch {
    last_look: Option<Standstill>,
    reported: Option<Standstill>,
}

/// Threads that will not go on.
#[derive(Clone, PartialEq, Eq)]
struct Standstill {
    kind: Kind,
    /// Progress of the threads: the same at the next look if none of them has run.
    come: u64,
    threads: ArrayVec<Waiter, SHOWN>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The threads are all that the program has.
    All,
    /// The threads wait for each other's mutexes.
    Circle,
    /// The thread waits for the mutex of a thread that has ended.
    Orphaned,
}

#[derive(Clone, PartialEq, Eq)]
struct Waiter {
    id: u64,
    name: ArrayString<NAME_LIMIT>,
    address: usize,
    /// Address of the thread whose mutex it waits for.
    waits_for: Option<usize>,
    come: u64,
}

impl Waiter {
    fn new(thread: &Thread) -> Self {
        let come = thread.id().wrapping_add(thread.run_cycles.load(Ordering::Relaxed));
        let name = ArrayString::from(thread.name()).unwrap_or_default();
        Self {
            id: thread.id(),
            name,
            address: ptr::from_ref(thread) as usize,
            waits_for: thread.waits_for_thread(),
            come,
        }
    }
}

impl Watch {
    /// Looks once. Reports a finding that equals that of the last look and has not been reported
    /// yet.
    pub(super) fn look(&mut self, program: &Program) {
        let look = all_of(program).or_else(|| circle_of(program)).or_else(|| orphaned_of(program));
        if let Some(found) = &look
            && look == self.last_look
            && look != self.reported
        {
            report(program, found);
            self.reported.clone_from(&look);
        }
        self.last_look = look;
    }
}

fn all_of(program: &Program) -> Option<Standstill> {
    let mut all = Standstill { kind: Kind::All, come: 0, threads: ArrayVec::new() };
    let mut all_wait = program.handlers.load(Ordering::Relaxed) == 0;
    program.for_each_thread(|thread| {
        all_wait &= thread.waits_for_ever();
        let waiter = Waiter::new(thread);
        all.come = all.come.wrapping_add(waiter.come);
        // Threads beyond the limit are not shown, but count towards the progress.
        let _ = all.threads.try_push(waiter);
    });
    let has_timer = || cpu::all().any(|cpu| cpu.timers.lock().has_of(program.as_owner()));
    (all_wait && !has_timer()).then_some(all)
}

fn circle_of(program: &Program) -> Option<Standstill> {
    let mut waiters: Vec<Waiter> = Vec::new();
    let room = waiters.try_reserve_exact(program.started_threads().min(WAITERS));
    room.ok()?;
    program.for_each_thread(|thread| {
        if thread.waits_for_ever() && thread.waits_for_thread().is_some() && waiters.len() < waiters.capacity() {
            waiters.push(Waiter::new(thread));
        }
    });
    let next = |waiter: &Waiter| waiters.iter().find(|other| Some(other.address) == waiter.waits_for);
    waiters.iter().find_map(|first| {
        let mut circle = Standstill { kind: Kind::Circle, come: first.come, threads: ArrayVec::new() };
        circle.threads.push(first.clone());
        let mut at = next(first)?;
        while at.address != first.address {
            // Give up on a longer circle, and on a path that does not return to its first thread: a
            // circle it leads into is found from another start.
            circle.threads.try_push(at.clone()).ok()?;
            circle.come = circle.come.wrapping_add(at.come);
            at = next(at)?;
        }
        Some(circle)
    })
}

fn orphaned_of(program: &Program) -> Option<Standstill> {
    let mut waiters: ArrayVec<Waiter, SHOWN> = ArrayVec::new();
    program.for_each_thread(|thread| {
        if thread.waits_for_ever() && thread.waits_for_thread().is_some_and(|owner| owner != 0) {
            // A thread that does not fit is found once those before it are gone.
            let _ = waiters.try_push(Waiter::new(thread));
        }
    });
    let is_there = |owner: usize| {
        let is_in = |cpu: &cpu::Cpu| cpu.registry.lock().iter().any(|thread| ptr::from_ref(thread) as usize == owner);
        cpu::all().any(is_in)
    };
    let waiter = waiters.into_iter().find(|waiter| waiter.waits_for.is_some_and(|owner| !is_there(owner)))?;
    let mut found = Standstill { kind: Kind::Orphaned, come: waiter.come, threads: ArrayVec::new() };
    found.threads.push(waiter);
    Some(found)
}

fn report(program: &Program, found: &Standstill) {
    let (threads, id) = (found.threads.len(), program.id());
    match found.kind {
        Kind::All => {
            let threads = program.started_threads();
            crate::println!(
                "program {program}: deadlock: its {threads} threads wait for each other, without a deadline; `kill {id}` ends it"
            );
        }
        Kind::Circle if threads > 1 => crate::println!(
            "program {program}: deadlock: {threads} of its threads wait for each other's mutexes; `kill {id}` ends it"
        ),
        Kind::Circle | Kind::Orphaned => crate::println!(
            "program {program}: deadlock: a thread waits for a mutex that no thread will unlock; `kill {id}` ends it"
        ),
    }
    for thread in &found.threads {
        let owner = found.threads.iter().find(|other| Some(other.address) == thread.waits_for);
        let ended = thread.waits_for.and_then(|owner| program.ended_lately.find(owner));
        let is_orphaned = found.kind == Kind::Orphaned;
        let what = Wanted { waiter: thread, owner, ended: ended.as_ref(), is_orphaned };
        crate::println!("thread {} \"{}\" waits{what} at:", thread.id, thread.name);
        if let Some((frames, true)) = backtrace::of_thread(thread.id) {
            for (number, frame) in frames.iter().enumerate() {
                crate::println!("  #{number} {frame}");
            }
        }
    }
}

/// What a thread waits for, as far as it is known; formatted for the report.
struct Wanted<'a> {
    waiter: &'a Waiter,
    owner: Option<&'a Waiter>,
    /// The remembered ended thread that was at the owner's address.
    ended: Option<&'a Ended>,
    is_orphaned: bool,
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.owner.is_none() && self.ended.is_none() && !self.is_orphaned {
            return Ok(());
        }
        f.write_str(" for a mutex that ")?;
        match self.owner {
            Some(owner) if owner.id == self.waiter.id => f.write_str("it has itself")?,
            Some(owner) => write!(f, "thread {} \"{}\" has", owner.id, owner.name)?,
            None => {}
        }
        if self.owner.is_some() && self.ended.is_some() {
            // The live thread may have been created at the address of the ended one, so both are
            // possible.
            f.write_str(", or that ")?;
        }
        match (self.ended, self.owner) {
            (Some(ended), _) => write!(f, "thread {} \"{}\" had when it ended", ended.id, ended.name)?,
            (None, None) => f.write_str("one of many threads had when it ended")?,
            (None, Some(_)) => {}
        }
        f.write_str(",")
    }
}

/// A thread that has ended.
#[derive(Clone)]
pub(crate) struct Ended {
    address: usize,
    id: u64,
    name: ArrayString<NAME_LIMIT>,
}

/// The threads that ended most recently.
pub(crate) struct EndedLately(SpinLock<Ring>);

/// Ended threads; the oldest is replaced first.
struct Ring {
    threads: ArrayVec<Ended, REMEMBERED>,
    next: usize,
}

impl EndedLately {
    pub(super) const fn new() -> Self {
        Self(SpinLock::new(Ring { threads: ArrayVec::new_const(), next: 0 }))
    }

    /// Remembers a thread that is ending.
    pub(crate) fn note(&self, thread: &Thread) {
        let name = ArrayString::from(thread.name()).unwrap_or_default();
        let ended = Ended { address: ptr::from_ref(thread) as usize, id: thread.id(), name };
        let mut all = self.0.lock();
        let next = all.next;
        match all.threads.get_mut(next) {
            Some(place) => *place = ended,
            None => all.threads.push(ended),
        }
        all.next = (next + 1) % REMEMBERED;
    }

    /// Returns the newest remembered thread that was at an address.
    fn find(&self, address: usize) -> Option<Ended> {
        self.0.lock().threads.iter().filter(|ended| ended.address == address).max_by_key(|ended| ended.id).cloned()
    }
}
