//! Contract methods that this crate's CPU core implements alone, written once for all machines
//! built on it. They are macros because a trait implementation cannot be assembled from parts.

/// Probes, contexts and the invalid instruction, for every machine with this CPU, including a Linux
/// process.
#[macro_export]
macro_rules! context_methods {
    () => {
        fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ::arch_contract::ProbeError> {
            $crate::probe::read(address, buffer)
        }

        fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ::arch_contract::ProbeError> {
            $crate::probe::write(address, bytes)
        }

        fn prepare(
            context: &mut $crate::context::Context,
            stack_top: usize,
            entry: extern "C" fn(usize) -> !,
            argument: usize,
        ) {
            $crate::context::prepare(context, stack_top, entry, argument);
        }

        #[inline(always)]
        unsafe fn switch(from: *mut $crate::context::Context, to: *const $crate::context::Context) {
            // SAFETY: the caller guarantees the contract of `Architecture::switch`, which this
            // function shares.
            unsafe { $crate::context::switch(from, to) }
        }

        unsafe fn switch_through(
            from: *mut $crate::context::Context,
            stack_top: usize,
            next: extern "C" fn(usize) -> !,
            argument: usize,
        ) {
            // SAFETY: the caller guarantees the contract of `Architecture::switch_through`, which
            // this function shares.
            unsafe { $crate::context::switch_through(from, stack_top, next, argument) }
        }

        unsafe fn resume(to: *const $crate::context::Context) -> ! {
            // SAFETY: the caller guarantees the contract of `Architecture::resume`, which this
            // function shares.
            unsafe { $crate::context::resume(to) }
        }

        fn suspended_at(context: &$crate::context::Context) -> ::arch_contract::fault::Registers {
            $crate::context::suspended_at(context)
        }

        #[inline(always)]
        fn registers_here() -> ::arch_contract::fault::Registers {
            $crate::context::registers_here()
        }

        fn processor_name(write: &mut dyn ::core::fmt::Write) -> ::core::fmt::Result {
            $crate::identity::processor_name(write)
        }

        fn accelerator() -> &'static str {
            $crate::identity::accelerator()
        }

        fn instruction_set() -> &'static str {
            $crate::identity::instruction_set()
        }

        fn execute_invalid_instruction() -> ! {
            // SAFETY: UD2 always traps, and the trap's handler does not return.
            unsafe { ::core::arch::asm!("ud2", options(noreturn)) }
        }
    };
}

