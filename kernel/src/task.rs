//! Tasks: closures that run to completion, on worker threads, one per CPU.
//!
//! A task is queued on a CPU, pinned there or free to be stolen by a worker that has nothing to do; within a CPU the
//! highest priority goes first, and tasks of one priority in their order. A [`Pool`] is a set of queues with its workers.
//! A small closure (three words) is kept in the queue itself, so that queueing allocates nothing.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{MaybeUninit, align_of, size_of};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::cpu::{self, CacheLine};
use crate::lock::SpinLock;
use crate::memory::{self, OutOfMemory};
use crate::thread::{Builder, NoSuchCpu, SpawnError};
use crate::time::Deadline;
use crate::wait::Event;

/// What goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// As usual.
    #[default]
    Normal = 1,
    /// When there is nothing else.
    Low = 2,
}

const PRIORITIES: usize = 3;

/// Where a task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Queued on the caller's CPU; another may steal it.
    Here,
    /// Queued on this CPU; another may steal it.
    Near(usize),
    /// On this CPU only.
    Pinned(usize),
}

/// Why a task was not queued. The closure is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// No memory for the queue or the closure.
    OutOfMemory,
    /// There is no such CPU.
    NoSuchCpu(NoSuchCpu),
}

impl core::fmt::Display for QueueError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfMemory => OutOfMemory.fmt(f),
            Self::NoSuchCpu(error) => error.fmt(f),
        }
    }
}

/// Words a closure may have to be kept in the queue.
const INLINE_WORDS: usize = 3;

type Word = MaybeUninit<u64>;

/// A closure of any kind, to be called once. Its words travel in registers.
#[derive(Clone, Copy)]
struct Task {
    call: unsafe fn(Word, Word, Word),
    closure: [Word; INLINE_WORDS],
}

impl Task {
    #[inline(always)]
    fn new<F: FnOnce() + Send + 'static>(closure: F) -> Result<Self, OutOfMemory> {
        unsafe fn call_inline<F: FnOnce()>(first: Word, second: Word, third: Word) {
            let words = [first, second, third];
            // SAFETY: the words of an F, written below, taken once.
            let closure = unsafe { words.as_ptr().cast::<F>().read() };
            closure();
        }
        unsafe fn call_boxed<F: FnOnce()>(first: Word, _: Word, _: Word) {
            // SAFETY: the address of a box, written below, taken once.
            let closure = unsafe { Box::from_raw(first.assume_init() as *mut F) };
            closure();
        }
        let mut words = [Word::uninit(); INLINE_WORDS];
        if size_of::<F>() <= size_of_val(&words) && align_of::<F>() <= align_of::<Word>() {
            // SAFETY: it fits.
            unsafe { words.as_mut_ptr().cast::<F>().write(closure) };
            return Ok(Self { call: call_inline::<F>, closure: words });
        }
        words[0].write(Box::into_raw(memory::try_box(closure)?) as u64);
        Ok(Self { call: call_boxed::<F>, closure: words })
    }

    #[inline(always)]
    fn run(self) {
        let [first, second, third] = self.closure;
        // SAFETY: the words belong to the function; whoever took the task out of its ring calls it once.
        unsafe { (self.call)(first, second, third) };
    }
}

/// A first-in-first-out queue whose capacity is a power of two.
struct Ring {
    slots: Box<[MaybeUninit<Task>]>,
    /// Tasks ever taken and ever put in, modulo the word size.
    taken: usize,
    put: usize,
}

impl Ring {
    const FIRST_CAPACITY: usize = 16;

    fn new() -> Self {
        Self { slots: Vec::new().into_boxed_slice(), taken: 0, put: 0 }
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.put.wrapping_sub(self.taken) == self.slots.len()
    }

    /// Twice the room.
    #[cold]
    fn grow(&mut self) -> Result<(), OutOfMemory> {
        let capacity = (2 * self.slots.len()).max(Self::FIRST_CAPACITY);
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity).map_err(|_| OutOfMemory)?;
        let count = self.put.wrapping_sub(self.taken);
        slots.extend((0..count).map(|_| MaybeUninit::new(self.pop())));
        slots.resize_with(capacity, MaybeUninit::uninit);
        *self = Self { slots: slots.into_boxed_slice(), taken: 0, put: count };
        Ok(())
    }

    /// It is not full.
    #[inline(always)]
    fn push(&mut self, task: Task) {
        let mask = self.slots.len().wrapping_sub(1);
        self.slots[self.put & mask].write(task);
        self.put = self.put.wrapping_add(1);
    }

    /// It is not empty.
    #[inline(always)]
    fn pop(&mut self) -> Task {
        let mask = self.slots.len().wrapping_sub(1);
        // SAFETY: between `taken` and `put` the slots are full, and each is taken once.
        let task = unsafe { self.slots[self.taken & mask].assume_init_read() };
        self.taken = self.taken.wrapping_add(1);
        task
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.taken == self.put
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Workers end when all queues are empty, so this is for pools whose workers could not be spawned.
        while !self.is_empty() {
            self.pop().run();
        }
    }
}

/// Two rings for each priority: tasks that are pinned, and tasks that may be stolen. A power of two, so that masking an
/// index makes it one of a ring.
const RINGS: usize = (2 * PRIORITIES).next_power_of_two();
/// Bits of the rings with tasks that may be stolen.
const SHARED: u32 = 0b10_1010;
const ALL: u32 = u32::MAX;

/// The queues of one CPU, and its worker.
struct CpuQueues {
    rings: SpinLock<[Ring; RINGS]>,
    /// A bit for each ring that has tasks, the lowest for the one that goes first. Written under the lock.
    filled: AtomicU32,
    /// False for a CPU that does not run.
    is_present: bool,
    /// Set by the worker before it sleeps, cleared by whoever wakes it.
    asleep: AtomicBool,
    wake: Event,
}

