//! How fast the TSC and the local APIC timer run, and arming the timer.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;

use crate::calibration::{self, Reading, Run};
use crate::{apic, cpu};

/// ACPI power management timer (ACPI 6.5, 4.8.3.3): 24 bits are always there.
const PM_TIMER: calibration::Reference = calibration::Reference { hz: 3_579_545, mask: 0xff_ffff };
/// Programmable interval timer (8254).
const PIT: calibration::Reference = calibration::Reference { hz: 1_193_182, mask: 0xffff };
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// Gate and output of PIT channel 2, in the PC's system control port B.
const CONTROL_B: u16 = 0x61;
const CONTROL_B_GATE: u8 = 1 << 0;
const CONTROL_B_SPEAKER: u8 = 1 << 1;

/// Longest one-shot, so that the count fits its register on any clock; the kernel asks again.
const LONGEST_TICKS: u64 = u32::MAX as u64;
/// Binary point of [`TICKS_PER_CYCLE`].
const RATIO_SHIFT: u32 = 32;

static CYCLE_HZ: AtomicU64 = AtomicU64::new(1_000_000_000);
/// APIC timer ticks per TSC cycle, times 2^32.
static TICKS_PER_CYCLE: AtomicU64 = AtomicU64::new(1 << RATIO_SHIFT);
static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);

/// What the clock was calibrated against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// CPUID leaf 15h or a hypervisor's 40000010h states the rate.
    Cpuid,
    /// The ACPI power management timer.
    PmTimer,
    /// The interval timer.
    Pit,
    /// Nothing that runs: 1 GHz is assumed.
    None,
}

/// Rate of the TSC.
pub fn cycle_frequency_hz() -> u64 {
    CYCLE_HZ.load(Ordering::Relaxed)
}

/// Measures the clocks. By the boot CPU, its APIC enabled.
pub fn calibrate(pm_timer_port: u16) -> Reference {
    let deadline_mode = CpuId::new().get_feature_info().is_some_and(|features| features.has_tsc_deadline());
    TSC_DEADLINE.store(deadline_mode, Ordering::Relaxed);
    let stated = stated_frequency();
    if let Some(frequency) = stated {
        CYCLE_HZ.store(frequency, Ordering::Relaxed);
        if deadline_mode {
            return Reference::Cpuid;
        }
    }
    let run = if pm_timer_port != 0 { run_pm_timer(pm_timer_port) } else { None };
    let (run, reference) = match run {
        Some(run) => (Some(run), Reference::PmTimer),
        None => (run_pit(), Reference::Pit),
    };
    let Some((run, reference_hz)) = run else { return Reference::None };
    if run.cycles == 0 || run.apic_ticks == 0 {
        return Reference::None;
    }
    TICKS_PER_CYCLE.store((run.apic_ticks << RATIO_SHIFT) / run.cycles, Ordering::Relaxed);
    if stated.is_some() {
        return Reference::Cpuid;
    }
    let frequency = u128::from(run.cycles) * u128::from(reference_hz) / u128::from(run.reference_ticks);
    CYCLE_HZ.store(frequency as u64, Ordering::Relaxed);
    reference
}

/// The TSC's rate as CPUID states it (SDM Vol. 2A, CPUID 15h; KVM and VMware: 40000010h EAX in kHz).
fn stated_frequency() -> Option<u64> {
    let cpuid = CpuId::new();
    let from_hypervisor =
        cpuid.get_hypervisor_info().and_then(|info| info.tsc_frequency()).map(|khz| u64::from(khz) * 1000);
    let from_crystal = cpuid.get_tsc_info().and_then(|info| info.tsc_frequency());
    from_hypervisor.or(from_crystal).filter(|&frequency| frequency > 1_000_000)
}

fn run_pm_timer(port: u16) -> Option<(Run, u64)> {
    // SAFETY: the FADT names the port; reading it has no effect.
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

/// Runs all clocks; `read` reads the reference. What elapsed, and the reference's rate.
fn run(reference: calibration::Reference, mut read: impl FnMut() -> u64) -> Option<(Run, u64)> {
    apic::enable_counting_only();
    let start = || apic::start_one_shot(u32::MAX);
    let run = calibration::measure(reference, start, || {
        let before = cpu::cycles();
        let reference = read() & reference.mask;
        let apic = apic::remaining_ticks();
        Reading { before, reference, apic, after: cpu::cycles() }
    });
    apic::start_one_shot(0);
    Some((run?, reference.hz))
}

/// Prepares this CPU's timer.
pub fn enable_on_this_cpu() {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        apic::enable_tsc_deadline();
    } else {
        apic::enable_one_shot();
    }
}

/// Asks for an interrupt at `deadline`.
#[inline(always)]
pub fn arm(deadline: u64) {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        apic::set_tsc_deadline(deadline.max(1));
    } else {
        let cycles = deadline.saturating_sub(cpu::cycles());
        let product = u128::from(cycles) * u128::from(TICKS_PER_CYCLE.load(Ordering::Relaxed));
        // Rounded up: early costs a second interrupt.
        let ticks = ((product >> RATIO_SHIFT) as u64).saturating_add(1).min(LONGEST_TICKS);
        apic::start_one_shot(ticks as u32);
    }
}

/// Withdraws the request.
pub fn disarm() {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        apic::set_tsc_deadline(0);
    } else {
        apic::start_one_shot(0);
    }
}

/// What the timer is made of.
pub fn name() -> &'static str {
    if TSC_DEADLINE.load(Ordering::Relaxed) { "TSC deadline" } else { "APIC one-shot" }
}
