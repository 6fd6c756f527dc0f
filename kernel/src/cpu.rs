//! What belongs to each CPU.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use arch_contract::MAX_CPUS;

use crate::arch::{Architecture, Machine};
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

/// Data of one CPU that only that CPU touches, with interrupts off.
pub struct Owned<T>(UnsafeCell<T>);

// SAFETY: `get` obliges its caller to be the owning CPU.
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// Wraps data.
    pub const fn new(data: T) -> Self {
        Self(UnsafeCell::new(data))
    }

    /// The data.
    ///
    /// # Safety
    /// Called on the owning CPU with interrupts off, while no other reference obtained here is in use.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for exclusive access")]
    #[inline(always)]
    pub unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller's obligation.
        unsafe { &mut *self.0.get() }
    }
}

/// Event counts of a CPU since start. Written by their CPU, read by anyone.
#[derive(Default)]
pub struct Counters {
    /// Context switches.
    pub switches: Counter,
    /// Threads made ready by other CPUs.
    pub remote_wakeups: Counter,
    /// Functions run for other CPUs.
    pub calls: Counter,
    /// Times a thread was made to give way.
    pub preemptions: Counter,
    /// Cycles spent in the idle thread, up to its last switch.
    pub idle_cycles: Counter,
}

/// A count with one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the owning CPU, interrupts off.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The count.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cache line size of every architecture here, in bytes.
#[repr(align(64))]
pub struct CacheLine<T>(pub T);

impl<T> core::ops::Deref for CacheLine<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// One CPU. What its owner uses at every switch comes first; what others write has cache lines of its own.
#[repr(C)]
pub struct Cpu {
    /// Its index.
    pub index: usize,
    /// Its NUMA node.
    pub node: usize,
    /// What its interrupt controller is called by.
    pub hardware_id: u32,
    /// Set in an interrupt handler to make the interrupted thread give way.
    pub(crate) give_way: AtomicBool,
    /// True if it does so for a thread that was woken.
    pub(crate) displaced: AtomicBool,
    /// When the counter reaches this, whoever is woken may displace the running thread again.
    pub(crate) undisturbed_until: AtomicU64,
    pub(crate) in_interrupt: AtomicBool,
    /// True while a thread here serves calls as a handler would: there is no interrupt, and no code that it interrupted.
    pub(crate) thread_serves: AtomicBool,
    /// True while it serves calls in a handler that waits for another CPU.
    pub(crate) handler_waits: AtomicBool,
    /// How often it was seen outside all handlers by those who wait for that.
    pub(crate) seen_outside_handlers: Counter,
    /// The owner whose handler runs here, null if none does.
    pub(crate) handlers_owner: AtomicPtr<Owner>,
    pub(crate) tick_armed: AtomicBool,
    pub(crate) run_queue: Owned<RunQueue>,
    /// Cycles at the last switch.
    pub(crate) switched_at: AtomicU64,
    pub(crate) idle: AtomicPtr<Thread>,
    /// Count of switches when the tick was armed.
    pub(crate) switches_at_tick: AtomicU64,
    /// A stack for finishing what a thread cannot finish on its own: exit, migration.
    pub(crate) scheduler_stack_top: AtomicUsize,
    /// Tops of its trap stacks.
    pub(crate) trap_stack_tops: [AtomicUsize; Machine::INTERRUPT_STACKS],
    pub(crate) caches: Owned<ObjectCaches>,
    pub(crate) stock: Owned<Stock>,
    /// Event counts.
    pub counters: Counters,

    pub(crate) mailbox: CacheLine<Mailbox<Thread>>,
    pub(crate) attention: CacheLine<AttentionWord>,
    pub(crate) calls: CacheLine<Mailbox<CallNode>>,
    /// Memory for its next call; null while one uses it.
    pub(crate) kept_call_block: AtomicPtr<u8>,
    pub(crate) timers: CacheLine<SpinLock<TimerQueue>>,
    pub(crate) registry: CacheLine<SpinLock<Registry>>,
    /// Ends the running thread's quantum.
    pub(crate) tick: TimerNode,
    /// Set on a CPU that has to tell this one something, but could not.
    pub(crate) untold: TimerNode,
    pub(crate) is_untold: AtomicBool,
    /// Interrupts taken, by vector.
    pub(crate) interrupt_counts: [Counter; 256],
}

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    /// A CPU's data before it runs.
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
            trap_stack_tops: [const { AtomicUsize::new(0) }; Machine::INTERRUPT_STACKS],
            caches: Owned::new(ObjectCaches::new()),
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

    /// Tops of its trap stacks, of [`crate::memory::stack::DEFAULT_SIZE`] bytes each.
    pub(crate) fn trap_stack_tops(&self) -> impl Iterator<Item = usize> {
        self.trap_stack_tops.iter().map(|top| top.load(Ordering::Relaxed))
    }

    /// True if it has nothing to run, as it was at some moment during the call.
    pub fn is_asleep(&self) -> bool {
        self.attention.is_idle()
    }

    /// True if this is the CPU the caller runs on. Only stable with interrupts off.
    pub fn is_this(&self) -> bool {
        core::ptr::eq(self, this())
    }
}

/// Makes a CPU known to the others. CPUs that never answered have no data.
pub(crate) fn publish(cpu: &'static Cpu) {
    CPUS[cpu.index].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    COUNT.fetch_max(cpu.index + 1, Ordering::Release);
}

/// One more than the largest index of a running CPU.
pub fn limit() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Number of running CPUs.
pub fn count() -> usize {
    all().count()
}

/// A running CPU by index.
#[inline(always)]
pub fn get(index: usize) -> Option<&'static Cpu> {
    // SAFETY: null or published from a `&'static Cpu`.
    unsafe { CPUS.get(index)?.load(Ordering::Acquire).as_ref() }
}

/// All running CPUs.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..limit()).filter_map(get)
}

/// The CPU the caller runs on. A thread with interrupts on may have left it when this returns.
#[inline(always)]
pub(crate) fn this() -> &'static Cpu {
    // SAFETY: set to a `&'static Cpu` before anything calls this (`start`).
    unsafe { &*(Machine::local() as *const Cpu) }
}

/// True in an interrupt handler.
#[inline(always)]
pub fn in_interrupt() -> bool {
    let _guard = InterruptGuard::new();
    this().in_interrupt.load(Ordering::Relaxed)
}

/// Index of the CPU the caller runs on, as it was at some moment during the call.
pub fn this_index() -> usize {
    let _guard = InterruptGuard::new();
    this().index
}

/// Node of the CPU the caller runs on, as it was at some moment during the call.
pub fn this_node() -> usize {
    let _guard = InterruptGuard::new();
    this().node
}
