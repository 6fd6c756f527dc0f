//! The CPUs: pthreads whose GS points at their state.

use std::arch::asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arch_contract::{Callbacks, MAX_CPUS, TRACE_ENTRIES, TraceEntry};

use crate::machine::TIMER_VECTOR;

/// A CPU's state. The first fields are read by single instructions through GS, so that they are right whatever CPU the
/// reader is on by then.
#[repr(C)]
pub struct HostCpu {
    local: AtomicUsize,
    current: AtomicUsize,
    address: AtomicUsize,
    enabled: AtomicU8,
    /// Interrupts that arrived, a bit each.
    pending: [AtomicU64; 4],
    /// Changes with every arrival: what a sleeping CPU waits on.
    arrivals: AtomicU32,
    /// Linux's number of the pthread, 0 while it does not run.
    thread_id: AtomicI32,
    timer: AtomicPtr<libc::c_void>,
    /// Set when it shall say where it is.
    sample_due: AtomicBool,
    /// Its trace ring, and the entries ever written to it.
    trace_ring: (AtomicPtr<TraceEntry>, AtomicUsize),
    /// The pthread's stack for faults: start and size.
    fault_stack: (AtomicUsize, AtomicUsize),
}

static CPUS: [HostCpu; MAX_CPUS] = [const {
    HostCpu {
        local: AtomicUsize::new(0),
        current: AtomicUsize::new(0),
        address: AtomicUsize::new(0),
        enabled: AtomicU8::new(0),
        pending: [const { AtomicU64::new(0) }; 4],
        arrivals: AtomicU32::new(0),
        thread_id: AtomicI32::new(0),
        timer: AtomicPtr::new(ptr::null_mut()),
        sample_due: AtomicBool::new(false),
        trace_ring: (AtomicPtr::new(ptr::null_mut()), AtomicUsize::new(0)),
        fault_stack: (AtomicUsize::new(0), AtomicUsize::new(0)),
    }
}; MAX_CPUS];

static CALLBACKS: AtomicPtr<Callbacks> = AtomicPtr::new(ptr::null_mut());
/// Set when all CPUs shall stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Linux's arch_prctl code that sets GS base (asm/prctl.h).
const ARCH_SET_GS: libc::c_int = 0x1001;
/// The signal of an interrupt, and that of a timer's end.
pub const INTERRUPT_SIGNAL: libc::c_int = libc::SIGUSR1;
pub const TIMER_SIGNAL: libc::c_int = libc::SIGUSR2;

thread_local! {
    static IS_CPU: Cell<bool> = const { Cell::new(false) };
}

/// True if the calling pthread is a CPU.
#[inline(never)]
pub fn this_thread_is_cpu() -> bool {
    IS_CPU.with(Cell::get)
}

/// Makes the calling pthread a CPU, interrupts disabled.
pub fn become_cpu(index: usize) {
    let cpu = &CPUS[index];
    cpu.address.store(ptr::from_ref(cpu) as usize, Ordering::Relaxed);
    // SAFETY: nothing else uses GS in a Linux process on x86-64.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, ptr::from_ref(cpu)) };
    assert_eq!(result, 0, "GS base cannot be set");
    // SAFETY: an all-zero sigevent is a valid value to be filled in.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = TIMER_SIGNAL;
    // SAFETY: always succeeds.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = ptr::null_mut();
    // SAFETY: both point at values of the right types.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(result, 0, "a timer cannot be made");
    cpu.timer.store(timer, Ordering::Relaxed);
    IS_CPU.with(|is_cpu| is_cpu.set(true));
    cpu.thread_id.store(event.sigev_notify_thread_id, Ordering::Release);
}

/// Index of the CPU that never answers, or `usize::MAX`.
static SILENT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Makes a CPU deaf to its start-up signal.
pub fn silence(cpu: Option<usize>) {
    SILENT.store(cpu.unwrap_or(usize::MAX), Ordering::Relaxed);
}

/// True if the CPU does not answer.
pub fn is_silent(index: usize) -> bool {
    SILENT.load(Ordering::Relaxed) == index
}

/// True once the CPU runs.
pub fn is_running(index: usize) -> bool {
    CPUS.get(index).is_some_and(|cpu| cpu.thread_id.load(Ordering::Acquire) != 0)
}

