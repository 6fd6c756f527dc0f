//! The rates of the TSC and the local APIC timer.

use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

use super::calibration::{self, Reading, Run};
use crate::cpu::{apic, apic_clock, identity, model};

/// ACPI power management timer (ACPI 6.5, 4.8.3.3); at least 24 bits are always implemented.
const PM_TIMER: calibration::Reference = calibration::Reference { hz: 3_579_545, mask: 0xff_ffff };
/// Programmable interval timer (8254).
const PIT: calibration::Reference = calibration::Reference { hz: 1_193_182, mask: 0xffff };
/// Real-time clock (MC146818A), its periodic flag. A tick that is not read before the next is lost,
/// so the rate is low.
const RTC: calibration::Reference = calibration::Reference { hz: 64, mask: u64::MAX };
const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// System control port B, which has the gate of PIT channel 2.
const CONTROL_B: u16 = 0x61;
const CONTROL_B_GATE: u8 = 1 << 0;
const CONTROL_B_SPEAKER: u8 = 1 << 1;

/// Reference that the clock was calibrated against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// CPUID leaf 15h or a hypervisor's leaf 40000010h states the rate.
    Cpuid,
    /// The ACPI power management timer.
    PmTimer,
    /// The interval timer.
    Pit,
    /// The real-time clock's periodic flag.
    Rtc,
    /// The local APIC timer, if its rate is known.
    Apic,
    /// No running reference: the rate is a guess.
    None,
}

/// Calibrates the clocks. Called by the boot CPU with its APIC enabled.
pub fn calibrate(pm_timer_port: u16) -> Reference {
    let deadline_mode = apic_clock::use_deadlines();
    let stated = stated_frequency();
    if let Some(frequency) = stated {
        apic_clock::set_cycle_hz(frequency);
        if deadline_mode {
            return Reference::Cpuid;
        }
    }
    let pm_timer = (pm_timer_port != 0).then(|| run_pm_timer(pm_timer_port)).flatten();
    let outside = pm_timer
        .map(|run| (run, Reference::PmTimer))
        .or_else(|| Some((run_pit()?, Reference::Pit)))
        .or_else(|| Some((run_rtc()?, Reference::Rtc)));
    let (measured, reference) = match (outside, stated, identity::apic_hz()) {
        (Some((run, reference)), None, _) => (Some(run), reference),
        (Some((run, _)), Some(_), _) => (Some(run), Reference::Cpuid),
        // No reference outside of the CPU runs.
        (None, Some(frequency), _) => (run_tsc(frequency), Reference::Cpuid),
        (None, None, Some(frequency)) => (run_apic(frequency), Reference::Apic),
        (None, None, None) => (run_tsc(guessed_frequency()), Reference::None),
    };
    let Some((run, reference_hz)) = measured.filter(|(run, _)| run.cycles > 0 && run.apic_ticks > 0) else {
        apic_clock::set_cycle_hz(stated.unwrap_or_else(guessed_frequency));
        return Reference::None;
    };
    apic_clock::set_ticks(run.apic_ticks, run.cycles);
    if stated.is_none() {
        let frequency = u128::from(run.cycles) * u128::from(reference_hz) / u128::from(run.reference_ticks);
        apic_clock::set_cycle_hz(frequency as u64);
    }
    reference
}

/// A guess of the TSC's rate if nothing states it: the CPU's base frequency (SDM Vol. 2A, CPUID 16h
/// EAX in MHz), or 1 GHz.
fn guessed_frequency() -> u64 {
    let base =
        CpuId::new().get_processor_frequency_info().map(|info| u64::from(info.processor_base_frequency()) * 1_000_000);
    base.filter(|&frequency| frequency > 1_000_000).unwrap_or(1_000_000_000)
}

/// The TSC's rate as CPUID states it (SDM Vol. 2A, CPUID 15h; KVM and VMware: 40000010h EAX in
/// kHz).
fn stated_frequency() -> Option<u64> {
    let cpuid = CpuId::new();
    let from_hypervisor =
        cpuid.get_hypervisor_info().and_then(|info| info.tsc_frequency()).map(|khz| u64::from(khz) * 1000);
    let from_crystal = cpuid.get_tsc_info().and_then(|info| info.tsc_frequency());
    from_hypervisor.or(from_crystal).filter(|&frequency| frequency > 1_000_000)
}

