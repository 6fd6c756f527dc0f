//! Where a CPU that stops and the hosts that stop it meet: one word per CPU, changed by one side at a time.
//!
//! From when a host has seen that a CPU is stopped until that host's order, the CPU stays. A CPU that comes when no host is there any
//! more goes on by itself; if another host comes just then, it either stays for that one or is seen to have left, and an order
//! is taken once or not given: one that was left over would let the CPU run through the next stop.

use crate::atomic::{AtomicBool, AtomicU8, Ordering, const_fn};

/// What a stopped CPU shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stay stopped.
    Stay,
    /// Go on.
    Run,
    /// Execute one instruction, interrupts off, and stop.
    Step,
}

/// The CPU runs, or has not come yet.
const AWAY: u8 = 0;
/// It waits for an order.
const STOPPED: u8 = 1;
/// It goes on by itself unless a host has come meanwhile.
const LEAVING: u8 = 2;
/// It has been told to run, or to step, and has not gone yet.
const TO_RUN: u8 = 3;
const TO_STEP: u8 = 4;

/// The meeting place of a CPU.
pub struct Rendezvous {
    /// See the constants.
    phase: AtomicU8,
    /// The last host wants the CPU to stay when it is gone itself.
    is_held: AtomicBool,
    /// It waits, and may have halted.
    may_halt: AtomicBool,
}

impl Rendezvous {
    const_fn! {
        /// The CPU is away.
        pub fn new() -> Self {
            Self { phase: AtomicU8::new(AWAY), is_held: AtomicBool::new(false), may_halt: AtomicBool::new(false) }
        }
    }

    /// True if the CPU is stopped, and stays until the order of the host that asks.
    pub fn is_stopped(&self) -> bool {
        // A write, so that a CPU that leaves afterwards sees that there is a host, and one that was about to stays.
        let stays = |phase| matches!(phase, STOPPED | LEAVING).then_some(STOPPED);
        self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, stays).is_ok()
    }

    /// The CPU stops and never goes on.
    pub fn stop_for_good(&self) {
        self.phase.store(STOPPED, Ordering::SeqCst);
        self.is_held.store(true, Ordering::SeqCst);
    }

    /// True if the CPU waits: a host that is done, and no host any more, makes it look.
    pub fn may_halt(&self) -> bool {
        // A write, so that a CPU that waits from afterwards on sees all that the host has done.
        self.may_halt.fetch_or(false, Ordering::SeqCst)
    }

    /// True if the last host wants the CPU to stay.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::SeqCst)
    }

    /// By the host, which is done: one that has not stopped yet goes on when it comes, unless it shall stay. One that gets an order
    /// no longer counts as stopped, however long it takes to go: the next host waits for it.
    pub fn give(&self, order: Order) {
        self.is_held.store(order == Order::Stay, Ordering::SeqCst);
        let next = match order {
            Order::Stay => return,
            Order::Run => TO_RUN,
            Order::Step => TO_STEP,
        };
        let told = |phase| matches!(phase, STOPPED | LEAVING).then_some(next);
        let _ = self.phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, told);
    }

    /// The CPU is stopped until there is an order for it; true if that is to step. `has_host` says whether there is a host; `rest` is called
    /// between two looks, and may take until a host has seen [`Self::may_halt`].
    pub fn wait(&self, has_host: impl Fn() -> bool, rest: impl Fn()) -> bool {
        let change = |from, to| self.phase.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        // Looked at in this order: a host gives its orders, and then is none any more.
        let is_free = || !has_host() && !self.is_held.load(Ordering::SeqCst);
        self.may_halt.swap(true, Ordering::SeqCst);
        self.phase.store(STOPPED, Ordering::SeqCst);
        let steps = loop {
            let may_leave = is_free();
            let phase = self.phase.load(Ordering::SeqCst);
            if phase != STOPPED {
                self.phase.store(AWAY, Ordering::SeqCst);
                break phase == TO_STEP;
            }
            if may_leave && change(STOPPED, LEAVING) {
                // A host that has come meanwhile may have seen this CPU stopped, and may be gone again.
                if is_free() && change(LEAVING, AWAY) {
                    break false;
                }
                change(LEAVING, STOPPED);
            }
            rest();
        };
        self.may_halt.store(false, Ordering::SeqCst);
        steps
    }
}
