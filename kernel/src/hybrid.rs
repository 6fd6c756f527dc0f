//! Execution groups and event channels: the kernel as a hybrid runtime (HRT) beside a regular OS
//! (ROS) in a hybrid virtual machine.
//!
//! A group is a thread of this kernel and its partner thread in the ROS, which runs the group's CPU
//! and serves what the thread cannot do here. Such a CPU runs only while its partner wants, so the
//! rest of the kernel never waits for it: it is no CPU of [`crate::cpu::all`]. What carries
//! requests between the two sides is a crate of its own, which [`install`]s itself here.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use arch_contract::fault::{Fault, Registers};
use wire::snapshot::GroupState;

use crate::cpu::{self, Cpu};

/// What the crate that talks to the ROS does for the kernel.
pub struct Transport {
    /// Describes the execution groups.
    pub describe: fn(&mut Vec<GroupState>),
    /// Deals with a fault: makes the ROS provide the memory accessed, or ends the ROS's function
    /// that caused it. Returns true if the code continues, with the registers as they are then.
    /// Called on the trap's stack, with interrupts off; takes no lock.
    pub resolve: fn(&Fault, &mut Registers) -> bool,
    /// For how many cycles the CPU of a partner polls before it halts, by its index.
    pub polls_for: fn(usize) -> u64,
    /// Whether the partner of this CPU, by its index, lets it run now.
    pub runs: fn(usize) -> bool,
    /// Describes a thread, by its number, that waits for its partner to make a system call.
    pub served: fn(u64) -> Option<Served>,
    /// Says what a fault is that only this machine has.
    pub explain: fn(&Fault) -> Option<&'static str>,
}

/// A thread that waits for its partner to make a system call.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// The registers with which it waits: those that calls preserve, and the pointers.
    pub registers: Registers,
    /// The system call's name, if it is known.
    pub name: Option<&'static str>,
    /// The system call's number.
    pub number: u64,
}

static TRANSPORT: AtomicPtr<Transport> = AtomicPtr::new(core::ptr::null_mut());

/// Installs the crate that talks to the ROS.
pub fn install(transport: &'static Transport) {
    TRANSPORT.store(core::ptr::from_ref(transport).cast_mut(), Ordering::Release);
}

fn transport() -> Option<&'static Transport> {
    // SAFETY: the pointer is null or comes from the `&'static Transport` given to `install`.
    unsafe { TRANSPORT.load(Ordering::Acquire).as_ref() }
}

/// Describes the execution groups; none without a ROS.
pub(crate) fn describe() -> Vec<GroupState> {
    let mut groups = Vec::new();
    if let Some(transport) = transport() {
        (transport.describe)(&mut groups);
    }
    groups
}

/// Lets the transport deal with a fault; the arch crate calls this.
pub(crate) fn resolve(fault: &Fault, registers: &mut Registers) -> bool {
    transport().is_some_and(|transport| (transport.resolve)(fault, registers))
}

/// For how many cycles the CPU of a partner polls before it halts.
pub(crate) fn polls_for(cpu: usize) -> u64 {
    transport().map_or(0, |transport| (transport.polls_for)(cpu))
}

/// Whether a CPU has nothing to do at the moment.
pub fn is_idle(cpu: usize) -> bool {
    cpu::known(cpu).is_some_and(|cpu| cpu.attention.is_idle())
}

/// Returns all CPUs that run: also those with partners that let them.
pub(crate) fn running_cpus() -> impl Iterator<Item = &'static Cpu> {
    let runs = |index| transport().is_some_and(|transport| (transport.runs)(index));
    cpu::all_known().filter(move |cpu| !cpu.has_partner() || runs(cpu.index))
}

/// Says what a fault is that only a hybrid virtual machine has.
pub(crate) fn explain(fault: &Fault) -> Option<&'static str> {
    transport().and_then(|transport| (transport.explain)(fault))
}

/// Describes a thread that waits for its partner to make a system call.
pub fn served(thread: u64) -> Option<Served> {
    transport().and_then(|transport| (transport.served)(thread))
}
