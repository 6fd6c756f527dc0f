//! Per-CPU data of the kernel.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use arch_contract::MAX_CPUS;

use crate::arch::*;
use crate::boot;
use crate::call::{self, CallNode};
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::cache::ObjectCaches;
use crate::scheduler;
use crate::scheduler::attention::AttentionWord;
use crate::scheduler::mailbox::Mailbox;
use crate::scheduler::run_queue::RunQueue;
use crate::thread::Thread;
use crate::thread::owner::Owner;
use crate::thread::registry::Registry;
use crate::thread::stock::Stock;
use crate::time::timer::{TimerNode, TimerQueue};

/// Data that only its CPU accesses, with interrupts off.
pub struct Owned<T>(UnsafeCell<T>);

// SAFETY: the contract of `get` restricts access to the owning CPU with interrupts off, so no two
// CPUs reach the data at once.
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Wraps `data`.
    pub const fn new(data: T) -> Self {
        Self(UnsafeCell::new(data))
    }

    /// Returns the data.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off, or by the host while the owning CPU is stopped
    /// or has not started. No other reference obtained here is in use.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for exclusive access")]
    #[inline(always)]
    pub unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller guarantees that no other CPU and no other reference accesses the data
        // meanwhile.
        unsafe { &mut *self.0.get() }
    }
}

/// This CPU while interrupts are off: a proof that the caller may use what belongs to the CPU
/// alone. An [`InterruptGuard`] gives one; code that runs with interrupts off anyway assumes one. A
/// switch consumes it, because the thread may resume on another CPU.
pub(crate) struct Here<'a> {
    cpu: &'static Cpu,
    /// The proof belongs to one CPU's flow of control, and ends when interrupts come back.
    _interrupts_are_off: PhantomData<(&'a (), *const ())>,
}

impl Here<'static> {
    /// Takes this CPU without a guard.
    ///
    /// # Safety
    /// Interrupts are off, and the value is not used once they are on or the running thread has
    /// been suspended.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self { cpu: this(), _interrupts_are_off: PhantomData }
    }
}

impl Here<'_> {
    /// The same proof by value, for the time of a call: an address would keep it in memory.
    #[inline(always)]
    pub(crate) fn reborrow(&self) -> Here<'_> {
        Here { cpu: self.cpu, _interrupts_are_off: PhantomData }
    }

    /// This CPU's run queue.
    #[inline(always)]
    pub(crate) fn run_queue(&self) -> &RunQueue {
        // SAFETY: `self` proves that this is the owning CPU with interrupts off, and the queue is
        // only ever borrowed shared.
        unsafe { self.cpu.run_queue.get() }
    }

    /// This CPU's stock of dead threads.
    #[inline(always)]
    pub(crate) fn stock(&self) -> &Stock {
        // SAFETY: `self` proves that this is the owning CPU with interrupts off, and the stock is
        // only ever borrowed shared.
        unsafe { self.cpu.stock.get() }
    }
}

impl Deref for Here<'_> {
    type Target = Cpu;
    #[inline(always)]
    fn deref(&self) -> &Cpu {
        self.cpu
    }
}

impl InterruptGuard {
    /// This CPU, with interrupts off as long as the guard exists.
    #[inline(always)]
    pub(crate) fn here(&self) -> Here<'_> {
        Here { cpu: this(), _interrupts_are_off: PhantomData }
    }
}

/// A CPU's event counts since its start. Written by that CPU, read by any.
#[derive(Default)]
pub struct Counters {
    /// Context switches.
    pub switches: Counter,
    /// Threads that other CPUs made ready here.
    pub remote_wakeups: Counter,
    /// Functions run for other CPUs.
    pub calls: Counter,
    /// Preemptions of threads.
    pub preemptions: Counter,
    /// Cycles spent in the idle thread, up to its last switch.
    pub idle_cycles: Counter,
}

/// A counter with a single writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. A plain load and store, so only the owning CPU may call it, with interrupts
    /// off.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Returns the count.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value aligned to a cache line, which is 64 bytes on every supported architecture.
