//! The local APIC (SDM Vol. 3A, chapter 11): acknowledging, sending interrupts, the one-shot timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arch_contract::{IpiError, MAX_CPUS};
use x86_64::registers::model_specific::Msr;

use crate::cpu;

/// Vector the local APIC delivers when an interrupt vanished before it was taken. Needs no acknowledgement.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Vector of the local timer.
pub const TIMER_VECTOR: u8 = 0xf0;

/// Registers by their xAPIC offset (table 11-1); in x2APIC mode the MSR is 0x800 + offset / 16 (11.12.1.2).
#[derive(Clone, Copy)]
#[repr(u16)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    TimerEntry = 0x320,
    Lint0Entry = 0x350,
    Lint1Entry = 0x360,
    ErrorEntry = 0x370,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

/// IA32_APIC_BASE and its bits (11.4.4).
const APIC_BASE: Msr = Msr::new(0x1b);
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;
/// First x2APIC MSR.
const X2APIC_FIRST: u32 = 0x800;
/// IA32_TSC_DEADLINE (11.5.4.1).
const TSC_DEADLINE: Msr = Msr::new(0x6e0);

const SPURIOUS_ENABLE: u32 = 1 << 8;
const ENTRY_MASKED: u32 = 1 << 16;
const ENTRY_NMI: u32 = 4 << 8;
const TIMER_TSC_DEADLINE: u32 = 2 << 17;
const TIMER_DIVIDE_BY_1: u32 = 0b1011;

/// Interrupt command register fields (11.6.1).
const COMMAND_NMI: u32 = 4 << 8;
const COMMAND_INIT: u32 = 5 << 8;
const COMMAND_STARTUP: u32 = 6 << 8;
const COMMAND_PENDING: u32 = 1 << 12;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_LEVEL: u32 = 1 << 15;
const COMMAND_ALL_BUT_SELF: u32 = 3 << 18;

/// Polls before a busy command register is an error; delivery takes far below a microsecond.
const COMMAND_POLLS: u32 = 1_000_000;

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Memory mapped, 8-bit ids.
    XApic = 0,
    /// MSRs, 32-bit ids.
    X2Apic = 1,
    /// Memory mapped with Knights Corner's 16-bit destinations.
    Expanded = 2,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::XApic as u8);
/// See [`destination_shift`].
static DESTINATION_SHIFT: AtomicU8 = AtomicU8::new(destination_shift(Mode::XApic));
/// Virtual address of the memory-mapped registers.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// How the registers are reached on this machine.
#[inline(always)]
pub fn mode() -> Mode {
    match MODE.load(Ordering::Relaxed) {
        1 => Mode::X2Apic,
        2 => Mode::Expanded,
        _ => Mode::XApic,
    }
}

/// Sets how the registers are reached. Once, by the boot CPU; `registers` is unused in x2APIC mode.
pub fn set_mode(mode: Mode, registers: *mut u8) {
    MODE.store(mode as u8, Ordering::Relaxed);
    DESTINATION_SHIFT.store(destination_shift(mode), Ordering::Relaxed);
    REGISTERS.store(registers as usize, Ordering::Relaxed);
}

/// Where an id stands in a command's destination word.
const fn destination_shift(mode: Mode) -> u8 {
    match mode {
        Mode::X2Apic => 0,
        Mode::XApic => 24,
        Mode::Expanded => 16,
    }
}

/// The x2APIC MSR of a register.
const fn x2apic_msr(register: Register) -> u32 {
    X2APIC_FIRST + (register as u32) / 16
}

/// Knights Corner has none of it, nor the fences it needs.
#[inline(always)]
fn uses_msrs() -> bool {
    cfg!(feature = "pc") && MODE.load(Ordering::Relaxed) == Mode::X2Apic as u8
}

#[inline(always)]
fn read(register: Register) -> u32 {
    if uses_msrs() {
        // SAFETY: the register exists in x2APIC mode.
        return unsafe { Msr::new(x2apic_msr(register)).read() as u32 };
    }
    // SAFETY: `set_mode` was given a mapping of the registers.
    unsafe { mapped(register).read_volatile() }
}

