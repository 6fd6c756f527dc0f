//! The CPUs: pthreads whose GS points at their state.

use std::arch::asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arch_contract::{Callbacks, MAX_CPUS, TRACE_ENTRIES, TraceEntry};

use crate::machine::TIMER_VECTOR;

/// A CPU's state. Single instructions access the first fields through GS, so that each access
/// concerns the CPU the thread is on at that instruction, even if the thread may migrate.
#[repr(C)]
pub struct HostCpu {
    local: AtomicUsize,
    current: AtomicUsize,
    address: AtomicUsize,
    enabled: AtomicU8,
    /// Pending interrupts, one bit per vector.
    pending: [AtomicU64; 4],
    /// Count of arrivals, the futex word that a sleeping CPU waits on.
    arrivals: AtomicU32,
    /// Linux's thread id of the pthread, 0 until it runs.
    thread_id: AtomicI32,
    timer: AtomicPtr<libc::c_void>,
    /// Set to request a sample of this CPU's registers.
    sample_due: AtomicBool,
    /// The trace ring, and the total number of entries written to it.
    trace_ring: (AtomicPtr<TraceEntry>, AtomicUsize),
    /// The pthread's fault stack: start and size.
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
/// Set once all CPUs are to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Linux's arch_prctl code for setting GS base (asm/prctl.h).
const ARCH_SET_GS: libc::c_int = 0x1001;
/// The signals of an interrupt and of a timer's expiry.
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

/// Makes the calling pthread a CPU, with interrupts disabled.
pub fn become_cpu(index: usize) {
    let cpu = &CPUS[index];
    cpu.address.store(ptr::from_ref(cpu) as usize, Ordering::Relaxed);
    // SAFETY: no other code uses GS in a Linux process on x86-64, and `cpu` is a static.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, ptr::from_ref(cpu)) };
    assert_eq!(result, 0, "GS base cannot be set");
    // SAFETY: an all-zero sigevent is a valid value, which is filled in below.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = TIMER_SIGNAL;
    // SAFETY: `gettid` has no preconditions, accesses no memory and always succeeds.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = ptr::null_mut();
    // SAFETY: both pointers refer to local variables of the types the call expects.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(result, 0, "a timer cannot be made");
    cpu.timer.store(timer, Ordering::Relaxed);
    IS_CPU.with(|is_cpu| is_cpu.set(true));
    // Published last: from now on other CPUs send signals to this pthread.
    cpu.thread_id.store(event.sigev_notify_thread_id, Ordering::Release);
}

/// Index of the CPU that never answers; `usize::MAX` if all answer.
static SILENT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Makes a CPU ignore its start-up signal.
pub fn silence(cpu: Option<usize>) {
    SILENT.store(cpu.unwrap_or(usize::MAX), Ordering::Relaxed);
}

/// True if the CPU ignores its start-up signal.
pub fn is_silent(index: usize) -> bool {
    SILENT.load(Ordering::Relaxed) == index
}

/// True once the CPU runs.
pub fn is_running(index: usize) -> bool {
    CPUS.get(index).is_some_and(|cpu| cpu.thread_id.load(Ordering::Acquire) != 0)
}

/// The calling CPU's state. Only stable with interrupts disabled.
pub fn this() -> &'static HostCpu {
    let address: usize;
    // SAFETY: GS points at this CPU's state since `become_cpu`, so the offset is valid.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) address, const offset_of!(HostCpu, address), options(nostack, preserves_flags))
    };
    // SAFETY: `become_cpu` stored the address of an entry of the static `CPUS`.
    unsafe { &*(address as *const HostCpu) }
}

pub fn local() -> usize {
    let local;
    // SAFETY: GS points at this CPU's state since `become_cpu`, so the offset is valid.
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
    // SAFETY: GS points at this CPU's state since `become_cpu`, so the offset is valid.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) current, const offset_of!(HostCpu, current), options(nostack, preserves_flags))
    };
    current
}

pub fn set_current(thread: usize) {
    // SAFETY: GS points at this CPU's state since `become_cpu`, so the write stays in it.
    unsafe {
        asm!("mov gs:[{}], {}", const offset_of!(HostCpu, current), in(reg) thread, options(nostack, preserves_flags))
    };
}

pub fn interrupts_enabled() -> bool {
    let enabled: u8;
    // SAFETY: GS points at this CPU's state since `become_cpu`, so the offset is valid.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg_byte) enabled, const offset_of!(HostCpu, enabled), options(nostack, preserves_flags))
    };
    enabled != 0
}

pub fn disable_interrupts() {
    // SAFETY: GS points at this CPU's state since `become_cpu`. A single instruction cannot be
    // split by a move to another CPU.
    unsafe { asm!("mov byte ptr gs:[{}], 0", const offset_of!(HostCpu, enabled), options(nostack, preserves_flags)) };
}

/// Gives a CPU a trace ring, or restarts its ring.
pub fn set_trace_ring(index: usize, ring: *mut TraceEntry) {
    CPUS[index].trace_ring.1.store(0, Ordering::Relaxed);
    CPUS[index].trace_ring.0.store(ring, Ordering::Release);
}

/// Total number of entries written to a CPU's trace ring.
pub fn traced(index: usize) -> usize {
    CPUS[index].trace_ring.1.load(Ordering::Acquire)
}

/// Writes an entry to this CPU's trace ring, if it has one. Called with interrupts disabled.
pub fn trace(cycles: u64, tag: u64, first: u64, second: u64) {
    let (ring, written) = &this().trace_ring;
    let ring = ring.load(Ordering::Acquire);
    if ring.is_null() {
        return;
    }
    let at = written.load(Ordering::Relaxed);
    // SAFETY: the kernel provided `TRACE_ENTRIES` entries, which only this CPU writes.
    unsafe { ring.add(at % TRACE_ENTRIES).write([cycles, tag, first, second]) };
    written.store(at + 1, Ordering::Release);
}

