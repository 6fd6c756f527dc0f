//! [`Machine`]: the contract's implementation for the card.

use arch_contract::{Architecture, ConsoleEvent, Export, LineError, LineTrigger, PowerAction, StartCpuError};
use arch_x64::context::Context;
use arch_x64::start_up::start_up_tables;
use arch_x64::{apic, cpu, descriptors, machine_check, paging, trampoline, trap};
use wire::card::{DELAY, SPIN_CYCLES};

use crate::{platform, ring};

/// A Knights Corner card.
pub struct Machine;

/// Longest one-shot of the local APIC timer, in its ticks.
const LONGEST_TICKS: u64 = u32::MAX as u64;

/// Not implemented yet: a debugger needs a line of its own, another channel of the rings.
impl arch_contract::debug::Debugging for Machine {}

/// The first Rust code of a secondary CPU, on its own stack.
extern "C" fn cpu_start(cpu: usize, local: usize) -> ! {
    paging::control_registers();
    machine_check::enable();
    cpu::claim_block(cpu, 0);
    descriptors::load();
    apic::enable();
    cpu::claim_block(cpu, apic::id());
    cpu::set_local(local);
    apic::enable_one_shot();
    cpu::mark_started();
    trampoline::enter_kernel(cpu)
}

impl Architecture for Machine {
    const NAME: &'static str = "Knights Corner";
    const TIMER_VECTOR: u8 = apic::TIMER_VECTOR;
    const SELF_VECTOR: u8 = trap::SELF_VECTOR;
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    const INTERRUPT_STACKS: usize = descriptors::INTERRUPT_STACKS;
    type Context = Context;

    arch_x64::bare_cpu_methods!();
    arch_x64::context_methods!();

    const KEEPS_VECTORS: bool = false;

    /// Programs do not run here yet, so there is no vector state to preserve.
    fn keep_vectors(function: extern "C" fn(usize), argument: usize) {
        function(argument);
    }

    /// The card executes in order, so no fence is needed.
    #[inline(always)]
    fn cycles_in_order() -> u64 {
        cpu::cycles()
    }

    fn reset_vectors() {}

    fn vector_control() -> u64 {
        0
    }

    fn set_vector_control(_: u64) {}

    fn set_thread_pointer(address: usize) {
        arch_x64::cpu::set_fs_base(address);
    }

    fn vector_state(write: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write.write_str("none is kept yet")
    }

    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        let page = trampoline::prepare(start_up_tables(), stack_top, cpu, local, cpu_start)
            .ok_or(StartCpuError::NoTrampoline)?;
        trampoline::start(hardware_id, page, wait)
    }

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

    fn cycle_frequency_hz() -> u64 {
        platform::core_hz()
    }

    /// The card's APIC timer runs at the core clock, as does the time counter.
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
        match apic::mode() {
            apic::Mode::Expanded => "APIC with expanded ids",
            _ => "APIC with a PC's ids",
        }
    }

    fn console_write(bytes: &[u8]) {
        ring::send(bytes);
    }

    fn console_try_write(bytes: &[u8]) -> usize {
        ring::try_send(bytes)
    }

    fn console_read() -> Option<u8> {
        ring::receive()
    }

    /// Both sides of the rings poll.
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

    /// Power and reset are up to the host: the card reports that it is done, and the status.
    fn power(_: PowerAction, status: u8) -> ! {
        cpu::disable_interrupts();
        Self::stop_other_cpus();
        ring::wait_until_taken();
        platform::show_post_code([b'-', b'0' + status.min(9)]);
        ring::set_up(false);
        cpu::halt_forever()
    }
}
