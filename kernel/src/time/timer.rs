//! One-shot timers: per CPU a tree of deadlines, and the hardware timer armed for the earliest.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use intrusive_collections::{KeyAdapter, RBTree, RBTreeLink, UnsafeRef, intrusive_adapter};
use wire::trace::EventKind;

use super::Deadline;
use crate::arch::*;
use crate::cpu::{self, Cpu};
use crate::lock::InterruptGuard;
use crate::memory::OutOfMemory;
use crate::thread::owner::{self, Owner};
use crate::trace;
use crate::wait::InterruptSafe;

/// The CPU index of a timer that is not queued.
const NO_CPU: u32 = u32::MAX;

/// A timer as a node of a queue. It does not move while it is queued.
pub(crate) struct TimerNode {
    link: RBTreeLink,
    deadline: AtomicU64,
    /// Index of the CPU the timer is queued on.
    queued_on: AtomicU32,
    /// Index of the CPU the timer was last queued on, where its function may still be running.
    last_on: AtomicU32,
    function: fn(usize),
    argument: usize,
    /// The owner of the thread that made the timer, null for the kernel.
    owner: *const Owner,
}

// SAFETY: link and deadline are touched only under the queue's lock, and the owner is only
// compared.
unsafe impl Sync for TimerNode {}
// SAFETY: nothing in a node belongs to a CPU, and it is not queued when it moves.
unsafe impl Send for TimerNode {}

intrusive_adapter!(TimerAdapter = UnsafeRef<TimerNode>: TimerNode { link => RBTreeLink });

impl KeyAdapter<'_> for TimerAdapter {
    type Key = u64;
    fn get_key(&self, node: &TimerNode) -> u64 {
        node.deadline.load(Ordering::Relaxed)
    }
}

/// The timers of one CPU. The earliest is kept outside the tree, so that a single timer never
/// touches the tree.
pub struct TimerQueue {
    first: *const TimerNode,
    /// All timers but the first.
    tree: RBTree<TimerAdapter>,
    count: usize,
    /// The deadline that the hardware is armed for.
    armed_for: u64,
    fired: u64,
}

// SAFETY: the queue's nodes are touched only under the queue's lock, on whichever CPU holds it.
unsafe impl Send for TimerQueue {}

impl TimerQueue {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null(), tree: RBTree::new(TimerAdapter::NEW), count: 0, armed_for: u64::MAX, fired: 0 }
    }

    /// Returns the number of timers set, the earliest deadline in cycles, and the number of timers
    /// that have fired.
    pub(crate) fn summary(&self) -> (usize, Option<u64>, u64) {
        (self.count, self.first().map(|node| node.deadline.load(Ordering::Relaxed)), self.fired)
    }

    /// Returns true if one of the owner's timers is in this queue.
    pub(crate) fn has_of(&self, owner: *const Owner) -> bool {
        let is_its = |node: &TimerNode| ptr::eq(node.owner, owner);
        self.first().is_some_and(is_its) || self.tree.iter().any(is_its)
    }

    #[inline(always)]
    fn first(&self) -> Option<&TimerNode> {
        // SAFETY: the pointer is null or leads to a queued node, which is cancelled before it is
        // freed.
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
        // SAFETY: the node is queued, and it is cancelled, and so taken out of the tree, before it
        // is freed.
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
            // SAFETY: the node is queued and not the first, so it is in this tree.
            unsafe { self.tree.cursor_mut_from_ptr(node) }.remove();
        }
    }

    /// Moves the earliest timer of the tree to the first place.
    fn promote(&mut self) {
        if let Some(node) = self.tree.front_mut().remove() {
            self.first = UnsafeRef::into_raw(node);
        }
    }

    /// Arms the hardware for the first timer, if there is one.
    #[inline(always)]
    fn arm_for_first(&mut self) {
        let first = self.first().map_or(u64::MAX, |node| node.deadline.load(Ordering::Relaxed));
        self.armed_for = first;
        if first != u64::MAX {
            Clock::arm(first);
        }
    }
}

impl TimerNode {
    /// Creates a timer that calls `function(argument)` in the timer interrupt.
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

    /// Queues the timer, which is not queued, on this CPU. Interrupts are off.
    #[inline(always)]
    pub(crate) fn set(&self, here: &Cpu, deadline: Deadline) {
        let cycles = deadline.cycles();
        trace::event(EventKind::TimerSet, cycles, 0);
        let mut queue = here.timers.lock();
        self.deadline.store(cycles, Ordering::Relaxed);
        self.queued_on.store(here.index as u32, Ordering::Relaxed);
        self.last_on.store(here.index as u32, Ordering::Relaxed);
        queue.insert(self, cycles);
        if cycles < queue.armed_for {
            queue.armed_for = cycles;
            Clock::arm(cycles);
        }
    }