/// The calling CPU. Only stable with interrupts disabled.
pub fn this() -> &'static HostCpu {
    let address: usize;
    // SAFETY: GS points at this CPU's state since `become_cpu`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) address, const offset_of!(HostCpu, address), options(nostack, preserves_flags))
    };
    // SAFETY: the address of a static.
    unsafe { &*(address as *const HostCpu) }
}

pub fn local() -> usize {
    let local;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) local, const offset_of!(HostCpu, local), options(nostack, preserves_flags))
    };
    local
}

pub fn set_local(local: usize) {
    this().local.store(local, Ordering::Relaxed);
}

/// Sets the local pointer of a CPU that does not run yet.
pub fn set_local_of(index: usize, local: usize) {
    CPUS[index].local.store(local, Ordering::Relaxed);
}

pub fn current() -> usize {
    let current;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) current, const offset_of!(HostCpu, current), options(nostack, preserves_flags))
    };
    current
}

pub fn set_current(thread: usize) {
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov gs:[{}], {}", const offset_of!(HostCpu, current), in(reg) thread, options(nostack, preserves_flags))
    };
}

pub fn interrupts_enabled() -> bool {
    let enabled: u8;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg_byte) enabled, const offset_of!(HostCpu, enabled), options(nostack, preserves_flags))
    };
    enabled != 0
}

pub fn disable_interrupts() {
    // SAFETY: as in `this`; one instruction, so it concerns one CPU.
    unsafe { asm!("mov byte ptr gs:[{}], 0", const offset_of!(HostCpu, enabled), options(nostack, preserves_flags)) };
}

/// Gives a CPU a trace ring, or begins it anew.
pub fn set_trace_ring(index: usize, ring: *mut TraceEntry) {
    CPUS[index].trace_ring.1.store(0, Ordering::Relaxed);
    CPUS[index].trace_ring.0.store(ring, Ordering::Release);
}

/// Entries ever written to a CPU's trace ring.
pub fn traced(index: usize) -> usize {
    CPUS[index].trace_ring.1.load(Ordering::Acquire)
}

/// Writes an entry to this CPU's trace ring. Interrupts disabled.
pub fn trace(cycles: u64, tag: u64, first: u64, second: u64) {
    let (ring, written) = &this().trace_ring;
    let ring = ring.load(Ordering::Acquire);
    if ring.is_null() {
        return;
    }
    let at = written.load(Ordering::Relaxed);
    // SAFETY: the kernel gave so many entries, which this CPU alone writes.
    unsafe { ring.add(at % TRACE_ENTRIES).write([cycles, tag, first, second]) };
    written.store(at + 1, Ordering::Release);
}

/// Notes this CPU's stack for faults.
pub fn set_fault_stack(start: usize, size: usize) {
    let place = &this().fault_stack;
    place.0.store(start, Ordering::Relaxed);
    place.1.store(size, Ordering::Relaxed);
}

/// Start and size of this CPU's stack for faults.
pub fn fault_stack() -> (usize, usize) {
    let place = &this().fault_stack;
    (place.0.load(Ordering::Relaxed), place.1.load(Ordering::Relaxed))
}

/// Whether interrupts arrived that were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    None,
    Some,
}

pub fn enable_interrupts() {
    // What arrived before was left to us; what arrives from now on comes by its signal. If this thread moves to
    // another CPU here, the one it leaves has enabled interrupts of its own.
    if allow_interrupts() == Pending::Some {
        take_interrupts();
    }
}

/// Enables interrupts, but leaves those that are pending.
pub fn allow_interrupts() -> Pending {
    // SAFETY: as in `disable_interrupts`.
    unsafe { asm!("mov byte ptr gs:[{}], 1", const offset_of!(HostCpu, enabled), options(nostack, preserves_flags)) };
    if this().has_pending() { Pending::Some } else { Pending::None }
}

/// Takes all interrupts that arrived, if they are enabled. May return on another CPU.
pub fn take_interrupts() {
    while interrupts_enabled() {
        disable_interrupts();
        take_pending();
        if allow_interrupts() == Pending::None {
            return;
        }
    }
}

/// Takes the interrupts that arrived; interrupts are disabled. May return on another CPU.
pub fn take_pending() {
    let mut give_way = false;
    while let Some(vector) = this().take_pending() {
        give_way |= callbacks().is_some_and(|callbacks| (callbacks.interrupt)(vector));
    }
    if give_way && let Some(callbacks) = callbacks() {
        (callbacks.preempt)();
    }
}