#[repr(align(64))]
pub struct CacheLine<T>(pub T);

impl<T> Deref for CacheLine<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// One CPU. The fields its owner uses at every switch come first; those that other CPUs write have
/// cache lines of their own.
#[repr(C)]
pub struct Cpu {
    /// Index of the CPU.
    pub index: usize,
    /// NUMA node of the CPU.
    pub node: usize,
    /// The CPU's id at its interrupt controller.
    pub hardware_id: u32,
    /// Set in an interrupt handler to make the interrupted thread give way.
    pub(crate) give_way: AtomicBool,
    /// Set with `give_way` if the thread gives way to one woken by another CPU.
    pub(crate) displaced: AtomicBool,
    /// Cycle count until which a woken thread does not displace the running one.
    pub(crate) undisturbed_until: AtomicU64,
    pub(crate) in_interrupt: AtomicBool,
    /// Set while a thread here serves calls as a handler would. No interrupt is active then, and
    /// there is no interrupted code.
    pub(crate) thread_serves: AtomicBool,
    /// Set while the CPU serves calls in a handler that waits for another CPU.
    pub(crate) handler_waits: AtomicBool,
    /// Number of times a waiter for handlers has seen this CPU outside all of them.
    pub(crate) seen_outside_handlers: Counter,
    /// Owner whose handler runs here, null if none does.
    pub(crate) handlers_owner: AtomicPtr<Owner>,
    pub(crate) tick_armed: AtomicBool,
    pub(crate) run_queue: Owned<RunQueue>,
    /// Cycle count at the last switch.
    pub(crate) switched_at: AtomicU64,
    pub(crate) idle: AtomicPtr<Thread>,
    /// Number of switches when the tick was armed.
    pub(crate) switches_at_tick: AtomicU64,
    /// Top of the stack on which a thread's exit or migration is finished: neither can complete on
    /// the thread's own stack.
    pub(crate) scheduler_stack_top: AtomicUsize,
    /// Tops of the trap stacks.
    pub(crate) trap_stack_tops: [AtomicUsize; Traps::STACKS],
    pub(crate) caches: ObjectCaches,
    pub(crate) stock: Owned<Stock>,
    /// Event counts.
    pub counters: Counters,

    pub(crate) mailbox: CacheLine<Mailbox<Thread>>,
    pub(crate) attention: CacheLine<AttentionWord>,
    pub(crate) calls: CacheLine<Mailbox<CallNode>>,
    /// Memory for the next cross-CPU call; null while a call uses it.
    pub(crate) kept_call_block: AtomicPtr<u8>,
    pub(crate) timers: CacheLine<SpinLock<TimerQueue>>,
    pub(crate) registry: CacheLine<SpinLock<Registry>>,
    /// Timer that ends the running thread's quantum.
    pub(crate) tick: TimerNode,
    /// Timer that retries an interrupt to this CPU. It is set on the CPU that could not send it.
    pub(crate) untold: TimerNode,
    pub(crate) is_untold: AtomicBool,
    /// Interrupts taken, by vector.
    pub(crate) interrupt_counts: [Counter; 256],
}

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static KNOWN: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    /// Creates the data of a CPU that does not run yet.
    pub(crate) fn new(index: usize, node: usize, hardware_id: u32) -> Self {
        Self {
            index,
            node,
            hardware_id,
            give_way: AtomicBool::new(false),
            displaced: AtomicBool::new(false),
            undisturbed_until: AtomicU64::new(0),
            in_interrupt: AtomicBool::new(false),
            thread_serves: AtomicBool::new(false),
            handler_waits: AtomicBool::new(false),
            seen_outside_handlers: Counter::default(),
            handlers_owner: AtomicPtr::new(core::ptr::null_mut()),
            tick_armed: AtomicBool::new(false),
            run_queue: Owned::new(RunQueue::new()),
            switched_at: AtomicU64::new(0),
            idle: AtomicPtr::new(core::ptr::null_mut()),
            switches_at_tick: AtomicU64::new(0),
            scheduler_stack_top: AtomicUsize::new(0),
            trap_stack_tops: [const { AtomicUsize::new(0) }; Traps::STACKS],
            caches: ObjectCaches::new(),
            stock: Owned::new(Stock::new()),
            counters: Counters::default(),
            mailbox: CacheLine(Mailbox::new()),
            attention: CacheLine(AttentionWord::new()),
            calls: CacheLine(Mailbox::new()),
            kept_call_block: AtomicPtr::new(core::ptr::null_mut()),
            timers: CacheLine(SpinLock::new(TimerQueue::new())),
            registry: CacheLine(SpinLock::new(Registry::new())),
            tick: TimerNode::new(scheduler::tick, 0),
            untold: TimerNode::new(call::tell_again, index),
            is_untold: AtomicBool::new(false),
            interrupt_counts: [const { Counter(AtomicU64::new(0)) }; 256],
        }
    }

    /// Returns the tops of the CPU's trap stacks, each of [`crate::memory::stack::DEFAULT_SIZE`]
    /// bytes.
    pub(crate) fn trap_stack_tops(&self) -> impl Iterator<Item = usize> {
        self.trap_stack_tops.iter().map(|top| top.load(Ordering::Relaxed))
    }

    /// Returns whether the CPU had nothing to run at some moment during the call.
    pub fn is_asleep(&self) -> bool {
        self.attention.is_idle()
    }

    /// Returns whether the CPU runs only while its partner thread wants ([`crate::hybrid`]).
    pub fn has_partner(&self) -> bool {
        self.index >= limit()
    }

    /// Returns whether this is the CPU the caller runs on. The answer is stable only with
    /// interrupts off.
    pub fn is_this(&self) -> bool {
        core::ptr::eq(self, this())
    }
}

