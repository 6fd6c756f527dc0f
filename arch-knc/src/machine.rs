//! [`Machine`]: the contract's implementation for the card.

use arch_contract::{Architecture, PowerAction, StartCpuError};
use arch_x64::boot;
use arch_x64::cpu::{self, apic, interrupts, model, thread_pointer};
use wire::card::{DELAY, SPIN_CYCLES};

use crate::board::{CONSOLE, Card};
use crate::platform;

/// A Knights Corner card.
pub struct Machine;

impl Architecture for Machine {
    const NAME: &'static str = "Knights Corner";
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    type Core = cpu::Core<Model>;
    type Contexts = cpu::Contexts;
    type Vectors = NoVectors;
    type Traps = cpu::Traps;
    type Ipi = cpu::Ipi;
    type Lines = NoLines;
    type Clock = Clock;
    type AddressSpace = cpu::AddressSpace;
    type TraceRing = cpu::TraceRing;
    type ConsoleDevice = Rings;
    type Platform = Platform;
    type Debug = cpu::Debug;
    type DebugLine = NoDebugLine;
}

/// Programs do not run here yet, so there is no vector state to preserve.
pub struct NoVectors;

impl arch_contract::Vectors for NoVectors {}

/// The card's I/O APIC stays unused.
pub struct NoLines;

impl arch_contract::Lines for NoLines {}

/// Not implemented yet: a debugger needs a line of its own, another channel of the rings.
pub struct NoDebugLine;

impl arch_contract::DebugLine for NoDebugLine {}

/// The card's CPU.
pub struct Model;

impl cpu::Model for Model {
    /// The card has no PAUSE. It has DELAY, which gives the cycles to the core's other hardware
    /// threads [ISA].
    #[inline(always)]
    fn spin_hint() {
        // SAFETY: DELAY only waits for the given cycles. A line from another core's cache takes
        // some 250 cycles [SSDG].
        unsafe {
            core::arch::asm!(
                "mov eax, {cycles}",
                ".byte {delay_0}, {delay_1}, {delay_2}, {delay_3}", // delay eax
                cycles = const SPIN_CYCLES,
                delay_0 = const DELAY[0],
                delay_1 = const DELAY[1],
                delay_2 = const DELAY[2],
                delay_3 = const DELAY[3],
                out("eax") _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    /// The card executes in order, so no fence is needed.
    #[inline(always)]
    fn cycles_in_order() -> u64 {
        model::cycles()
    }

    fn set_thread_pointer(address: usize) {
        thread_pointer::set_by_msr(address);
    }
}

/// Longest one-shot of the local APIC timer, in its ticks.
const LONGEST_TICKS: u64 = u32::MAX as u64;

/// The local APIC's timer, which runs at the core clock, as does the time counter.
pub struct Clock;

impl arch_contract::Clock for Clock {
    const VECTOR: u8 = apic::TIMER_VECTOR;

    fn name() -> &'static str {
        "APIC one-shot"
    }

    fn frequency_hz() -> u64 {
        platform::core_hz()
    }

    fn arm(deadline_cycles: u64) {
        let ticks = deadline_cycles.saturating_sub(model::cycles()).saturating_add(1).min(LONGEST_TICKS);
        apic::start_one_shot(ticks as u32);
    }

    fn disarm() {
        apic::start_one_shot(0);
    }
}

/// The rings as the console's device; both sides poll them.
pub struct Rings;

impl arch_contract::ConsoleDevice for Rings {
    fn write(bytes: &[u8]) {
        CONSOLE.send(bytes);
    }

    fn try_write(bytes: &[u8]) -> usize {
        CONSOLE.try_send(bytes)
    }

    fn read() -> Option<u8> {
        CONSOLE.receive()
    }
}

/// The card's platform.
pub struct Platform;

impl arch_contract::Platform for Platform {
    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        boot::start_cpu::<Card>(cpu, hardware_id, stack_top, local, wait)
    }

    fn interrupt_controller() -> &'static str {
        match apic::mode() {
            apic::Mode::Expanded => "APIC with expanded ids",
            _ => "APIC with a PC's ids",
        }
    }

    /// Power and reset are up to the host: the card reports that it is done, and the status.
    fn power(_: PowerAction, status: u8) -> ! {
        interrupts::disable();
        <cpu::Ipi as arch_contract::Ipi>::stop_others();
        CONSOLE.wait_until_taken();
        platform::show_post_code([b'-', b'0' + status.min(9)]);
        CONSOLE.set_up(false);
        interrupts::halt_forever()
    }
}
