//! The local APIC's timer as the kernel's clock: armed by a TSC deadline where the CPU has that
//! mode, else a one-shot.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use raw_cpuid::CpuId;

use super::{apic, model};

/// Longest one-shot, limited so that the count fits its register; the kernel re-arms the timer.
const LONGEST_TICKS: u64 = u32::MAX as u64;
/// Position of the binary point in [`TICKS_PER_CYCLE`].
const RATIO_SHIFT: u32 = 32;

static CYCLE_HZ: AtomicU64 = AtomicU64::new(1_000_000_000);
/// APIC timer ticks per TSC cycle, times 2^32.
static TICKS_PER_CYCLE: AtomicU64 = AtomicU64::new(1 << RATIO_SHIFT);
static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);

/// Uses TSC deadlines if the CPU has them (SDM Vol. 3A, 11.5.4.1); returns whether it does.
pub fn use_deadlines() -> bool {
    let has_deadlines = CpuId::new().get_feature_info().is_some_and(|features| features.has_tsc_deadline());
    TSC_DEADLINE.store(has_deadlines, Ordering::Relaxed);
    has_deadlines
}

/// Sets the TSC's rate.
pub fn set_cycle_hz(hz: u64) {
    CYCLE_HZ.store(hz, Ordering::Relaxed);
}

/// Sets the APIC timer's rate relative to the TSC's: `ticks` in `cycles`, which is not 0.
pub fn set_ticks(ticks: u64, cycles: u64) {
    let ratio = (u128::from(ticks) << RATIO_SHIFT) / u128::from(cycles);
    TICKS_PER_CYCLE.store(ratio as u64, Ordering::Relaxed);
}

/// Configures this CPU's timer.
pub fn enable_on_this_cpu() {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        apic::enable_tsc_deadline();
    } else {
        apic::enable_one_shot();
    }
}

/// The local APIC's timer, armed by a TSC deadline where the CPU has that mode.
pub struct Clock;

impl arch_contract::Clock for Clock {
    const VECTOR: u8 = apic::TIMER_VECTOR;

    fn name() -> &'static str {
        if TSC_DEADLINE.load(Ordering::Relaxed) { "TSC deadline" } else { "APIC one-shot" }
    }

    fn frequency_hz() -> u64 {
        CYCLE_HZ.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn arm(deadline: u64) {
        if TSC_DEADLINE.load(Ordering::Relaxed) {
            apic::set_tsc_deadline(deadline.max(1));
        } else {
            let cycles = deadline.saturating_sub(model::cycles());
            let product = u128::from(cycles) * u128::from(TICKS_PER_CYCLE.load(Ordering::Relaxed));
            // Round up: an early interrupt would cost a second one.
            let ticks = ((product >> RATIO_SHIFT) as u64).saturating_add(1).min(LONGEST_TICKS);
            apic::start_one_shot(ticks as u32);
        }
    }

    fn disarm() {
        if TSC_DEADLINE.load(Ordering::Relaxed) {
            apic::set_tsc_deadline(0);
        } else {
            apic::start_one_shot(0);
        }
    }
}