/// Makes a CPU visible to the others. CPUs that never answered are not published. A CPU that a
/// partner thread runs ([`crate::hybrid`]) is visible to [`known`] and [`all_known`] only.
pub(crate) fn publish(cpu: &'static Cpu) {
    CPUS[cpu.index].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    KNOWN.fetch_max(cpu.index + 1, Ordering::Release);
    if cpu.index < boot::information().cpus.len() {
        COUNT.fetch_max(cpu.index + 1, Ordering::Release);
    }
}

/// Returns one more than the largest index of a running CPU.
pub fn limit() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Returns the number of running CPUs.
pub fn count() -> usize {
    all().count()
}

/// Returns the running CPU with this index.
#[inline(always)]
pub fn get(index: usize) -> Option<&'static Cpu> {
    if index < limit() { known(index) } else { None }
}

/// Returns all running CPUs, and those that run only while their partner threads want. The latter
/// answer no call.
pub fn all_known() -> impl Iterator<Item = &'static Cpu> {
    (0..KNOWN.load(Ordering::Acquire)).filter_map(known)
}

/// Returns the CPU with this index, of [`all_known`].
#[inline(always)]
pub(crate) fn known(index: usize) -> Option<&'static Cpu> {
    // SAFETY: each entry is null or a pointer that `publish` made from a `&'static Cpu`.
    unsafe { CPUS.get(index)?.load(Ordering::Acquire).as_ref() }
}

/// Returns all running CPUs.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..limit()).filter_map(get)
}

/// Returns the CPU the caller runs on. A thread with interrupts on may have moved to another one by
/// the time this returns.
#[inline(always)]
pub(crate) fn this() -> &'static Cpu {
    // SAFETY: the start-up code sets this to a `&'static Cpu` before anything on the CPU calls this
    // function.
    unsafe { &*(Core::local() as *const Cpu) }
}

/// Returns whether the caller runs in an interrupt handler.
#[inline(always)]
pub fn in_interrupt() -> bool {
    let _guard = InterruptGuard::new();
    this().in_interrupt.load(Ordering::Relaxed)
}

/// Returns the index of the CPU the caller ran on at some moment during the call.
pub fn this_index() -> usize {
    let _guard = InterruptGuard::new();
    this().index
}

/// Returns the NUMA node of the CPU the caller ran on at some moment during the call.
pub fn this_node() -> usize {
    let _guard = InterruptGuard::new();
    this().node
}
