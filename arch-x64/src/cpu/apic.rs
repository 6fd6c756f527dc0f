//! The local APIC (SDM Vol. 3A, chapter 11): acknowledgements, IPIs, the one-shot timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arch_contract::{IpiError, MAX_CPUS};
use x86_64::registers::model_specific::Msr;

use super::{block, interrupts, trap};

/// Vector of an interrupt that vanished before the CPU took it. Needs no acknowledgement.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Vector of the local timer.
pub const TIMER_VECTOR: u8 = 0xf0;

/// Registers by their xAPIC offset (table 11-1). In x2APIC mode the MSR is 0x800 + offset / 16
/// (11.12.1.2).
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

/// Polls until a busy command register is an error; delivery takes far less than a microsecond.
const COMMAND_POLLS: u32 = 1_000_000;

/// Access mode of the registers.
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
/// Position of an id in the destination word; see [`destination_shift`].
static DESTINATION_SHIFT: AtomicU8 = AtomicU8::new(destination_shift(Mode::XApic));
/// Virtual address of the memory-mapped registers.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// Access mode of this machine's registers.
#[inline(always)]
pub fn mode() -> Mode {
    match MODE.load(Ordering::Relaxed) {
        1 => Mode::X2Apic,
        2 => Mode::Expanded,
        _ => Mode::XApic,
    }
}

/// Sets the access mode. The boot CPU calls it once; `registers` is unused in x2APIC mode.
pub fn set_mode(mode: Mode, registers: *mut u8) {
    MODE.store(mode as u8, Ordering::Relaxed);
    DESTINATION_SHIFT.store(destination_shift(mode), Ordering::Relaxed);
    REGISTERS.store(registers as usize, Ordering::Relaxed);
}

/// Position of an id in a command's destination word.
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

/// True in x2APIC mode. False at compile time on Knights Corner, which lacks both that mode and the
/// fences it needs.
#[inline(always)]
fn uses_msrs() -> bool {
    cfg!(feature = "x2apic") && MODE.load(Ordering::Relaxed) == Mode::X2Apic as u8
}

#[inline(always)]
fn read(register: Register) -> u32 {
    if uses_msrs() {
        // SAFETY: all registers in `Register` that are read have an MSR in x2APIC mode.
        return unsafe { Msr::new(x2apic_msr(register)).read() as u32 };
    }
    // SAFETY: `set_mode` stored the address of a mapping of the registers, which stays mapped.
    unsafe { mapped(register).read_volatile() }
}

#[inline(always)]
fn write(register: Register, value: u32) {
    if uses_msrs() {
        // SAFETY: the register has an MSR in x2APIC mode, and callers write values it accepts.
        return unsafe { Msr::new(x2apic_msr(register)).write(u64::from(value)) };
    }
    // SAFETY: `set_mode` stored the address of a mapping of the registers, which stays mapped.
    unsafe { mapped(register).write_volatile(value) };
}

/// Address of a memory-mapped register, outside x2APIC mode.
#[inline(always)]
fn mapped(register: Register) -> *mut u32 {
    (REGISTERS.load(Ordering::Relaxed) + register as usize) as *mut u32
}

/// Enables this CPU's APIC in the machine's mode, with the timer masked and the external NMI
/// unmasked.
pub fn enable() {
    let mut base_msr = APIC_BASE;
    // SAFETY: IA32_APIC_BASE exists on every CPU with an APIC; the mode bits are set in the allowed
    // order (11.12.5).
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
        // The id has 9 bits, in 31:23.
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
        // x2APIC MSR writes are not ordered with memory (11.12.3). The fences make the data that
        // the IPI announces visible to the target before the IPI.
        // SAFETY: fences only order memory accesses and have no other effect.
        unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
        // SAFETY: this is the command register in x2APIC mode; it takes a single write and is never
        // busy (11.12.9).
        unsafe { Msr::new(x2apic_msr(Register::CommandLow)).write(value) };
        return Ok(());
    }
    let (command_low, command_high) = (mapped(Register::CommandLow), mapped(Register::CommandHigh));
    // SAFETY: `set_mode` stored a mapping of the registers; interrupts are disabled, so no other
    // command comes between the two halves of this one.
    unsafe {
        if command_low.read_volatile() & COMMAND_PENDING != 0 && !becomes_free(command_low) {
            return Err(IpiError::Busy);
        }
        // Writing the lower half sends the command, so the destination is written first (11.6.1).
        command_high.write_volatile(apic_id << DESTINATION_SHIFT.load(Ordering::Relaxed));
        command_low.write_volatile(low);
    }
    Ok(())
}

/// Reads the upper half of the command register for a handler that can come between the halves of a
/// command, after an NMI or a breakpoint, and may overwrite it. `None` if a command is a single
/// write, or before the registers are mapped.
pub(crate) fn begun_command() -> Option<u32> {
    let is_mapped = !uses_msrs() && REGISTERS.load(Ordering::Relaxed) != 0;
    // SAFETY: `set_mode` stored a mapping of the registers, as the address is not 0.
    is_mapped.then(|| unsafe { mapped(Register::CommandHigh).read_volatile() })
}

