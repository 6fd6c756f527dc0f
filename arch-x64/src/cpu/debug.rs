//! This CPU's mechanisms for a debugger: debug registers, control registers, writes to protected
//! memory.

use core::arch::asm;
use core::sync::atomic::Ordering;

use arch_contract::ProbeError;
use arch_contract::debug::{HARDWARE_BREAKPOINTS, HardwareBreakpoint, SystemRegisters, Watch};
use arch_contract::fault::Registers;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr3, Cr4};
use x86_64::registers::model_specific::Efer;

use super::{apic, block, interrupts, probe};

/// Opcode of INT3.
const INT3: u8 = 0xcc;

/// Bits of DR6 (SDM Vol. 3B, 18.2.3): breakpoints that were hit, and a single step.
const HIT: u64 = 0b1111;
const STEPPED: u64 = 1 << 14;
/// DR6 with no event recorded.
const NOTHING: u64 = 0xffff_0ff0;

/// Reads and clears the cause of a debug exception: whether it is a step, and the breakpoints that
/// were hit.
pub fn take_trap() -> (bool, u8) {
    let status: u64;
    // SAFETY: DR6 only records events; reading and resetting it does not affect execution.
    unsafe {
        asm!("mov {}, dr6", out(reg) status, options(nomem, nostack, preserves_flags));
        asm!("mov dr6, {}", in(reg) NOTHING, options(nomem, nostack, preserves_flags));
    }
    (status & STEPPED != 0, (status & HIT) as u8)
}

/// Returns a breakpoint's fields of DR7 (SDM Vol. 3B, 18.2.4).
fn control_of(index: usize, breakpoint: &HardwareBreakpoint) -> u64 {
    let condition: u64 = match breakpoint.watch {
        Watch::Execute => 0b00,
        Watch::Write => 0b01,
        Watch::Access => 0b11,
    };
    let length: u64 = match breakpoint.length {
        2 => 0b01,
        4 => 0b11,
        8 => 0b10,
        _ => 0b00,
    };
    1 << (2 * index + 1) | (condition | length << 2) << (16 + 4 * index)
}

