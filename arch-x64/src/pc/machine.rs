//! [`Machine`]: the contract, fulfilled by a PC.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use arch_contract::fault::Registers;
use arch_contract::{
    Architecture, Callbacks, IpiError, LineError, LineTrigger, MapError, PowerAction, ProbeError, StartCpuError,
};

use super::{entry, io_apic, power, serial, timer};
use crate::context::{self, Context};
use crate::{apic, cpu, descriptors, paging, probe, trampoline, trap};

/// A PC.
pub struct Machine;

/// Set by a CPU on its way up, cleared by the one that starts it.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Waits until the start-up message is repeated (SDM Vol. 3A, 9.4.4: after 200 us, of which a wait is a quarter). The
/// 10 ms after INIT are for CPUs before 1995.
const WAITS_BEFORE_REPEAT: u32 = 6;

/// First Rust of a further CPU, on its own stack.
extern "C" fn cpu_start(cpu: usize, local: usize) -> ! {
    paging::control_registers();
    cpu::claim_block(cpu, 0);
    descriptors::load();
    apic::enable();
    cpu::claim_block(cpu, apic::id());
    cpu::set_local(local);
    timer::enable_on_this_cpu();
    cpu::mark_started();
    ANSWERED.store(true, Ordering::Release);
    match trap::callbacks() {
        Some(callbacks) => (callbacks.cpu_main)(cpu),
        None => cpu::halt_forever(),
    }
}

impl Architecture for Machine {
    const NAME: &'static str = "x86-64";
    const TIMER_VECTOR: u8 = apic::TIMER_VECTOR;
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    const SELF_VECTOR: u8 = trap::SELF_VECTOR;
    const INTERRUPT_STACKS: usize = descriptors::INTERRUPT_STACKS;
    type Context = Context;

    fn install(callbacks: &'static Callbacks) {
        trap::install(callbacks);
    }

    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        let page = trampoline::prepare(entry::start_up_tables(), stack_top, cpu, local, cpu_start)
            .ok_or(StartCpuError::NoTrampoline)?;
        ANSWERED.store(false, Ordering::Release);
        let send = |message: fn(u32, u8) -> Result<(), IpiError>| {
            let were_enabled = cpu::interrupts_enabled();
            cpu::disable_interrupts();
            let result = message(hardware_id, page).map_err(|_| StartCpuError::NoAnswer);
            if were_enabled {
                cpu::enable_interrupts();
            }
            result
        };
        send(|id, _| apic::send_init(id))?;
        wait();
        send(apic::send_startup)?;
        let mut waits = 0;
        while !ANSWERED.load(Ordering::Acquire) {
            if waits == WAITS_BEFORE_REPEAT {
                send(apic::send_startup)?;
            }
            waits += 1;
            if !wait() {
                // Back into reset, so that it cannot wake up later on a page and a stack that are others' by then.
                let _ = send(|id, _| apic::send_init(id));
                return Err(StartCpuError::NoAnswer);
            }
        }
        Ok(())
    }

    fn set_interrupt_stacks(tops: &[usize]) {
        descriptors::set_interrupt_stacks(tops);
    }

    #[inline(always)]
    fn local() -> usize {
        cpu::local()
    }

    fn set_local(local: usize) {
        cpu::set_local(local);
    }

    #[inline(always)]
    fn current() -> usize {
        cpu::current()
    }

    #[inline(always)]
    fn set_current(thread: usize) {
        cpu::set_current(thread);
    }

    #[inline(always)]
    fn interrupts_enabled() -> bool {
        cpu::interrupts_enabled()
    }

    #[inline(always)]
    fn disable_interrupts() {
        cpu::disable_interrupts();
    }

    #[inline(always)]
    fn enable_interrupts() {
        cpu::enable_interrupts();
    }

    #[inline(always)]
    fn wait_for_interrupt() {
        cpu::wait_for_interrupt();
    }

    #[inline(always)]
    fn spin_hint() {
        core::hint::spin_loop();
    }

    fn halt_forever() -> ! {
        cpu::halt_forever()
    }

    #[inline(always)]
    fn cycles() -> u64 {
        cpu::cycles()
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

    #[inline(always)]
    fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError> {
        apic::send_ipi(cpu, vector)
    }

    fn interrupt_self() {
        trap::interrupt_self();
    }

    fn broadcast_ipi(vector: u8) -> Result<(), IpiError> {
        apic::broadcast_ipi(vector)
    }

    fn stop_other_cpus() {
        trap::stop_at_next_nmi();
        apic::broadcast_nmi();
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

    #[inline(always)]
    fn physical_to_virtual(physical: u64) -> *mut u8 {
        paging::physical_to_virtual(physical)
    }

    #[inline(always)]
    fn virtual_to_physical(address: *const u8) -> u64 {
        paging::virtual_to_physical(address)
    }

    fn stack_window() -> Range<usize> {
        paging::STACK_WINDOW
    }

    fn map_page(address: usize, physical: u64, table: &mut dyn FnMut() -> Option<u64>) -> Result<(), MapError> {
        paging::map_page(address, physical, table)
    }

    fn unmap_page(address: usize) -> Option<u64> {
        paging::unmap_page(address)
    }

    fn flush_tlb() {
        paging::flush_tlb();
    }

    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError> {
        probe::read(address, buffer)
    }

    fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        probe::write(address, bytes)
    }

    fn prepare(context: &mut Context, stack_top: usize, entry: extern "C" fn(usize) -> !, argument: usize) {
        context::prepare(context, stack_top, entry, argument);
    }

    #[inline(always)]
    unsafe fn switch(from: *mut Context, to: *const Context) {
        // SAFETY: the caller's obligations are the same.
        unsafe { context::switch(from, to) }
    }

    unsafe fn switch_through(from: *mut Context, stack_top: usize, next: extern "C" fn(usize) -> !, argument: usize) {
        // SAFETY: the caller's obligations are the same.
        unsafe { context::switch_through(from, stack_top, next, argument) }
    }

    unsafe fn resume(to: *const Context) -> ! {
        // SAFETY: the caller's obligations are the same.
        unsafe { context::resume(to) }
    }

    fn suspended_at(context: &Context) -> Registers {
        context::suspended_at(context)
    }

    #[inline(always)]
    fn registers_here() -> Registers {
        context::registers_here()
    }

    fn execute_invalid_instruction() -> ! {
        // SAFETY: UD2 traps; the trap handler does not return.
        unsafe { core::arch::asm!("ud2", options(noreturn)) }
    }

    fn console_write(bytes: &[u8]) {
        serial::send(bytes);
    }

    fn console_read() -> Option<u8> {
        serial::receive()
    }

    fn console_line() -> Option<u32> {
        let line = io_apic::line_of_isa(serial::ISA_INTERRUPT);
        (line < io_apic::line_count()).then_some(line)
    }

    fn console_enable_interrupt() {
        serial::enable_receive_interrupt();
    }

    fn power(action: PowerAction, status: u8) -> ! {
        power::act(action, status)
    }
}