    /// Returns true if the timer is queued. The answer may be outdated when the caller sees it.
    pub(crate) fn is_set(&self) -> bool {
        self.queued_on.load(Ordering::Relaxed) != NO_CPU
    }

    /// Takes the timer out. Returns true if its function was not and will not be called for the
    /// last [`TimerNode::set`]. On another CPU than the timer's, waits until a running function has
    /// returned.
    #[inline(always)]
    pub(crate) fn cancel(&self) -> bool {
        let cancelled = self.withdraw();
        if !cancelled {
            let _guard = InterruptGuard::new();
            while self.is_running_elsewhere() {
                Core::spin_hint();
            }
        }
        cancelled
    }

    /// Takes the timer out without waiting. Returns false if it was not queued.
    #[inline(always)]
    fn withdraw(&self) -> bool {
        loop {
            let index = self.queued_on.load(Ordering::Acquire);
            let Some(cpu) = cpu::known(index as usize) else { return false };
            let mut queue = cpu.timers.lock();
            // The timer may have fired, or even been set again elsewhere, before the lock was
            // taken.
            if self.queued_on.load(Ordering::Relaxed) == index {
                queue.remove(self);
                self.queued_on.store(NO_CPU, Ordering::Relaxed);
                return true;
            }
        }
    }

    /// Returns true if the timer's function is running on another CPU, where it may set the timer
    /// again.
    fn is_running_elsewhere(&self) -> bool {
        let last = cpu::known(self.last_on.load(Ordering::Relaxed) as usize);
        last.is_some_and(|cpu| !cpu.is_this() && ptr::eq(RUNNING[cpu.index].load(Ordering::Acquire), self))
    }
}

/// The timer whose function each CPU is calling, null if none.
static RUNNING: [AtomicPtr<TimerNode>; arch_contract::MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; arch_contract::MAX_CPUS];

/// Handles the timer interrupt: calls the functions of the timers that are due and arms the
/// hardware for the next one.
pub(crate) fn interrupt(_: usize) {
    let here = cpu::this();
    loop {
        let mut queue = here.timers.lock();
        let first = queue.first;
        // SAFETY: the pointer is null or leads to a queued node, which is cancelled before it is
        // freed; the lock is held.
        let due = unsafe { first.as_ref() }.filter(|node| node.deadline.load(Ordering::Relaxed) <= Core::cycles());
        let Some(node) = due else {
            queue.arm_for_first();
            break;
        };
        queue.remove(node);
        queue.fired += 1;
        // In this order: a canceller that finds the timer no longer queued must find it running.
        RUNNING[here.index].store(first.cast_mut(), Ordering::Relaxed);
        node.queued_on.store(NO_CPU, Ordering::Release);
        let (function, argument) = (node.function, node.argument);
        let deadline = node.deadline.load(Ordering::Relaxed);
        drop(queue);
        trace::event(EventKind::TimerFire, deadline, 0);
        function(argument);
        RUNNING[here.index].store(ptr::null_mut(), Ordering::Release);
    }
}

/// A one-shot timer that calls a function in the timer interrupt of the CPU it was set on.
pub struct Timer {
    node: Box<TimerNode>,
}

impl Timer {
    /// Creates a timer that calls `function(context)`. The function runs in an interrupt handler:
    /// see [`InterruptSafe`].
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new<C: InterruptSafe + 'static>(context: &'static C, function: fn(&C)) -> Result<Self, OutOfMemory> {
        // SAFETY: the function takes a `&C`, is called with the address of a `&'static C`, and a
        // reference and its address are passed alike.
        let function = unsafe { core::mem::transmute::<fn(&C), fn(usize)>(function) };
        let node = TimerNode { owner: owner::current(), ..TimerNode::new(function, ptr::from_ref(context) as usize) };
        crate::memory::try_box(node).map(|node| Self { node })
    }

    /// Makes the function be called once at `deadline`, on this CPU. Replaces an earlier deadline
    /// that has not passed.
    #[inline(always)]
    pub fn set(&mut self, deadline: Deadline) {
        let _guard = InterruptGuard::new();
        self.node.cancel();
        self.node.set(cpu::this(), deadline);
    }

    /// Cancels the timer without waiting for its function. Returns true if the function was not and
    /// will not be called.
    pub fn withdraw(&self) -> bool {
        self.node.withdraw()
    }

    /// Returns true inside the timer's own function.
    pub fn is_running_here(&self) -> bool {
        let _guard = InterruptGuard::new();
        ptr::eq(RUNNING[cpu::this().index].load(Ordering::Relaxed), &raw const *self.node)
    }

    /// Returns true if the function is running on another CPU, where it may set the timer again.
    pub fn is_running_elsewhere(&self) -> bool {
        let _guard = InterruptGuard::new();
        self.node.is_running_elsewhere()
    }

    /// Cancels the timer. Returns true if the function was not and will not be called. Unless the
    /// function itself calls this, the function is not running when this returns.
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