/// Restores the half that [`begun_command`] read, so that the interrupted code can finish its
/// command.
pub(crate) fn resume_command(high: Option<u32>) {
    let Some(high) = high else { return };
    // SAFETY: `begun_command` returned a value, so the registers are mapped. If the last command is
    // not sent in time, the interrupted one finds the register no worse than it would have.
    unsafe {
        becomes_free(mapped(Register::CommandLow));
        mapped(Register::CommandHigh).write_volatile(high);
    }
}

/// Waits until the previous command is sent; returns false if that takes too long.
///
/// # Safety
/// `command_low` is the mapped lower half of the command register.
#[cold]
unsafe fn becomes_free(command_low: *mut u32) -> bool {
    // SAFETY: the caller guarantees that `command_low` is the mapped command register.
    (0..COMMAND_POLLS).any(|_| unsafe { command_low.read_volatile() } & COMMAND_PENDING == 0)
}

/// IPIs by the local APIC.
pub struct Ipi;

/// Commands are sent with interrupts disabled, so that their two halves stay together.
impl arch_contract::Ipi for Ipi {
    #[inline(always)]
    fn send(cpu: usize, vector: u8) -> Result<(), IpiError> {
        let apic_id = block::apic_id_of(cpu).ok_or(IpiError::NoSuchCpu)?;
        command(apic_id, COMMAND_ASSERT | u32::from(vector))
    }

    /// CPUs that were not started ignore the interrupt.
    fn broadcast(vector: u8) -> Result<(), IpiError> {
        command(0, COMMAND_ALL_BUT_SELF | COMMAND_ASSERT | u32::from(vector))
    }

    fn stop_others() {
        // Set the request first, so that the NMI handlers see it.
        trap::stop_at_next_nmi();
        broadcast_nmi();
    }

    fn sample_others() {
        // Record the requests first, so that the NMI handlers see them.
        trap::sample_at_next_nmis();
        broadcast_nmi();
    }
}

/// Sends an NMI to each other started CPU. It is no broadcast because a CPU that was not started
/// would take the NMI in real mode, at least in emulators.
pub fn broadcast_nmi() {
    let were_enabled = interrupts::are_enabled();
    interrupts::disable();
    broadcast_nmi_undisturbed();
    if were_enabled {
        interrupts::enable();
    }
}

/// [`broadcast_nmi`] with interrupts already disabled, so that the halves of a command stay
/// together.
fn broadcast_nmi_undisturbed() {
    let own = block::index();
    for apic_id in (0..MAX_CPUS).filter(|&index| index != own).filter_map(block::apic_id_of) {
        let _ = command(apic_id, COMMAND_ASSERT | COMMAND_NMI);
    }
}

/// Resets a CPU, which then waits for a start-up message (11.4.2).
pub fn send_init(apic_id: u32) -> Result<(), IpiError> {
    command(apic_id, COMMAND_INIT | COMMAND_LEVEL | COMMAND_ASSERT)
}

/// Starts a waiting CPU in real mode at a page below 1 MiB.
pub fn send_startup(apic_id: u32, page: u8) -> Result<(), IpiError> {
    command(apic_id, COMMAND_STARTUP | COMMAND_ASSERT | u32::from(page))
}

/// Starts the timer, which counts down from `ticks` once and then interrupts.
#[inline(always)]
pub fn start_one_shot(ticks: u32) {
    write(Register::TimerInitialCount, ticks);
}

/// Remaining ticks of the count.
pub fn remaining_ticks() -> u32 {
    read(Register::TimerCurrentCount)
}

/// Configures this CPU's timer for one-shot counting, unmasked.
pub fn enable_one_shot() {
    write(Register::TimerDivide, TIMER_DIVIDE_BY_1);
    write(Register::TimerEntry, u32::from(TIMER_VECTOR));
}

/// Configures this CPU's timer for one-shot counting, masked, for calibration.
pub fn enable_counting_only() {
    write(Register::TimerDivide, TIMER_DIVIDE_BY_1);
    write(Register::TimerEntry, ENTRY_MASKED | u32::from(TIMER_VECTOR));
}

/// Configures this CPU's timer for TSC deadlines.
pub fn enable_tsc_deadline() {
    write(Register::TimerEntry, TIMER_TSC_DEADLINE | u32::from(TIMER_VECTOR));
    // A deadline written before the mode has changed is lost (11.5.4.1).
    // SAFETY: a fence only orders memory accesses and has no other effect.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// Requests an interrupt when the TSC reaches `deadline`; 0 cancels.
#[inline(always)]
pub fn set_tsc_deadline(deadline: u64) {
    let mut msr = TSC_DEADLINE;
    // SAFETY: callers use the TSC deadline mode only if CPUID announces it, and then the MSR
    // exists.
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