fn run_pm_timer(port: u16) -> Option<(Run, u64)> {
    // SAFETY: the FADT names this port as the PM timer's; reading it has no effect.
    let read = || unsafe { Port::<u32>::new(port).read() }.into();
    run(PM_TIMER, read)
}

fn run_pit() -> Option<(Run, u64)> {
    // SAFETY: channel 2 drives only the speaker, which stays off.
    unsafe {
        let mut control = Port::<u8>::new(CONTROL_B);
        let value: u8 = control.read();
        control.write(value & !CONTROL_B_SPEAKER | CONTROL_B_GATE);
        // Channel 2, both bytes, rate generator, counting down from 65536.
        Port::<u8>::new(PIT_COMMAND).write(0b1011_0100);
        Port::<u8>::new(PIT_CHANNEL_2).write(0);
        Port::<u8>::new(PIT_CHANNEL_2).write(0);
    }
    let read = || {
        // SAFETY: latching and reading channel 2 has no other effect.
        let left = unsafe {
            Port::<u8>::new(PIT_COMMAND).write(0b1000_0000);
            let low: u8 = Port::new(PIT_CHANNEL_2).read();
            let high: u8 = Port::new(PIT_CHANNEL_2).read();
            u16::from_le_bytes([low, high])
        };
        left.wrapping_neg().into()
    };
    run(PIT, read)
}

/// Measures against the real-time clock's periodic flag (MC146818A data sheet, registers A to D).
/// The clock's interrupt is masked at the interrupt controller.
fn run_rtc() -> Option<(Run, u64)> {
    /// Bit of register D: the clock has power.
    const VALID: u8 = 1 << 7;
    /// Bit of register B: periodic interrupt enabled. Bit of register C: periodic interrupt due.
    const PERIODIC: u8 = 1 << 6;
    /// Rate selection in register A: 64 Hz.
    const RATE: u8 = 10;
    // SAFETY: these are index and data ports of the clock's registers, which no other part of the
    // kernel uses.
    let select = |register: u8| unsafe { Port::<u8>::new(RTC_INDEX).write(register) };
    let read = |register: u8| {
        select(register);
        // SAFETY: this reads the selected register; reading register C clears its flags, as
        // intended.
        unsafe { Port::<u8>::new(RTC_DATA).read() }
    };
    let write = |register: u8, value: u8| {
        select(register);
        // SAFETY: only the rate and the interrupt enable are changed, and both are restored below.
        unsafe { Port::<u8>::new(RTC_DATA).write(value) }
    };
    let (a, b, d) = (read(0xa), read(0xb), read(0xd));
    // An absent clock reads as ones; the other bits of D are always zero.
    if d != VALID {
        return None;
    }
    write(0xa, a & 0xf0 | RATE);
    write(0xb, b | PERIODIC);
    let mut count = 0;
    let measured = run(RTC, || {
        count += u64::from(read(0xc) & PERIODIC != 0);
        count
    });
    write(0xa, a);
    write(0xb, b);
    read(0xc);
    measured
}

/// Measures against the APIC timer itself.
fn run_apic(hz: u64) -> Option<(Run, u64)> {
    let reference = calibration::Reference { hz, mask: u64::from(u32::MAX) };
    run(reference, || u64::from(u32::MAX - apic::remaining_ticks()))
}

/// Measures the APIC timer's rate relative to the TSC, whose rate is given.
fn run_tsc(hz: u64) -> Option<(Run, u64)> {
    run(calibration::Reference { hz, mask: u64::MAX }, model::cycles)
}

/// Runs all clocks; `read` reads the reference. Returns the elapsed counts and the reference's
/// rate.
fn run(reference: calibration::Reference, mut read: impl FnMut() -> u64) -> Option<(Run, u64)> {
    apic::enable_counting_only();
    let start = || apic::start_one_shot(u32::MAX);
    let run = calibration::measure(reference, start, || {
        let before = model::cycles();
        let reference = read() & reference.mask;
        let apic = apic::remaining_ticks();
        Reading { before, reference, apic, after: model::cycles() }
    });
    apic::start_one_shot(0);
    Some((run?, reference.hz))
}
