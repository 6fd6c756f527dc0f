//! [`Machine`]: the contract's implementation for a Linux process.

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr;

use arch_contract::fault::{Registers, TrapFrame};
use arch_contract::{
    Architecture, Callbacks, Contexts as _, IpiError, MapError, PowerAction, ProbeError, Protection, StartCpuError,
    TraceEntry,
};
use arch_x64::cpu::context::Context;
use arch_x64::cpu::{Contexts, identity, probe};

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
    Contexts::prepare(&mut context, stack_top, cpu_start, cpu);
    // SAFETY: the kernel provides the stack for this CPU, and the context was just prepared; the
    // pthread's own stack is abandoned.
    unsafe { Contexts::resume(&raw const context) }
}

extern "C" fn cpu_start(cpu: usize) -> ! {
    match cpu::callbacks() {
        Some(callbacks) => (callbacks.cpu_main)(cpu),
        None => <Core as arch_contract::Core>::halt_forever(),
    }
}

/// Default stack size of a thread, in bytes. The C library's functions run on it too.
const STACK_SIZE: usize = 256 * 1024;

impl Architecture for Machine {
    const NAME: &'static str = "host";
    const DEFAULT_STACK_SIZE: usize = STACK_SIZE;
    type Core = Core;
    type Contexts = Contexts;
    type Vectors = Vectors;
    type Traps = Traps;
    type Ipi = Ipi;
    type Lines = Nothing;
    type Clock = Clock;
    type AddressSpace = AddressSpace;
    type TraceRing = TraceRing;
    type ConsoleDevice = StandardOutput;
    type Platform = Platform;
    type Debug = Nothing;
    type DebugLine = Nothing;
}

/// What a process does not have. A debugger of the process, such as gdb, takes the place of the
/// debugger's mechanisms.
pub struct Nothing;

impl arch_contract::Lines for Nothing {}
impl arch_contract::Debug for Nothing {}
impl arch_contract::DebugLine for Nothing {}

/// A pthread as a CPU.
pub struct Core;

impl arch_contract::Core for Core {
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

    fn cycles() -> u64 {
        cycles()
    }

    fn cycles_in_order() -> u64 {
        cycles()
    }

    /// Thread-local variables are the C library's, so FS base stays unchanged.
    fn set_thread_pointer(_: usize) {}

    /// Makes a Linux system call with a number that Linux does not know.
    fn system_call(number: usize) -> isize {
        // SAFETY: the call has no arguments, and a number unknown to Linux has no effect.
        let result = unsafe { libc::syscall((number | UNKNOWN_CALLS) as libc::c_long) };
        if result == -1 { -(io::Error::last_os_error().raw_os_error().unwrap_or(0) as isize) } else { result as isize }
    }

    fn execute_invalid_instruction() -> ! {
        identity::execute_invalid_instruction()
    }

    fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result {
        identity::processor_name(write)
    }

    fn accelerator() -> &'static str {
        identity::accelerator()
    }

    fn instruction_set() -> &'static str {
        identity::instruction_set()
    }
}

/// Vector state, which Linux keeps around each signal handler.
pub struct Vectors;

impl arch_contract::Vectors for Vectors {
    const ARE_USED: bool = true;

    fn reset() {
        arch_x64::cpu::Vectors::reset();
    }

    fn control() -> u64 {
        arch_x64::cpu::Vectors::control()
    }

    fn set_control(control: u64) {
        arch_x64::cpu::Vectors::set_control(control);
    }

    fn describe(write: &mut dyn fmt::Write) -> fmt::Result {
        arch_x64::cpu::Vectors::describe(write)
    }
}

/// Interrupts and faults by signals.
pub struct Traps;

impl arch_contract::Traps for Traps {
    const STACKS: usize = 1;
    const FRAME: Option<TrapFrame> = None;
    const SELF_VECTOR: u8 = SELF_VECTOR;

    fn install(callbacks: &'static Callbacks) {
        cpu::install(callbacks);
    }

    /// The fault handler has a stack of its own, because a thread's stack overflow is one of the
    /// faults.
    fn set_stacks(tops: &[usize]) {
        signals::use_alternate_stack(tops[0], STACK_SIZE);
    }

    fn interrupt_self() {
        cpu::interrupt_self(SELF_VECTOR);
    }

    /// A handler runs on the interrupted thread's own stack, so the chain of frames continues from
    /// here.
    #[inline(always)]
    fn interrupted() -> Registers {
        Contexts::registers_here()
    }

    fn is_interrupt_entry(_: usize) -> bool {
        false
    }

    fn fault_contained() {}
}

/// Interrupts from CPU to CPU by signals.
pub struct Ipi;

impl arch_contract::Ipi for Ipi {
    fn send(cpu: usize, vector: u8) -> Result<(), IpiError> {
        if cpu::send(cpu, vector) { Ok(()) } else { Err(IpiError::NoSuchCpu) }
    }

    fn broadcast(vector: u8) -> Result<(), IpiError> {
        let here = cpu::this_index();
        cpu::running().filter(|&cpu| cpu != here).for_each(|cpu| {
            cpu::send(cpu, vector);
        });
        Ok(())
    }

    fn stop_others() {
        cpu::stop_others();
    }

    fn sample_others() {
        cpu::sample_others();
    }
}

/// A POSIX timer for each CPU.
pub struct Clock;

impl arch_contract::Clock for Clock {
    const VECTOR: u8 = TIMER_VECTOR;

    fn name() -> &'static str {
        "POSIX timer"
    }

    fn frequency_hz() -> u64 {
        1_000_000_000
    }

    fn arm(deadline_cycles: u64) {
        cpu::set_timer(deadline_cycles.max(1));
    }

    fn disarm() {
        cpu::set_timer(0);
    }
}

/// The memory file as physical memory.
pub struct AddressSpace;

impl arch_contract::AddressSpace for AddressSpace {
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

    fn probe_read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError> {
        probe::read(address, buffer)
    }

    unsafe fn probe_write(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        // SAFETY: the caller answers for the write.
        unsafe { probe::write(address, bytes) }
    }
}

/// Trace rings of pthreads.
pub struct TraceRing;

impl arch_contract::TraceRing for TraceRing {
    fn is_on() -> bool {
        arch_x64::cpu::TraceRing::is_on()
    }

    fn set_on(on: bool) {
        arch_x64::cpu::TraceRing::set_on(on);
    }

    fn set(cpu: usize, ring: *mut TraceEntry) {
        cpu::set_trace_ring(cpu, ring);
    }

    fn written(cpu: usize) -> usize {
        cpu::traced(cpu)
    }

    fn write(tag: u64, first: u64, second: u64) {
        cpu::trace(cycles(), tag, first, second);
    }
}

/// Standard output as the console.
pub struct StandardOutput;

impl arch_contract::ConsoleDevice for StandardOutput {
    fn write(bytes: &[u8]) {
        // SAFETY: the slice is valid for reads; output that a closed descriptor refuses is dropped.
        unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }

    fn try_write(bytes: &[u8]) -> usize {
        Self::write(bytes);
        bytes.len()
    }

    fn read() -> Option<u8> {
        None
    }
}

/// The process around its CPUs.
pub struct Platform;

impl arch_contract::Platform for Platform {
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

    fn interrupt_controller() -> &'static str {
        "signals"
    }

    fn power(_: PowerAction, status: u8) -> ! {
        // SAFETY: `_exit` ends the process without running destructors on a stack that is not the
        // main thread's.
        unsafe { libc::_exit(i32::from(status)) }
    }
}