impl CpuQueues {
    fn new(index: usize) -> Self {
        Self {
            rings: SpinLock::new(core::array::from_fn(|_| Ring::new())),
            filled: AtomicU32::new(0),
            is_present: cpu::get(index).is_some(),
            asleep: AtomicBool::new(false),
            wake: Event::new(),
        }
    }

    fn has_tasks(&self) -> bool {
        self.filled.load(Ordering::SeqCst) != 0
    }

    #[inline(always)]
    fn put(&self, ring: usize, task: Task) -> Result<(), OutOfMemory> {
        let mut rings = self.rings.lock();
        let queue = &mut rings[ring % RINGS];
        if queue.is_full() {
            queue.grow()?;
        }
        queue.push(task);
        // Ordered before the look whether the worker sleeps: see `Shared::work`.
        self.filled.fetch_or(1 << ring, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the first of the rings in `allowed`.
    #[inline(always)]
    fn take(&self, allowed: u32) -> Option<Task> {
        if self.filled.load(Ordering::Relaxed) & allowed == 0 {
            return None;
        }
        let mut rings = self.rings.lock();
        let filled = self.filled.load(Ordering::Relaxed);
        if filled & allowed == 0 {
            return None;
        }
        let ring = (filled & allowed).trailing_zeros();
        let queue = &mut rings[ring as usize % RINGS];
        let task = queue.pop();
        if queue.is_empty() {
            self.filled.store(filled & !(1 << ring), Ordering::Relaxed);
        }
        Some(task)
    }
}

struct Shared {
    cpus: Box<[CacheLine<CpuQueues>]>,
    /// Number of workers that sleep, as a hint.
    sleepers: AtomicUsize,
    stopping: AtomicBool,
}

/// Queues and workers on all CPUs. Dropping it lets the workers end once they have run what is queued.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool whose workers are threads of the caller's program.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn new() -> Result<Self, SpawnError> {
        let mut cpus = Vec::new();
        cpus.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        cpus.extend((0..cpu::limit()).map(|index| CacheLine(CpuQueues::new(index))));
        let shared = Arc::new(Shared {
            cpus: cpus.into_boxed_slice(),
            sleepers: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        // Workers of CPUs that have one end with the pool, also if a later one cannot be spawned.
        let pool = Self { shared };
        for cpu in cpu::all() {
            let theirs = pool.shared.clone();
            let index = cpu.index;
            Builder::new("tasks").cpu(index).spawn(move || theirs.work(index))?.detach();
        }
        Ok(pool)
    }

    /// Queues a task. Any context, as long as the queue need not grow.
    ///
    /// # Errors
    /// See [`QueueError`].
    #[inline]
    pub fn queue<F>(&self, place: Place, priority: Priority, closure: F) -> Result<(), QueueError>
    where
        F: FnOnce() + Send + 'static,
    {
        let task = Task::new(closure).map_err(|OutOfMemory| QueueError::OutOfMemory)?;
        let (index, pinned) = match place {
            Place::Here => (cpu::this_index(), false),
            Place::Near(cpu) => (cpu, false),
            Place::Pinned(cpu) => (cpu, true),
        };
        let Some(cpu) = self.shared.cpus.get(index).filter(|cpu| cpu.is_present) else {
            return Err(QueueError::NoSuchCpu(NoSuchCpu(index)));
        };
        let ring = 2 * priority as usize + usize::from(!pinned);
        cpu.put(ring, task).map_err(|OutOfMemory| QueueError::OutOfMemory)?;
        let wanted =
            if pinned { cpu.asleep.load(Ordering::SeqCst) } else { self.shared.sleepers.load(Ordering::SeqCst) != 0 };
        if wanted {
            self.shared.wake_worker(index, pinned);
        }
        Ok(())
    }

    /// Runs one task of this CPU's queues on the caller, if there is one; true if there was.
    #[inline]
    pub fn run_one(&self) -> bool {
        match self.shared.take(cpu::this_index()) {
            Some(task) => {
                task.run();
                true
            }
            None => false,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.cpus.iter().for_each(|cpu| cpu.wake.signal());
    }
}

impl Shared {
    /// Wakes the queue's own worker if it sleeps, or else, for a task that may be stolen, another one.
    #[cold]
    fn wake_worker(&self, index: usize, pinned: bool) {
        let others = self.cpus.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, cpu)| cpu);
        let candidates = core::iter::once(&self.cpus[index]).chain(others);
        for cpu in candidates.take(if pinned { 1 } else { self.cpus.len() }) {
            if cpu.asleep.swap(false, Ordering::SeqCst) {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                cpu.wake.signal();
                return;
            }
        }
    }

    #[inline(always)]
    fn take(&self, index: usize) -> Option<Task> {
        self.cpus.get(index)?.take(ALL)
    }

    fn steal(&self, thief: usize) -> Option<Task> {
        let count = self.cpus.len();
        (1..count).find_map(|distance| self.cpus[(thief + distance) % count].take(SHARED))
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let own = &self.cpus[index];
        loop {
            while let Some(task) = own.take(ALL).or_else(|| self.steal(index)) {
                task.run();
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            // Announced first and looked again after: a task queued in between finds a sleeper or is found.
            own.asleep.store(true, Ordering::SeqCst);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let work_came = self.cpus.iter().any(|cpu| cpu.has_tasks());
            if !work_came {
                // A program's end forces it; then the worker's next step ends it.
                let _ = own.wake.wait_until(Deadline::NEVER);
                crate::program::leave_if_ending();
            }
            if own.asleep.swap(false, Ordering::SeqCst) {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
