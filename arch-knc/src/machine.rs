//! [`Machine`]: the contract, fulfilled by the card as far as it is there.

use arch_contract::{Architecture, ConsoleEvent, Export, LineError, LineTrigger, PowerAction, StartCpuError};
use arch_x64::context::Context;
use arch_x64::{apic, cpu, descriptors, trap};

use crate::platform;

/// A Knights Corner card.
pub struct Machine;

/// Longest one-shot of the local APIC timer, in its ticks.
const LONGEST_TICKS: u64 = u32::MAX as u64;

/// Needs the ring console.
impl arch_contract::debug::Debugging for Machine {}

impl Architecture for Machine {
    const NAME: &'static str = "Knights Corner";
    const TIMER_VECTOR: u8 = apic::TIMER_VECTOR;
    const SELF_VECTOR: u8 = trap::SELF_VECTOR;
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    const INTERRUPT_STACKS: usize = descriptors::INTERRUPT_STACKS;
    type Context = Context;

    arch_x64::bare_cpu_methods!();
    arch_x64::context_methods!();

    /// Programs do not run here yet, so nobody has vector state to lose.
    fn keep_vectors(function: extern "C" fn(usize), argument: usize) {
        function(argument);
    }

    /// The card executes in order.
    #[inline(always)]
    fn cycles_in_order() -> u64 {
        cpu::cycles()
    }

    fn reset_vectors() {}

    fn vector_control() -> u64 {
        0
    }

    fn set_vector_control(_: u64) {}

    fn vector_state(write: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write.write_str("not used yet")
    }

    /// Not there yet: needs the card's start-up page tables.
    fn start_cpu(_: usize, _: u32, _: usize, _: usize, _: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
        Err(StartCpuError::NoTrampoline)
    }

    /// The card has no PAUSE; an empty statement keeps the loop.
    #[inline(always)]
    fn spin_hint() {
        // SAFETY: no instruction at all.
        unsafe { core::arch::asm!("", options(nomem, nostack, preserves_flags)) };
    }

    fn cycle_frequency_hz() -> u64 {
        platform::core_hz()
    }

    /// The card's APIC timer runs at the core clock, as the time counter does.
    fn arm_timer(deadline_cycles: u64) {
        let ticks = deadline_cycles.saturating_sub(cpu::cycles()).saturating_add(1).min(LONGEST_TICKS);
        apic::start_one_shot(ticks as u32);
    }

    fn disarm_timer() {
        apic::start_one_shot(0);
    }

    fn timer_name() -> &'static str {
        "APIC one-shot"
    }

    /// The card's I/O APIC stays unused.
    fn line_count() -> u32 {
        0
    }

    fn route_line(_: u32, _: u8, _: usize, _: LineTrigger) -> Result<(), LineError> {
        Err(LineError::NoSuchLine)
    }

    fn mask_line(_: u32) -> Result<(), LineError> {
        Err(LineError::NoSuchLine)
    }

    fn interrupt_controller_name() -> &'static str {
        "APIC with expanded ids"
    }

    /// Until the ring console is there, the host sees the last two characters as the POST code.
    fn console_write(bytes: &[u8]) {
        if let [.., first, second] = *bytes {
            platform::show_post_code([first, second]);
        }
    }

    fn console_try_write(bytes: &[u8]) -> usize {
        Self::console_write(bytes);
        bytes.len()
    }

    fn console_read() -> Option<u8> {
        None
    }

    fn console_line() -> Option<u32> {
        None
    }

    fn console_watch(_: ConsoleEvent) {}

    fn console_ignore(_: ConsoleEvent) {}

    fn console_is_raised() -> bool {
        false
    }

    fn export(_: Export, _: &[u8]) {}

    fn exports(_: Export) -> bool {
        false
    }

    /// Power and reset are the host's.
    fn power(_: PowerAction, _: u8) -> ! {
        cpu::halt_forever()
    }
}
