//! [`Machine`]: the contract's implementation for a PC.

use arch_contract::{
    Architecture, ConsoleEvent, Export, Framebuffer, LineError, LineTrigger, PowerAction, StartCpuError,
};

use super::uart::Polled;
use super::{debug_port, io_apic, keyboard, power, screen, serial, timer};
use crate::context::Context;
use crate::{apic, cpu, descriptors, machine_check, paging, trampoline, trap, vectors};

/// A PC.
pub struct Machine;

/// COM3, the telemetry line, which is polled.
static TELEMETRY: Polled = Polled::at(0x3e8);

/// The first Rust code of a secondary CPU, on its own stack.
extern "C" fn cpu_start(cpu: usize, local: usize) -> ! {
    paging::control_registers();
    machine_check::enable();
    vectors::enable();
    cpu::claim_block(cpu, 0);
    descriptors::load();
    apic::enable();
    cpu::claim_block(cpu, apic::id());
    cpu::set_local(local);
    timer::enable_on_this_cpu();
    cpu::mark_started();
    trampoline::enter_kernel(cpu)
}

impl Architecture for Machine {
    const NAME: &'static str = "x86-64";
    const TIMER_VECTOR: u8 = apic::TIMER_VECTOR;
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    const SELF_VECTOR: u8 = trap::SELF_VECTOR;
    const INTERRUPT_STACKS: usize = descriptors::INTERRUPT_STACKS;
    type Context = Context;

    crate::bare_cpu_methods!();
    crate::context_methods!();
    crate::vector_methods!();

    #[inline(always)]
    fn cycles_in_order() -> u64 {
        crate::cpu::cycles_in_order()
    }

    #[inline(always)]
    fn set_thread_pointer(address: usize) {
        cpu::set_thread_pointer(address);
    }

    fn keep_vectors(function: extern "C" fn(usize), argument: usize) {
        vectors::keep(function, argument);
    }

    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        let page = trampoline::prepare(crate::start_up::start_up_tables(), stack_top, cpu, local, cpu_start)
            .ok_or(StartCpuError::NoTrampoline)?;
        trampoline::start(hardware_id, page, wait)
    }

    #[inline(always)]
    fn spin_hint() {
        core::hint::spin_loop();
    }

    fn cycle_frequency_hz() -> u64 {
        timer::cycle_frequency_hz()
    }

    #[inline(always)]
    fn arm_timer(deadline_cycles: u64) {
        timer::arm(deadline_cycles);
    }

    fn disarm_timer() {
        timer::disarm();
    }

    fn timer_name() -> &'static str {
        timer::name()
    }

    fn line_count() -> u32 {
        io_apic::line_count()
    }

    fn route_line(line: u32, vector: u8, cpu: usize, trigger: LineTrigger) -> Result<(), LineError> {
        io_apic::route(line, vector, cpu, trigger)
    }

    fn mask_line(line: u32) -> Result<(), LineError> {
        io_apic::mask(line)
    }

    fn interrupt_controller_name() -> &'static str {
        match (apic::mode(), io_apic::controller_count()) {
            (apic::Mode::X2Apic, 0) => "x2APIC, no I/O APIC",
            (apic::Mode::X2Apic, _) => "x2APIC and I/O APIC",
            (_, 0) => "xAPIC, no I/O APIC",
            (_, _) => "xAPIC and I/O APIC",
        }
    }

    fn console_write(bytes: &[u8]) {
        serial::send(bytes);
    }

    fn console_try_write(bytes: &[u8]) -> usize {
        serial::try_send(bytes)
    }

    fn console_read() -> Option<u8> {
        serial::receive()
    }

    fn console_line() -> Option<u32> {
        let line = io_apic::line_of_isa(serial::ISA_INTERRUPT);
        (line < io_apic::line_count()).then_some(line)
    }

    fn console_watch(event: ConsoleEvent) {
        serial::watch(event);
    }

    fn console_ignore(event: ConsoleEvent) {
        serial::ignore(event);
    }

    fn console_is_raised() -> bool {
        serial::is_raised()
    }

    fn export(what: Export, bytes: &[u8]) {
        debug_port::write(what, bytes);
    }

    fn screen() -> Option<Framebuffer> {
        screen::framebuffer()
    }

    fn keyboard_init() -> Option<u32> {
        let line = io_apic::line_of_isa(keyboard::ISA_INTERRUPT);
        (line < io_apic::line_count() && keyboard::init()).then_some(line)
    }

    fn keyboard_read() -> Option<u8> {
        keyboard::receive()
    }

    fn telemetry_init() -> bool {
        TELEMETRY.init()
    }

    fn telemetry_read() -> Option<u8> {
        TELEMETRY.receive()
    }

    fn telemetry_write(bytes: &[u8]) {
        bytes.iter().for_each(|&byte| TELEMETRY.send(byte));
    }

    fn exports(what: Export) -> bool {
        debug_port::is_there(what)
    }

    fn power(action: PowerAction, status: u8) -> ! {
        power::act(action, status)
    }
}
