//! Latencies computed from the tracer's events: from a wake-up to the thread's turn, and of
//! interrupts.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use wire::telemetry::Histogram;
use wire::trace::{Event, EventKind};

use crate::time::cycles_to_ns;
use crate::trace::{self, Position};

/// A reader of the trace that continues where it last stopped.
pub struct Latencies {
    position: Position,
}

impl Latencies {
    /// Creates a reader that starts at the present.
    pub fn new() -> Self {
        Self { position: Position::now() }
    }

    /// Returns the latencies recorded since the last call.
    pub fn since_last(&mut self) -> Vec<Histogram> {
        let mut events: Vec<(usize, Event)> = Vec::new();
        self.position.read(|cpu, event| events.push((cpu, *event)));
        trace::sort(&mut events);
        of(&events)
    }
}

/// Computes the latencies in the events of all CPUs, which are ordered by time.
fn of(events: &[(usize, Event)]) -> Vec<Histogram> {
    let mut turns = Histogram::new("wake-up to turn");
    let mut interrupts = Histogram::new("interrupt");
    let mut woken: BTreeMap<u64, u64> = BTreeMap::new();
    let mut begun: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (cpu, event) in events {
        match event.kind {
            EventKind::Wake => drop(woken.insert(event.first, event.cycles)),
            EventKind::Switch => {
                if let Some(at) = woken.remove(&event.first) {
                    turns.add(cycles_to_ns(event.cycles.saturating_sub(at)));
                }
            }
            EventKind::InterruptBegin => begun.entry(*cpu).or_default().push(event.cycles),
            EventKind::InterruptEnd => {
                if let Some(at) = begun.get_mut(cpu).and_then(Vec::pop) {
                    interrupts.add(cycles_to_ns(event.cycles.saturating_sub(at)));
                }
            }
            _ => {}
        }
    }
    vec![turns, interrupts]
}