/// Methods of the bare CPU: GS, the interrupt flag, the local APIC, page tables.
#[macro_export]
macro_rules! bare_cpu_methods {
    () => {
        fn install(callbacks: &'static ::arch_contract::Callbacks) {
            $crate::trap::install(callbacks);
        }

        fn set_interrupt_stacks(tops: &[usize]) {
            $crate::descriptors::set_interrupt_stacks(tops);
        }

        const TRAP_FRAME: Option<::arch_contract::fault::TrapFrame> = Some($crate::trap::FRAME_BELOW_TOP);

        fn is_interrupt_entry(address: usize) -> bool {
            $crate::trap::is_interrupt_entry(address)
        }

        #[inline(always)]
        fn is_tracing() -> bool {
            $crate::trace::is_on()
        }

        fn set_tracing(tracing: bool) {
            $crate::trace::set(tracing);
        }

        fn set_trace_ring(cpu: usize, ring: *mut ::arch_contract::TraceEntry) {
            $crate::trace::set_ring(cpu, ring);
        }

        fn traced(cpu: usize) -> usize {
            $crate::trace::written(cpu)
        }

        #[inline(always)]
        fn trace(tag: u64, first: u64, second: u64) {
            $crate::trace::write(tag, first, second);
        }

        fn fault_contained() {
            $crate::descriptors::restore_fault_stack();
        }

        #[inline(always)]
        fn local() -> usize {
            $crate::cpu::local()
        }

        fn set_local(local: usize) {
            $crate::cpu::set_local(local);
        }

        #[inline(always)]
        fn current() -> usize {
            $crate::cpu::current()
        }

        #[inline(always)]
        fn set_current(thread: usize) {
            $crate::cpu::set_current(thread);
        }

        #[inline(always)]
        fn interrupts_enabled() -> bool {
            $crate::cpu::interrupts_enabled()
        }

        #[inline(always)]
        fn disable_interrupts() {
            $crate::cpu::disable_interrupts();
        }

        #[inline(always)]
        fn enable_interrupts() {
            $crate::cpu::enable_interrupts();
        }

        #[inline(always)]
        fn wait_for_interrupt() {
            $crate::cpu::wait_for_interrupt();
        }

        fn halt_forever() -> ! {
            $crate::cpu::halt_forever()
        }

        #[inline(always)]
        fn cycles() -> u64 {
            $crate::cpu::cycles()
        }

        #[inline(always)]
        fn send_ipi(cpu: usize, vector: u8) -> Result<(), ::arch_contract::IpiError> {
            $crate::apic::send_ipi(cpu, vector)
        }

        #[inline(always)]
        fn interrupt_self() {
            $crate::trap::interrupt_self();
        }

        fn broadcast_ipi(vector: u8) -> Result<(), ::arch_contract::IpiError> {
            $crate::apic::broadcast_ipi(vector)
        }

        fn interrupted() -> ::arch_contract::fault::Registers {
            $crate::trap::interrupted()
        }

        fn fault_details(vector: u8, write: &mut dyn ::core::fmt::Write) -> ::core::fmt::Result {
            if vector == $crate::trap::MACHINE_CHECK { $crate::machine_check::describe(write) } else { Ok(()) }
        }

        fn stop_other_cpus() {
            // Set the request first, so that the NMI handlers see it.
            $crate::trap::stop_at_next_nmi();
            $crate::apic::broadcast_nmi();
        }

        fn sample_other_cpus() {
            // Record the requests first, so that the NMI handlers see them.
            $crate::trap::sample_at_next_nmis();
            $crate::apic::broadcast_nmi();
        }

        #[inline(always)]
        fn physical_to_virtual(physical: u64) -> *mut u8 {
            $crate::paging::physical_to_virtual(physical)
        }

        #[inline(always)]
        fn virtual_to_physical(address: *const u8) -> u64 {
            $crate::paging::virtual_to_physical(address)
        }

        fn stack_window() -> ::core::ops::Range<usize> {
            $crate::paging::STACK_WINDOW
        }

        fn program_window() -> ::core::ops::Range<usize> {
            $crate::paging::PROGRAM_WINDOW
        }

        fn map_pages(
            address: usize,
            physical: u64,
            size: usize,
            protection: ::arch_contract::Protection,
            table: &mut dyn FnMut() -> Option<u64>,
        ) -> Result<(), ::arch_contract::MapError> {
            $crate::paging::map_pages(address, physical, size, protection, table)
        }

        fn unmap_page(address: usize) -> Option<u64> {
            $crate::paging::unmap_page(address)
        }

        fn flush_tlb() {
            $crate::paging::flush_tlb();
        }

        #[inline(always)]
        fn system_call(number: usize) -> isize {
            $crate::system_call::execute(number)
        }
    };
}

/// Floating-point and vector state for CPUs with SSE, without `keep_vectors`, which differs between
/// machines.
#[macro_export]
macro_rules! vector_methods {
    () => {
        fn reset_vectors() {
            $crate::vectors::reset();
        }

        #[inline(always)]
        fn vector_control() -> u64 {
            $crate::vectors::control()
        }

        #[inline(always)]
        fn set_vector_control(control: u64) {
            $crate::vectors::set_control(control);
        }

        fn vector_state(write: &mut dyn ::core::fmt::Write) -> ::core::fmt::Result {
            $crate::vectors::describe(write)
        }
    };
}