#[inline(always)]
fn write(register: Register, value: u32) {
    if uses_msrs() {
        // SAFETY: the register exists in x2APIC mode and takes these values.
        return unsafe { Msr::new(x2apic_msr(register)).write(u64::from(value)) };
    }
    // SAFETY: `set_mode` was given a mapping of the registers.
    unsafe { mapped(register).write_volatile(value) };
}

/// Where a register is mapped, outside x2APIC mode.
#[inline(always)]
fn mapped(register: Register) -> *mut u32 {
    (REGISTERS.load(Ordering::Relaxed) + register as usize) as *mut u32
}

/// Enables this CPU's APIC in the machine's mode, its timer masked, external NMI open.
pub fn enable() {
    let mut base_msr = APIC_BASE;
    // SAFETY: IA32_APIC_BASE exists wherever there is an APIC; mode bits are set in the allowed order (11.12.5).
    unsafe {
        let base = base_msr.read() | APIC_BASE_ENABLE;
        base_msr.write(base);
        if mode() == Mode::X2Apic {
            base_msr.write(base | APIC_BASE_X2APIC);
        }
    }
    write(Register::TaskPriority, 0);
    write(Register::TimerEntry, ENTRY_MASKED | u32::from(TIMER_VECTOR));
    write(Register::Lint0Entry, ENTRY_MASKED);
    write(Register::Lint1Entry, ENTRY_NMI);
    write(Register::ErrorEntry, ENTRY_MASKED);
    write(Register::ErrorStatus, 0);
    write(Register::SpuriousVector, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let id = read(Register::Id);
    match mode() {
        Mode::X2Apic => id,
        Mode::XApic => id >> 24,
        // 9-bit id in bits 31:23.
        Mode::Expanded => id >> 23,
    }
}

/// Acknowledges the interrupt being handled.
#[inline(always)]
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

#[inline(always)]
fn command(apic_id: u32, low: u32) -> Result<(), IpiError> {
    if uses_msrs() {
        let value = u64::from(apic_id) << 32 | u64::from(low);
        // What the other CPU is told about must be there before it is told: these MSRs are written out of order with memory
        // (11.12.3).
        // SAFETY: fences have no other effect.
        unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
        // SAFETY: the command register in x2APIC mode; a single write, never busy (11.12.9).
        unsafe { Msr::new(x2apic_msr(Register::CommandLow)).write(value) };
        return Ok(());
    }
    let (command_low, command_high) = (mapped(Register::CommandLow), mapped(Register::CommandHigh));
    // SAFETY: `set_mode` was given a mapping of the registers; interrupts are off, so the halves stay together.
    unsafe {
        if command_low.read_volatile() & COMMAND_PENDING != 0 && !becomes_free(command_low) {
            return Err(IpiError::Busy);
        }
        command_high.write_volatile(apic_id << DESTINATION_SHIFT.load(Ordering::Relaxed));
        command_low.write_volatile(low);
    }
    Ok(())
}

/// The command register's upper half, which what runs between the halves of a command may overwrite: an NMI, an exception at a
/// breakpoint. `None` where a command is a single write, or before the registers are mapped.
pub(crate) fn begun_command() -> Option<u32> {
    let is_mapped = !uses_msrs() && REGISTERS.load(Ordering::Relaxed) != 0;
    // SAFETY: `set_mode` was given a mapping of the registers.
    is_mapped.then(|| unsafe { mapped(Register::CommandHigh).read_volatile() })
}

/// Puts back what [`begun_command`] gave, so that the interrupted code can go on with its command.
pub(crate) fn resume_command(high: Option<u32>) {
    let Some(high) = high else { return };
    // SAFETY: as in `begun_command`. Where the last command is not sent in time, the interrupted one finds no better state.
    unsafe {
        becomes_free(mapped(Register::CommandLow));
        mapped(Register::CommandHigh).write_volatile(high);
    }
}

/// Waits until an earlier command is sent; false if that takes too long.
///
/// # Safety
/// It is the command register's lower half.
#[cold]
unsafe fn becomes_free(command_low: *mut u32) -> bool {
    // SAFETY: the caller's obligation.
    (0..COMMAND_POLLS).any(|_| unsafe { command_low.read_volatile() } & COMMAND_PENDING == 0)
}

/// Interrupts a started CPU. Interrupts disabled: the two halves of a command must not be torn apart.
#[inline(always)]
pub fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError> {
    let apic_id = cpu::apic_id_of(cpu).ok_or(IpiError::NoSuchCpu)?;
    command(apic_id, COMMAND_ASSERT | u32::from(vector))
}

/// Interrupts all other CPUs. Those not started ignore it.
pub fn broadcast_ipi(vector: u8) -> Result<(), IpiError> {
    command(0, COMMAND_ALL_BUT_SELF | COMMAND_ASSERT | u32::from(vector))
}

/// Sends an NMI to all other CPUs that were started: one that was not would take it in real mode, in emulators at least.
pub fn broadcast_nmi() {
    let were_enabled = cpu::interrupts_enabled();
    cpu::disable_interrupts();
    broadcast_nmi_undisturbed();
    if were_enabled {
        cpu::enable_interrupts();
    }
}

/// As [`broadcast_nmi`], interrupts off: the halves of a command stay together.
fn broadcast_nmi_undisturbed() {
    let own = cpu::index();
    for apic_id in (0..MAX_CPUS).filter(|&index| index != own).filter_map(cpu::apic_id_of) {
        let _ = command(apic_id, COMMAND_ASSERT | COMMAND_NMI);
    }
}

/// Resets a CPU into waiting for a start-up message (11.4.2).
pub fn send_init(apic_id: u32) -> Result<(), IpiError> {
    command(apic_id, COMMAND_INIT | COMMAND_LEVEL | COMMAND_ASSERT)
}

/// Lets a waiting CPU run in real mode at a page below 1 MiB.
pub fn send_startup(apic_id: u32, page: u8) -> Result<(), IpiError> {
    command(apic_id, COMMAND_STARTUP | COMMAND_ASSERT | u32::from(page))
}

/// Lets the timer count down once from `ticks` and interrupt.
#[inline(always)]
pub fn start_one_shot(ticks: u32) {
    write(Register::TimerInitialCount, ticks);
}

/// What is left of the count.
pub fn remaining_ticks() -> u32 {
    read(Register::TimerCurrentCount)
}

/// Prepares this CPU's timer: one-shot counting, unmasked.
pub fn enable_one_shot() {
    write(Register::TimerDivide, TIMER_DIVIDE_BY_1);
    write(Register::TimerEntry, u32::from(TIMER_VECTOR));
}

/// Prepares this CPU's timer: one-shot counting, masked, for calibration.
pub fn enable_counting_only() {
    write(Register::TimerDivide, TIMER_DIVIDE_BY_1);
    write(Register::TimerEntry, ENTRY_MASKED | u32::from(TIMER_VECTOR));
}

/// Prepares this CPU's timer: TSC deadline.
pub fn enable_tsc_deadline() {
    write(Register::TimerEntry, TIMER_TSC_DEADLINE | u32::from(TIMER_VECTOR));
    // A deadline written before the mode has changed is lost (11.5.4.1).
    // SAFETY: fences have no other effect.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// Interrupts when the TSC reaches `deadline`; 0 withdraws.
#[inline(always)]
pub fn set_tsc_deadline(deadline: u64) {
    let mut msr = TSC_DEADLINE;
    // SAFETY: only called where CPUID announces the TSC deadline mode.
    unsafe { msr.write(deadline) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_map_to_the_documented_msrs() {
        assert_eq!(x2apic_msr(Register::Id), 0x802);
        assert_eq!(x2apic_msr(Register::EndOfInterrupt), 0x80b);
        assert_eq!(x2apic_msr(Register::CommandLow), 0x830);
        assert_eq!(x2apic_msr(Register::TimerInitialCount), 0x838);
        assert_eq!(x2apic_msr(Register::TimerDivide), 0x83e);
    }

    #[test]
    fn destinations_have_the_width_of_the_mode() {
        assert_eq!(3 << destination_shift(Mode::XApic), 0x0300_0000);
        assert_eq!(0x12345 << destination_shift(Mode::X2Apic), 0x12345);
        assert_eq!(227 << destination_shift(Mode::Expanded), 0x00e3_0000);
    }
}
