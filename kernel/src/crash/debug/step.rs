//! Executing a single instruction on a CPU.

use core::sync::atomic::Ordering;

use arch_contract::fault::Registers;

use super::Slot;
use crate::arch::*;

/// Prepares a step.
pub(super) fn begin(slot: &Slot, registers: &mut Registers) {
    if Debug::begin_step(registers) {
        // The flags at the step's end no longer tell that interrupts were on before.
        slot.masked_for_step.store(true, Ordering::Relaxed);
    }
}

/// Ends a step, however it ended. Returns whether there was one.
pub(super) fn finish(slot: &Slot, registers: &mut Registers) -> bool {
    let was_one = Debug::end_step(registers);
    // Only together with the trap flag: an NMI on the first instructions of the handler that ends
    // the step shows that handler's registers, in which interrupts must stay off.
    if was_one && slot.masked_for_step.swap(false, Ordering::Relaxed) {
        registers.enable_interrupts();
    }
    was_one
}
