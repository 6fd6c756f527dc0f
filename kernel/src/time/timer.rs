//! One-shot timers: a tree of deadlines per CPU, and the hardware armed for the earliest.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use intrusive_collections::{KeyAdapter, RBTree, RBTreeLink, UnsafeRef, intrusive_adapter};
use wire::trace::Kind;

use super::Deadline;
use crate::arch::{Architecture, Machine};
use crate::cpu::{self, Cpu};
use crate::lock::InterruptGuard;
use crate::memory::OutOfMemory;
use crate::thread::owner::{self, Owner};
use crate::trace;
use crate::wait::InterruptSafe;

/// Not queued anywhere.
const NO_CPU: u32 = u32::MAX;

/// A timer as it sits in a queue: never moves while it does.
pub(crate) struct TimerNode {
    link: RBTreeLink,
    deadline: AtomicU64,
    /// Index of the CPU it is queued on.
    queued_on: AtomicU32,
    /// Index of the CPU it was last queued on: where its function may still be running.
    last_on: AtomicU32,
    function: fn(usize),
    argument: usize,
    /// The owner of the thread that made it, null for the kernel.
    owner: *const Owner,
}

// SAFETY: link and deadline are only touched under the queue's lock; the owner is only compared.
unsafe impl Sync for TimerNode {}
// SAFETY: nothing in it belongs to a CPU.
unsafe impl Send for TimerNode {}

intrusive_adapter!(TimerAdapter = UnsafeRef<TimerNode>: TimerNode { link => RBTreeLink });

impl KeyAdapter<'_> for TimerAdapter {
    type Key = u64;
    fn get_key(&self, node: &TimerNode) -> u64 {
        node.deadline.load(Ordering::Relaxed)
    }
}

/// The timers of one CPU. The earliest is kept outside the tree, so that a single timer never touches it.
pub struct TimerQueue {
    first: *const TimerNode,
    /// All others.
    tree: RBTree<TimerAdapter>,
    count: usize,
    /// What the hardware is armed for.
    armed_for: u64,
    fired: u64,
}

// SAFETY: the tree's nodes are only touched under the queue's lock.
unsafe impl Send for TimerQueue {}

impl TimerQueue {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null(), tree: RBTree::new(TimerAdapter::NEW), count: 0, armed_for: u64::MAX, fired: 0 }
    }

    /// Number of timers set, cycles of the earliest deadline, number of timers that fired.
    pub(crate) fn summary(&self) -> (usize, Option<u64>, u64) {
        (self.count, self.first().map(|node| node.deadline.load(Ordering::Relaxed)), self.fired)
    }

    /// True if one of an owner's timers is set here.
    pub(crate) fn has_of(&self, owner: *const Owner) -> bool {
        let is_its = |node: &TimerNode| ptr::eq(node.owner, owner);
        self.first().is_some_and(is_its) || self.tree.iter().any(is_its)
    }

    #[inline(always)]
    fn first(&self) -> Option<&TimerNode> {
        // SAFETY: null or a queued node, whose owner cancels it before it goes.
        unsafe { self.first.as_ref() }
    }

    #[inline(always)]
    fn insert(&mut self, node: &TimerNode, deadline: u64) {
        self.count += 1;
        let displaced = match self.first() {
            None => {
                self.first = node;
                return;
            }
            Some(first) if deadline < first.deadline.load(Ordering::Relaxed) => {
                let displaced = self.first;
                self.first = node;
                displaced
            }
            Some(_) => ptr::from_ref(node),
        };
        // SAFETY: as in `first`.
        self.tree.insert(unsafe { UnsafeRef::from_raw(displaced) });
    }

    /// Takes a queued node out.
    #[inline(always)]
    fn remove(&mut self, node: &TimerNode) {
        self.count -= 1;
        if ptr::eq(self.first, node) {
            self.first = ptr::null();
            if !self.tree.is_empty() {
                self.promote();
            }
        } else {
            // SAFETY: it is queued and not the first, so it is in the tree.
            unsafe { self.tree.cursor_mut_from_ptr(node) }.remove();
        }
    }

    /// Makes the earliest of the tree the first.
    fn promote(&mut self) {
        if let Some(node) = self.tree.front_mut().remove() {
            self.first = UnsafeRef::into_raw(node);
        }
    }

    #[inline(always)]
    fn arm_for_first(&mut self) {
        let first = self.first().map_or(u64::MAX, |node| node.deadline.load(Ordering::Relaxed));
        self.armed_for = first;
        if first != u64::MAX {
            Machine::arm_timer(first);
        }
    }
}

impl TimerNode {
    /// A timer that will call `function(argument)` in the timer interrupt.
    pub(crate) const fn new(function: fn(usize), argument: usize) -> Self {
        Self {
            link: RBTreeLink::new(),
            deadline: AtomicU64::new(0),
            queued_on: AtomicU32::new(NO_CPU),
            last_on: AtomicU32::new(NO_CPU),
            function,
            argument,
            owner: ptr::null(),
        }
    }