/// Handles a breakpoint or step in an NMI handler, where it cannot be reported: clears it and
/// disables breakpoints until the handler ends.
pub(super) fn ignore_in_nmi() {
    let control: u64;
    take_trap();
    // SAFETY: disabling the breakpoints only prevents debug exceptions and affects no memory.
    unsafe {
        asm!("mov {}, dr7", out(reg) control, options(nomem, nostack, preserves_flags));
        asm!("mov dr7, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags));
    }
    block::breakpoints_off().store(control, Ordering::Relaxed);
}

/// Re-enables at the end of an NMI handler the breakpoints that [`ignore_in_nmi`] disabled, unless
/// the debugger has set others.
pub(super) fn leave_nmi() {
    let control = block::breakpoints_off().swap(0, Ordering::Relaxed);
    if control != 0 {
        // SAFETY: this restores DR7 as it was, and debug exceptions have a handler.
        unsafe { asm!("mov dr7, {}", in(reg) control, options(nomem, nostack, preserves_flags)) };
    }
}

/// Writes bytes even to read-only pages: with CR0.WP clear, the kernel may write them (SDM Vol. 3A,
/// 4.6.1).
///
/// # Errors
/// If nothing is mapped there.
///
/// # Safety
/// Interrupts are disabled and all other CPUs stopped, and the caller answers for what becomes of
/// the code or data there.
pub unsafe fn write_protected(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
    let protected = Cr0::read();
    // SAFETY: interrupts are disabled and all other CPUs stopped, so no other code writes while
    // protection is off.
    unsafe { Cr0::write(protected - Cr0Flags::WRITE_PROTECT) };
    // SAFETY: the caller answers for the write.
    let written = unsafe { probe::write(address, bytes) };
    // SAFETY: this restores CR0 as it was, with write protection on.
    unsafe { Cr0::write(protected) };
    written
}

/// Reads CR8.
fn task_priority() -> u64 {
    let priority;
    // SAFETY: reading CR8 has no side effects, and the kernel runs in ring 0.
    unsafe { asm!("mov {}, cr8", out(reg) priority, options(nomem, nostack, preserves_flags)) };
    priority
}

/// Flags in [`Registers::flags`]: trap after the next instruction (SDM Vol. 3B, 18.3.1.4); ignore
/// an instruction breakpoint at the next instruction (18.3.1.1).
const TRAP_FLAG: u64 = 1 << 8;
const RESUME_FLAG: u64 = 1 << 16;

/// Opcodes of the instructions that access the interrupt flag or wait for an interrupt (SDM Vol.
/// 2): PUSHF, POPF, IRET, CLI, STI, HLT.
const ACCESS_INTERRUPT_FLAG: [u8; 6] = [0x9c, 0x9d, 0xcf, 0xfa, 0xfb, 0xf4];
/// Prefix of an instruction with 64-bit operands.
const REX_W: u8 = 0x48;

/// True if the instruction at `address` behaves the same with interrupts disabled.
fn can_run_masked(address: usize) -> bool {
    let mut code = [0; 2];
    let is_readable = probe::read(address, &mut code).is_ok();
    let opcode = if code[0] == REX_W { code[1] } else { code[0] };
    is_readable && !ACCESS_INTERRUPT_FLAG.contains(&opcode)
}

/// A debugger's mechanisms on this CPU.
pub struct Debug;

impl arch_contract::Debug for Debug {
    const BREAKPOINT: u8 = INT3;

    #[inline(always)]
    fn stop_others() {
        apic::broadcast_nmi();
    }

    #[inline(always)]
    fn wait_for_attention() {
        interrupts::wait_for_nmi();
    }

    fn set_hardware_breakpoints(breakpoints: &[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]) {
        let address = |index: usize| breakpoints[index].map_or(0, |breakpoint| breakpoint.address as u64);
        let each = breakpoints.iter().enumerate();
        let control = each.fold(0, |control, (index, breakpoint)| {
            control | breakpoint.as_ref().map_or(0, |breakpoint| control_of(index, breakpoint))
        });
        block::breakpoints_off().store(0, Ordering::Relaxed);
        // SAFETY: the breakpoints are disabled while the addresses change, and debug exceptions
        // have a handler.
        unsafe {
            asm!("mov dr7, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags));
            asm!("mov dr0, {}", in(reg) address(0), options(nomem, nostack, preserves_flags));
            asm!("mov dr1, {}", in(reg) address(1), options(nomem, nostack, preserves_flags));
            asm!("mov dr2, {}", in(reg) address(2), options(nomem, nostack, preserves_flags));
            asm!("mov dr3, {}", in(reg) address(3), options(nomem, nostack, preserves_flags));
            asm!("mov dr7, {}", in(reg) control, options(nomem, nostack, preserves_flags));
        }
    }

    fn breakpoint() {
        // SAFETY: the breakpoint's handler runs on its own stack and preserves all registers.
        unsafe { asm!("int3", options(nostack)) };
    }

    fn resume(registers: &mut Registers) {
        registers.flags = registers.flags & !TRAP_FLAG | RESUME_FLAG;
    }

    fn begin_step(registers: &mut Registers) -> bool {
        registers.flags |= TRAP_FLAG;
        let masks = registers.interrupts_enabled() && can_run_masked(registers.instruction_pointer);
        if masks {
            registers.disable_interrupts();
        }
        masks
    }

    /// There is none if an NMI hit the handler of the event that ended it.
    fn end_step(registers: &mut Registers) -> bool {
        let was_one = registers.flags & TRAP_FLAG != 0;
        registers.flags &= !TRAP_FLAG;
        was_one
    }

    fn system_registers() -> SystemRegisters {
        SystemRegisters {
            segments: [
                CS::get_reg().0,
                SS::get_reg().0,
                DS::get_reg().0,
                ES::get_reg().0,
                FS::get_reg().0,
                GS::get_reg().0,
            ],
            fs_base: x86_64::registers::model_specific::FsBase::read().as_u64(),
            gs_base: x86_64::registers::model_specific::GsBase::read().as_u64(),
            control: [
                Cr0::read_raw(),
                Cr2::read_raw(),
                Cr3::read().0.start_address().as_u64(),
                Cr4::read_raw(),
                task_priority(),
                Efer::read_raw(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_are_encoded_as_the_manual_says() {
        let write = HardwareBreakpoint { address: 0x1000, length: 8, watch: Watch::Write };
        assert_eq!(control_of(0, &write), 0x0009_0002);
        let execute = HardwareBreakpoint { address: 0x1000, length: 1, watch: Watch::Execute };
        assert_eq!(control_of(3, &execute), 0x80);
        let access = HardwareBreakpoint { address: 0x1004, length: 4, watch: Watch::Access };
        assert_eq!(control_of(1, &access), 0x00f0_0008);
    }
}