/// Records this CPU's fault stack.
pub fn set_fault_stack(start: usize, size: usize) {
    let place = &this().fault_stack;
    place.0.store(start, Ordering::Relaxed);
    place.1.store(size, Ordering::Relaxed);
}

/// Start and size of this CPU's fault stack.
pub fn fault_stack() -> (usize, usize) {
    let place = &this().fault_stack;
    (place.0.load(Ordering::Relaxed), place.1.load(Ordering::Relaxed))
}

/// Whether interrupts are pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    None,
    Some,
}

pub fn enable_interrupts() {
    // Interrupts that arrived while disabled are left to this function; later ones are taken by
    // their signals. If this thread moves to another CPU here, the CPU it leaves has enabled
    // interrupts of its own.
    if allow_interrupts() == Pending::Some {
        take_interrupts();
    }
}

/// Enables interrupts without taking pending ones.
pub fn allow_interrupts() -> Pending {
    // SAFETY: GS points at this CPU's state since `become_cpu`. A single instruction cannot be
    // split by a move to another CPU.
    unsafe { asm!("mov byte ptr gs:[{}], 1", const offset_of!(HostCpu, enabled), options(nostack, preserves_flags)) };
    if this().has_pending() { Pending::Some } else { Pending::None }
}

/// Takes all pending interrupts if interrupts are enabled. May return on another CPU.
pub fn take_interrupts() {
    while interrupts_enabled() {
        disable_interrupts();
        take_pending();
        if allow_interrupts() == Pending::None {
            return;
        }
    }
}

/// Takes the pending interrupts. Called with interrupts disabled; may return on another CPU.
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

    /// Makes an interrupt pending. Async-signal-safe.
    pub fn arrive(&self, vector: u8) {
        self.pending[usize::from(vector) / 64].fetch_or(1 << (vector % 64), Ordering::SeqCst);
        self.arrivals.fetch_add(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        // SAFETY: the futex word is in static memory, so its address is always valid.
        unsafe {
            libc::syscall(libc::SYS_futex, self.arrivals.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
        };
    }
}

/// Enables interrupts and sleeps until some have arrived and been taken. Returns with interrupts
/// disabled.
pub fn wait_for_interrupt() {
    let cpu = this();
    loop {
        // Read the count before the check: an interrupt that arrives after the check changes it,
        // and the futex call returns at once.
        let arrivals = cpu.arrivals.load(Ordering::SeqCst);
        if cpu.has_pending() {
            break;
        }
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the futex word is in static memory. The call returns at once if the word has
        // changed, and after a signal was handled.
        unsafe { libc::syscall(libc::SYS_futex, cpu.arrivals.as_ptr(), wait, arrivals, ptr::null::<libc::timespec>()) };
    }
    enable_interrupts();
    disable_interrupts();
}

/// Sends an interrupt to a CPU; returns false if the CPU does not run.
pub fn send(index: usize, vector: u8) -> bool {
    let Some(cpu) = CPUS.get(index).filter(|_| is_running(index)) else { return false };
    cpu.arrive(vector);
    cpu.wake();
    signal(cpu);
    true
}

fn signal(cpu: &HostCpu) {
    let thread_id = cpu.thread_id.load(Ordering::Acquire);
    // SAFETY: the call sends a signal for which this process has a handler.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread_id, INTERRUPT_SIGNAL) };
}

/// Makes an interrupt pending on this CPU and takes it immediately if interrupts are enabled.
pub fn interrupt_self(vector: u8) {
    this().arrive(vector);
    take_interrupts();
}

/// Indices of the running CPUs.
pub fn running() -> impl Iterator<Item = usize> {
    (0..MAX_CPUS).filter(|&index| is_running(index))
}

/// Index of the calling CPU.
pub fn this_index() -> usize {
    (ptr::from_ref(this()) as usize - CPUS.as_ptr() as usize) / size_of::<HostCpu>()
}

/// Makes all other CPUs stop at their next signal, and sends it.
pub fn stop_others() {
    STOPPING.store(true, Ordering::SeqCst);
    let here = this_index();
    running().filter(|&index| index != here).for_each(|index| signal(&CPUS[index]));
}

/// Requests a sample of all other CPUs at their next signal, and sends it.
pub fn sample_others() {
    let here = this_index();
    for index in running().filter(|&index| index != here) {
        CPUS[index].sample_due.store(true, Ordering::SeqCst);
        signal(&CPUS[index]);
    }
}

/// True, once per request, if this CPU is to be sampled.
pub fn takes_sample() -> bool {
    this().sample_due.swap(false, Ordering::SeqCst)
}

/// True if this CPU is to stop.
pub fn shall_stop() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Arms this CPU's timer for an absolute time in ns of the monotonic clock; 0 disarms.
pub fn set_timer(at_ns: u64) {
    let time = libc::timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as i64 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
    let timer = this().timer.load(Ordering::Relaxed);
    // SAFETY: `become_cpu` created this CPU's timer, which is never deleted.
    unsafe { libc::timer_settime(timer, libc::TIMER_ABSTIME, &raw const once, ptr::null_mut()) };
}

/// Handles the timer's signal.
pub fn timer_ended() {
    this().arrive(TIMER_VECTOR);
}

pub fn install(callbacks: &'static Callbacks) {
    CALLBACKS.store(ptr::from_ref(callbacks).cast_mut(), Ordering::Release);
}

pub fn callbacks() -> Option<&'static Callbacks> {
    // SAFETY: the pointer is null or comes from the `&'static Callbacks` given to `install`.
    unsafe { CALLBACKS.load(Ordering::Acquire).as_ref() }
}