impl HostCpu {
    fn has_pending(&self) -> bool {
        self.pending.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    fn take_pending(&self) -> Option<u8> {
        for (index, word) in self.pending.iter().enumerate() {
            let bits = word.load(Ordering::SeqCst);
            if bits != 0 {
                let bit = bits.trailing_zeros();
                word.fetch_and(!(1 << bit), Ordering::SeqCst);
                return Some((index as u32 * 64 + bit) as u8);
            }
        }
        None
    }

    /// An interrupt arrives. Async-signal-safe.
    pub fn arrive(&self, vector: u8) {
        self.pending[usize::from(vector) / 64].fetch_or(1 << (vector % 64), Ordering::SeqCst);
        self.arrivals.fetch_add(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        // SAFETY: a futex word in static memory.
        unsafe {
            libc::syscall(libc::SYS_futex, self.arrivals.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
        };
    }
}

/// Enables interrupts and sleeps until some arrived and were taken; disabled afterwards.
pub fn wait_for_interrupt() {
    let cpu = this();
    loop {
        let arrivals = cpu.arrivals.load(Ordering::SeqCst);
        if cpu.has_pending() {
            break;
        }
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: a futex word in static memory; returns at once if it changed, or when a signal was handled.
        unsafe { libc::syscall(libc::SYS_futex, cpu.arrivals.as_ptr(), wait, arrivals, ptr::null::<libc::timespec>()) };
    }
    enable_interrupts();
    disable_interrupts();
}

/// Sends an interrupt to a CPU.
pub fn send(index: usize, vector: u8) -> bool {
    let Some(cpu) = CPUS.get(index).filter(|_| is_running(index)) else { return false };
    cpu.arrive(vector);
    cpu.wake();
    signal(cpu);
    true
}

fn signal(cpu: &HostCpu) {
    let thread_id = cpu.thread_id.load(Ordering::Acquire);
    // SAFETY: sends a signal this process handles.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread_id, INTERRUPT_SIGNAL) };
}

/// An interrupt on this CPU, now if they are enabled.
pub fn interrupt_self(vector: u8) {
    this().arrive(vector);
    take_interrupts();
}

/// CPUs that run.
pub fn running() -> impl Iterator<Item = usize> {
    (0..MAX_CPUS).filter(|&index| is_running(index))
}

/// Index of the calling CPU.
pub fn this_index() -> usize {
    (ptr::from_ref(this()) as usize - CPUS.as_ptr() as usize) / size_of::<HostCpu>()
}

/// Makes all other CPUs stop at their next signal, which they get now.
pub fn stop_others() {
    STOPPING.store(true, Ordering::SeqCst);
    let here = this_index();
    running().filter(|&index| index != here).for_each(|index| signal(&CPUS[index]));
}

/// Makes all other CPUs say where they are at their next signal, which they get now.
pub fn sample_others() {
    let here = this_index();
    for index in running().filter(|&index| index != here) {
        CPUS[index].sample_due.store(true, Ordering::SeqCst);
        signal(&CPUS[index]);
    }
}

/// True, once, if this CPU shall say where it is.
pub fn takes_sample() -> bool {
    this().sample_due.swap(false, Ordering::SeqCst)
}

/// True if this CPU shall stop.
pub fn shall_stop() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Arms this CPU's timer for an absolute time in ns of the monotonic clock; 0 disarms.
pub fn set_timer(at_ns: u64) {
    let time = libc::timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as i64 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
    let timer = this().timer.load(Ordering::Relaxed);
    // SAFETY: this CPU's timer.
    unsafe { libc::timer_settime(timer, libc::TIMER_ABSTIME, &raw const once, ptr::null_mut()) };
}

/// The timer's signal came.
pub fn timer_ended() {
    this().arrive(TIMER_VECTOR);
}

pub fn install(callbacks: &'static Callbacks) {
    CALLBACKS.store(ptr::from_ref(callbacks).cast_mut(), Ordering::Release);
}

pub fn callbacks() -> Option<&'static Callbacks> {
    // SAFETY: null or from a `&'static Callbacks`.
    unsafe { CALLBACKS.load(Ordering::Acquire).as_ref() }
}