    /// Queues it on this CPU. Interrupts off; it is not queued.
    #[inline(always)]
    pub(crate) fn set(&self, here: &Cpu, deadline: Deadline) {
        let cycles = deadline.cycles();
        trace::event(Kind::TimerSet, cycles, 0);
        let mut queue = here.timers.lock();
        self.deadline.store(cycles, Ordering::Relaxed);
        self.queued_on.store(here.index as u32, Ordering::Relaxed);
        self.last_on.store(here.index as u32, Ordering::Relaxed);
        queue.insert(self, cycles);
        if cycles < queue.armed_for {
            queue.armed_for = cycles;
            Machine::arm_timer(cycles);
        }
    }

    /// True while it is queued. What may be otherwise a moment later.
    pub(crate) fn is_set(&self) -> bool {
        self.queued_on.load(Ordering::Relaxed) != NO_CPU
    }

    /// Takes it out; true if its function was not and will not be called for the last [`TimerNode::set`].
    /// On another CPU than the timer's, waits until a running function has returned.
    #[inline(always)]
    pub(crate) fn cancel(&self) -> bool {
        let cancelled = self.withdraw();
        if !cancelled {
            let _guard = InterruptGuard::new();
            while self.is_running_elsewhere() {
                Machine::spin_hint();
            }
        }
        cancelled
    }

    /// Takes it out, without waiting; false if it was not queued.
    #[inline(always)]
    fn withdraw(&self) -> bool {
        loop {
            let index = self.queued_on.load(Ordering::Acquire);
            let Some(cpu) = cpu::get(index as usize) else { return false };
            let mut queue = cpu.timers.lock();
            // It may have fired, or even been set again elsewhere, before we had the lock.
            if self.queued_on.load(Ordering::Relaxed) == index {
                queue.remove(self);
                self.queued_on.store(NO_CPU, Ordering::Relaxed);
                return true;
            }
        }
    }

    /// True if its function is running on another CPU, where it may set the timer again.
    fn is_running_elsewhere(&self) -> bool {
        let last = cpu::get(self.last_on.load(Ordering::Relaxed) as usize);
        last.is_some_and(|cpu| !cpu.is_this() && ptr::eq(RUNNING[cpu.index].load(Ordering::Acquire), self))
    }
}

/// The timer whose function each CPU is calling.
static RUNNING: [AtomicPtr<TimerNode>; arch_contract::MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; arch_contract::MAX_CPUS];

/// The timer interrupt: calls what is due, arms for what is next.
pub(crate) fn interrupt(_: usize) {
    let here = cpu::this();
    loop {
        let mut queue = here.timers.lock();
        let first = queue.first;
        // SAFETY: as in `TimerQueue::first`.
        let due = unsafe { first.as_ref() }.filter(|node| node.deadline.load(Ordering::Relaxed) <= Machine::cycles());
        let Some(node) = due else {
            queue.arm_for_first();
            break;
        };
        queue.remove(node);
        queue.fired += 1;
        // In this order: who finds it not queued any more must find it running.
        RUNNING[here.index].store(first.cast_mut(), Ordering::Relaxed);
        node.queued_on.store(NO_CPU, Ordering::Release);
        let (function, argument) = (node.function, node.argument);
        let deadline = node.deadline.load(Ordering::Relaxed);
        drop(queue);
        trace::event(Kind::TimerFire, deadline, 0);
        function(argument);
        RUNNING[here.index].store(ptr::null_mut(), Ordering::Release);
    }
}

/// A one-shot timer that calls a function in the timer interrupt of the CPU it was set on.
pub struct Timer {
    node: Box<TimerNode>,
}

impl Timer {
    /// A timer that will call `function(context)`. The function runs in an interrupt handler: see [`InterruptSafe`].
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new<C: InterruptSafe + 'static>(context: &'static C, function: fn(&C)) -> Result<Self, OutOfMemory> {
        // SAFETY: a `fn(&C)` called with the address of a `&'static C`: a reference and its address are passed alike.
        let function = unsafe { core::mem::transmute::<fn(&C), fn(usize)>(function) };
        let node = TimerNode { owner: owner::current(), ..TimerNode::new(function, ptr::from_ref(context) as usize) };
        crate::memory::try_box(node).map(|node| Self { node })
    }

    /// Calls the function once at `deadline`, on this CPU. Replaces an earlier deadline that has not come.
    #[inline(always)]
    pub fn set(&mut self, deadline: Deadline) {
        let _guard = InterruptGuard::new();
        self.node.cancel();
        self.node.set(cpu::this(), deadline);
    }

    /// Withdraws, without waiting; true if the function was not and will not be called.
    pub fn withdraw(&self) -> bool {
        self.node.withdraw()
    }

    /// True in the timer's own function, or in what that calls.
    pub fn is_running_here(&self) -> bool {
        let _guard = InterruptGuard::new();
        ptr::eq(RUNNING[cpu::this().index].load(Ordering::Relaxed), &raw const *self.node)
    }

    /// True if the function is running on another CPU, where it may set the timer again.
    pub fn is_running_elsewhere(&self) -> bool {
        let _guard = InterruptGuard::new();
        self.node.is_running_elsewhere()
    }

    /// Withdraws; true if the function was not and will not be called. It is not running when this returns.
    #[inline]
    pub fn cancel(&mut self) -> bool {
        self.node.cancel()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.node.cancel();
    }
}
