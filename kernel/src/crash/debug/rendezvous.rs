//! The meeting point of a stopping CPU and the hosts that stop it: one word per CPU, changed by one
//! side at a time.
//!
//! Once a host has seen a CPU stopped, the CPU stays until that host's order. A CPU that arrives
//! when the host is already gone continues by itself. If another host arrives at just that moment,
//! the CPU either stays for it or is seen to have left. An order is taken once or not given at all:
//! a leftover order would let the CPU run through the next stop.

use crate::atomic::{AtomicBool, AtomicU8, Ordering, const_fn};

/// What a stopped CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stays stopped.
    Stay,
    /// Continues.
    Run,
    /// Executes one instruction with interrupts off, and stops again.
    Step,
}

/// The CPU runs, or has not arrived yet.
const AWAY: u8 = 0;
/// The CPU waits for an order.
const STOPPED: u8 = 1;
/// The CPU continues by itself unless a host has arrived meanwhile.
const LEAVING: u8 = 2;
/// The CPU was told to run or to step, and has not left yet.
const TO_RUN: u8 = 3;
const TO_STEP: u8 = 4;

/// A CPU's meeting point with the hosts.
pub struct Rendezvous {
    /// One of the phases above.
    phase: AtomicU8,
    /// The last host wants the CPU to stay after the host is gone. It is no phase, because it also
    /// holds for a CPU that has not arrived yet.
    is_held: AtomicBool,
    /// The CPU waits and may have halted.
    may_halt: AtomicBool,
}

impl Rendezvous {
    const_fn! {
        /// Creates the meeting point of a CPU that is away.
        pub fn new() -> Self {
            Self { phase: AtomicU8::new(AWAY), is_held: AtomicBool::new(false), may_halt: AtomicBool::new(false) }
        }
    }

    /// Returns whether the CPU is stopped. If so, it stays until the order of the host that asks.
    pub fn is_stopped(&self) -> bool {
        // A write even where the phase does not change: a CPU that leaves afterwards sees that
        // there is a host, and one that was leaving stays.
        let stays = |phase| matches!(phase, STOPPED | LEAVING).then_some(STOPPED);
        self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, stays).is_ok()
    }

    /// Marks the CPU as stopped for good.
    pub fn stop_for_good(&self) {
        self.phase.store(STOPPED, Ordering::SeqCst);
        self.is_held.store(true, Ordering::SeqCst);
    }

    /// Returns whether the CPU waits and may have halted. A host that is done, and is no longer the
    /// host, then makes the CPU look.
    pub fn may_halt(&self) -> bool {
        // A write, so that a CPU that starts waiting afterwards sees everything the host has done.
        self.may_halt.fetch_or(false, Ordering::SeqCst)
    }

    /// Returns whether the last host wants the CPU to stay.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::SeqCst)
    }

    /// Gives the order of a host that is done. A CPU that has not stopped yet continues when it
    /// arrives, unless the order is to stay. A CPU that is ordered to go no longer counts as
    /// stopped, however long it takes to leave, so the next host waits for it.
    pub fn give(&self, order: Order) {
        self.is_held.store(order == Order::Stay, Ordering::SeqCst);
        let next = match order {
            Order::Stay => return,
            Order::Run => TO_RUN,
            Order::Step => TO_STEP,
        };
        // A CPU that is away gets no order, because it would take it at its next stop.
        let told = |phase| matches!(phase, STOPPED | LEAVING).then_some(next);
        let _ = self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, told);
    }

    /// Stops the CPU until there is an order for it. Returns true if the order is to step.
    /// `has_host` tells whether there is a host. `rest` is called between two looks and may block
    /// until a host has seen [`Self::may_halt`].
    pub fn wait(&self, has_host: impl Fn() -> bool, rest: impl Fn()) -> bool {
        let change = |from, to| self.phase.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        // The order of the two reads matters: a host gives its orders before it ceases to be the
        // host.
        let is_free = || !has_host() && !self.is_held.load(Ordering::SeqCst);
        // Before the phase, so that a host that finds the CPU stopped also finds that it may halt.
        // An exchange, because it then comes before or after the one in `may_halt`: the host sends
        // an NMI, or this CPU sees what the host has done.
        self.may_halt.swap(true, Ordering::SeqCst);
        self.phase.store(STOPPED, Ordering::SeqCst);
        let steps = loop {
            let may_leave = is_free();
            let phase = self.phase.load(Ordering::SeqCst);
            if phase != STOPPED {
                // A plain store, because hosts leave an order alone: only this CPU changes it.
                self.phase.store(AWAY, Ordering::SeqCst);
                break phase == TO_STEP;
            }
            if may_leave && change(STOPPED, LEAVING) {
                // A host that arrived meanwhile may have seen this CPU stopped, and may be gone
                // again.
                if is_free() && change(LEAVING, AWAY) {
                    break false;
                }
                // If this fails, a host has stopped the CPU or given its order, and the next round
                // finds that.
                change(LEAVING, STOPPED);
            }
            rest();
        };
        // A host that still reads true sends an NMI for nothing, but has announced it
        // (`Slot::await_one_more`).
        self.may_halt.store(false, Ordering::SeqCst);
        steps
    }
}
