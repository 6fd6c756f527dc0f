//! Finding out that a program's threads wait for each other for ever.
//!
//! Two cases can be told for certain. None of its threads can go on: all wait without a deadline, none of its timers is set
//! and no device can call it. Or some of them wait for each other's mutexes in a circle. Threads are looked at one after the
//! other, while they may go on: only what two looks find unchanged is true.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::Ordering;

use arrayvec::{ArrayString, ArrayVec};

use super::Program;
use crate::cpu;
use crate::snapshot;
use crate::thread::{NAME_LIMIT, Thread};

/// Threads of a deadlock that are shown.
const SHOWN: usize = 16;
/// Waiting threads among which circles are looked for.
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
    /// They wait for each other's mutexes; else they are all there are.
    is_circle: bool,
    /// How far they had come, the same at the next look if none has moved.
    come: u64,
    threads: ArrayVec<Waiter, SHOWN>,
}

#[derive(Clone, PartialEq, Eq)]
struct Waiter {
    id: u64,
    name: ArrayString<NAME_LIMIT>,
    address: usize,
    /// The thread whose mutex it waits for.
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
    /// Looks, and reports what was the same at the last look and was not reported.
    pub(super) fn look(&mut self, program: &Program) {
        let look = all_of(program).or_else(|| circle_of(program));
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
    let mut all = Standstill { is_circle: false, come: 0, threads: ArrayVec::new() };
    let mut all_wait = program.handlers.load(Ordering::Relaxed) == 0;
    program.for_each_thread(|thread| {
        all_wait &= thread.waits_for_ever();
        let waiter = Waiter::new(thread);
        all.come = all.come.wrapping_add(waiter.come);
        // Those that do not fit are not shown.
        let _ = all.threads.try_push(waiter);
    });
    let has_timer = || cpu::all().any(|cpu| cpu.timers.lock().has_of(program));
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
        let mut circle = Standstill { is_circle: true, come: first.come, threads: ArrayVec::new() };
        circle.threads.push(first.clone());
        let mut at = next(first)?;
        while at.address != first.address {
            // A longer circle is not looked for, nor one that does not come back to its first.
            circle.threads.try_push(at.clone()).ok()?;
            circle.come = circle.come.wrapping_add(at.come);
            at = next(at)?;
        }
        Some(circle)
    })
}

fn report(program: &Program, found: &Standstill) {
    let (threads, id) = (found.threads.len(), program.id());
    if found.is_circle {
        crate::println!(
            "program {program}: deadlock: {threads} of its threads wait for each other's mutexes; `kill {id}` ends it"
        );
    } else {
        let threads = program.started_threads();
        crate::println!(
            "program {program}: deadlock: its {threads} threads wait for each other, without a deadline; `kill {id}` ends it"
        );
    }
    for thread in &found.threads {
        let owner = found.threads.iter().find(|other| Some(other.address) == thread.waits_for);
        match owner {
            Some(owner) => crate::println!(
                "thread {} \"{}\" waits for a mutex that thread {} \"{}\" has, at:",
                thread.id,
                thread.name,
                owner.id,
                owner.name
            ),
            None => crate::println!("thread {} \"{}\" waits at:", thread.id, thread.name),
        }
        if let Some((frames, true)) = snapshot::backtrace(thread.id) {
            for (number, frame) in frames.iter().enumerate() {
                crate::println!("  #{number} {frame}");
            }
        }
    }
}
