//! Executing a single instruction on a CPU.

use core::sync::atomic::Ordering;

use arch_contract::debug::{INTERRUPT_FLAG, TRAP_FLAG};
use arch_contract::fault::Registers;

use super::Slot;
use crate::arch::{Architecture, Machine};

/// Instructions that behave differently in a step with interrupts off (SDM Vol. 2).
mod opcode {
    pub const PUSH_FLAGS: u8 = 0x9c;
    pub const POP_FLAGS: u8 = 0x9d;
    pub const INTERRUPT_RETURN: u8 = 0xcf;
    pub const DISABLE_INTERRUPTS: u8 = 0xfa;
    pub const ENABLE_INTERRUPTS: u8 = 0xfb;
    pub const HALT: u8 = 0xf4;
    pub const WIDE: u8 = 0x48;
}

/// Prepares a step. It runs with interrupts off, because it would otherwise step into the handler
/// of a pending interrupt. Instructions that access the interrupt flag or wait for an interrupt run
/// with it unchanged.
pub(super) fn begin(slot: &Slot, registers: &mut Registers) {
    registers.flags |= TRAP_FLAG;
    let mut code = [0; 2];
    let readable = Machine::probe_read(registers.instruction_pointer, &mut code).is_ok();
    let instruction = if code[0] == opcode::WIDE { code[1] } else { code[0] };
    let special = [
        opcode::PUSH_FLAGS,
        opcode::POP_FLAGS,
        opcode::INTERRUPT_RETURN,
        opcode::DISABLE_INTERRUPTS,
        opcode::ENABLE_INTERRUPTS,
        opcode::HALT,
    ];
    if readable && !special.contains(&instruction) && registers.flags & INTERRUPT_FLAG != 0 {
        registers.flags &= !INTERRUPT_FLAG;
        slot.masked_for_step.store(true, Ordering::Relaxed);
    }
}

/// Ends a step, however it ended. Returns whether there was one.
pub(super) fn finish(slot: &Slot, registers: &mut Registers) -> bool {
    if registers.flags & TRAP_FLAG == 0 {
        // No step was in progress, or an NMI hit the handler of the event that ended it.
        return false;
    }
    registers.flags &= !TRAP_FLAG;
    if slot.masked_for_step.swap(false, Ordering::Relaxed) {
        registers.flags |= INTERRUPT_FLAG;
    }
    true
}
