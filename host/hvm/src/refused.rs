//! Accesses that Linux refuses, of functions in the HRT.

use std::sync::atomic::Ordering;

use protocol::group::{Group, Kind, outcome};

use crate::core::Core;
use crate::vcpu::{Vcpu, now};

/// RFLAGS of a context that leaves a call early: the reserved bit, interrupts enabled.
const FLAGS: u64 = 1 << 1 | 1 << 9;

/// Makes the context leave its call, because Linux refuses an access of the function.
pub fn leave_call(core: &Core, cpu: &mut Vcpu, group: &Group) {
    let registers = cpu.registers();
    let at = registers.rip;
    let begun = group.channel.begin(Kind::RefusedAccess, at, now());
    group.outcome.store(outcome::REFUSED, Ordering::Relaxed);
    group.exception[2].store(at, Ordering::Relaxed);
    leave(cpu, group);
    core.end_event(group, begun, 0);
}

/// Makes the context leave its call.
pub fn leave(cpu: &mut Vcpu, group: &Group) {
    let registers = cpu.registers();
    [registers.rip, registers.rsp] = group.way_back.each_ref().map(|word| word.load(Ordering::Relaxed));
    registers.rflags = FLAGS;
    cpu.use_registers();
}
