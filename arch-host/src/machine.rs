//! [`Machine`]: the contract's implementation for a Linux process.

use std::io;
use std::ops::Range;
use std::ptr;

use arch_contract::{
    Architecture, Callbacks, ConsoleEvent, Export, IpiError, LineError, LineTrigger, MapError, PowerAction, Protection,
    StartCpuError, TraceEntry,
};
use arch_x64::context::{self, Context};

use crate::{cpu, memory, signals};

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector of `interrupt_self`.
const SELF_VECTOR: u8 = 0xe0;

/// Bit that turns any number into one that Linux has no system call for.
const UNKNOWN_CALLS: usize = 1 << 24;

/// A Linux process.
pub struct Machine;

/// Reads the monotonic clock in ns, which serves as the time counter.
pub fn cycles() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Arguments of a new CPU's pthread.
struct Start {
    cpu: usize,
    stack_top: usize,
    local: usize,
}

extern "C" fn cpu_thread(start: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start_cpu` made the value for this thread alone, which reads it once.
    let Start { cpu, stack_top, local } = unsafe { start.cast::<Start>().read() };
    cpu::set_local_of(cpu, local);
    cpu::become_cpu(cpu);
    let mut context = Context::default();
    context::prepare(&mut context, stack_top, cpu_start, cpu);
    // SAFETY: the kernel provides the stack for this CPU, and the context was just prepared; the
    // pthread's own stack is abandoned.
    unsafe { context::resume(&raw const context) }
}

extern "C" fn cpu_start(cpu: usize) -> ! {
    match cpu::callbacks() {
        Some(callbacks) => (callbacks.cpu_main)(cpu),
        None => Machine::halt_forever(),
    }
}

/// A debugger of the process, such as gdb, takes the place of these mechanisms.
impl arch_contract::debug::Debugging for Machine {}

impl Architecture for Machine {
    const NAME: &'static str = "host";
    const INTERRUPT_STACKS: usize = 1;
    const TRAP_FRAME: Option<arch_contract::fault::TrapFrame> = None;
    const DEFAULT_STACK_SIZE: usize = 256 * 1024;
    const SELF_VECTOR: u8 = SELF_VECTOR;
    const TIMER_VECTOR: u8 = TIMER_VECTOR;
    type Context = Context;

    arch_x64::context_methods!();
    arch_x64::vector_methods!();

    /// Thread-local variables are the C library's, so FS base stays unchanged.
    fn set_thread_pointer(_: usize) {}

    fn fault_contained() {}

    /// Makes a Linux system call with a number that Linux does not know.
    fn system_call(number: usize) -> isize {
        // SAFETY: the call has no arguments, and a number unknown to Linux has no effect.
        let result = unsafe { libc::syscall((number | UNKNOWN_CALLS) as libc::c_long) };
        if result == -1 { -(io::Error::last_os_error().raw_os_error().unwrap_or(0) as isize) } else { result as isize }
    }

    fn is_tracing() -> bool {
        arch_x64::trace::is_on()
    }

    fn set_tracing(tracing: bool) {
        arch_x64::trace::set(tracing);
    }

    fn set_trace_ring(cpu: usize, ring: *mut TraceEntry) {
        cpu::set_trace_ring(cpu, ring);
    }

    fn traced(cpu: usize) -> usize {
        cpu::traced(cpu)
    }

    fn trace(tag: u64, first: u64, second: u64) {
        cpu::trace(Self::cycles(), tag, first, second);
    }

    /// Linux saves and restores the state around each signal handler.
    fn keep_vectors(function: extern "C" fn(usize), argument: usize) {
        function(argument);
    }

    fn install(callbacks: &'static Callbacks) {
        cpu::install(callbacks);
    }

    fn start_cpu(
        cpu: usize,
        _: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        if cpu::is_silent(cpu) {
            while wait() {}
            return Err(StartCpuError::NoAnswer);
        }
        let start = Box::into_raw(Box::new(Start { cpu, stack_top, local }));
        let mut thread = 0;
        // Disable interrupts, because pthread_create allocates.
        let were_enabled = cpu::interrupts_enabled();
        cpu::disable_interrupts();
        // SAFETY: `cpu_thread` takes a pointer to a `Start`, and becomes the only owner of this
        // one.
        let result = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), cpu_thread, start.cast()) };
        if were_enabled {
            cpu::enable_interrupts();
        }
        if result == 0 { Ok(()) } else { Err(StartCpuError::NoAnswer) }
    }

    /// The fault handler has a stack of its own, because a thread's stack overflow is one of the
    /// faults.
    fn set_interrupt_stacks(tops: &[usize]) {
        signals::use_alternate_stack(tops[0], Self::DEFAULT_STACK_SIZE);
    }

    fn local() -> usize {
        cpu::local()
    }

    fn set_local(local: usize) {
        cpu::set_local(local);
    }

    fn current() -> usize {
        cpu::current()
    }

    fn set_current(thread: usize) {
        cpu::set_current(thread);
    }

    fn interrupts_enabled() -> bool {
        cpu::interrupts_enabled()
    }

    fn disable_interrupts() {
        cpu::disable_interrupts();
    }

    fn enable_interrupts() {
        cpu::enable_interrupts();
    }

    fn wait_for_interrupt() {
        cpu::wait_for_interrupt();
    }

    fn spin_hint() {
        // There can be more CPUs than the host has.
        // SAFETY: the call has no preconditions and accesses no memory.
        unsafe { libc::sched_yield() };
    }

    fn halt_forever() -> ! {
        loop {
            // SAFETY: the call only sleeps; signals that arrive find interrupts disabled.
            unsafe { libc::pause() };
        }
    }

    fn cycles_in_order() -> u64 {
        Self::cycles()
    }

    fn cycles() -> u64 {
        cycles()
    }

    fn cycle_frequency_hz() -> u64 {
        1_000_000_000
    }

    fn arm_timer(deadline_cycles: u64) {
        cpu::set_timer(deadline_cycles.max(1));
    }

    fn disarm_timer() {
        cpu::set_timer(0);
    }

    fn timer_name() -> &'static str {
        "POSIX timer"
    }

    fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError> {
        if cpu::send(cpu, vector) { Ok(()) } else { Err(IpiError::NoSuchCpu) }
    }

    fn interrupt_self() {
        cpu::interrupt_self(SELF_VECTOR);
    }

    fn is_interrupt_entry(_: usize) -> bool {
        false
    }

    /// A handler runs on the interrupted thread's own stack, so the chain of frames continues from
    /// here.
    #[inline(always)]
    fn interrupted() -> arch_contract::fault::Registers {
        arch_x64::context::registers_here()
    }

    fn broadcast_ipi(vector: u8) -> Result<(), IpiError> {
        let here = cpu::this_index();
        cpu::running().filter(|&cpu| cpu != here).for_each(|cpu| {
            cpu::send(cpu, vector);
        });
        Ok(())
    }

    fn stop_other_cpus() {
        cpu::stop_others();
    }

    fn sample_other_cpus() {
        cpu::sample_others();
    }

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
        "signals"
    }

    fn physical_to_virtual(physical: u64) -> *mut u8 {
        memory::physical_to_virtual(physical)
    }

    fn virtual_to_physical(address: *const u8) -> u64 {
        memory::virtual_to_physical(address)
    }

    fn stack_window() -> Range<usize> {
        memory::stack_window()
    }

    fn program_window() -> Range<usize> {
        memory::PROGRAM_WINDOW
    }

    fn map_pages(
        address: usize,
        physical: u64,
        size: usize,
        protection: Protection,
        _: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), MapError> {
        memory::map_pages(address, physical, size, protection)
    }

    fn unmap_page(address: usize) -> Option<u64> {
        memory::unmap_page(address)
    }

    fn flush_tlb() {}

    fn console_write(bytes: &[u8]) {
        // SAFETY: the slice is valid for reads; output that a closed descriptor refuses is dropped.
        unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
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

    fn power(_: PowerAction, status: u8) -> ! {
        // SAFETY: `_exit` ends the process without running destructors on a stack that is not the
        // main thread's.
        unsafe { libc::_exit(i32::from(status)) }
    }
}
