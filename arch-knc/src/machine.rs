//! [`Machine`]: the contract, fulfilled by the card as far as it is there.

use core::ops::Range;

use arch_contract::fault::Registers;
use arch_contract::{
    Architecture, Callbacks, IpiError, LineError, LineTrigger, MapError, PowerAction, ProbeError, StartCpuError,
};
use arch_x64::context::{self, Context};
use arch_x64::{apic, cpu, descriptors, paging, probe, trap};

use crate::platform;

/// A Knights Corner card.
pub struct Machine;

/// Longest one-shot of the local APIC timer, in its ticks.
const LONGEST_TICKS: u64 = u32::MAX as u64;

impl Architecture for Machine {
    const NAME: &'static str = "Knights Corner";
    const TIMER_VECTOR: u8 = apic::TIMER_VECTOR;
    const SELF_VECTOR: u8 = trap::SELF_VECTOR;
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    const INTERRUPT_STACKS: usize = descriptors::INTERRUPT_STACKS;
    type Context = Context;

    fn install(callbacks: &'static Callbacks) {
        trap::install(callbacks);
    }

    /// Not there yet: needs the card's start-up page tables.
    fn start_cpu(_: usize, _: u32, _: usize, _: usize, _: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
        Err(StartCpuError::NoTrampoline)
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

    /// The card has no PAUSE; an empty statement keeps the loop.
    #[inline(always)]
    fn spin_hint() {
        // SAFETY: no instruction at all.
        unsafe { core::arch::asm!("", options(nomem, nostack, preserves_flags)) };
    }

    fn halt_forever() -> ! {
        cpu::halt_forever()
    }

    #[inline(always)]
    fn cycles() -> u64 {
        cpu::cycles()
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

    /// Until the ring console is there, the host sees the last two characters as the POST code.
    fn console_write(bytes: &[u8]) {
        if let [.., first, second] = *bytes {
            platform::show_post_code([first, second]);
        }
    }

    fn console_read() -> Option<u8> {
        None
    }

    fn console_line() -> Option<u32> {
        None
    }

    fn console_enable_interrupt() {}

    /// Power and reset are the host's.
    fn power(_: PowerAction, _: u8) -> ! {
        cpu::halt_forever()
    }
}
