//! Tasks: closures that run to completion, on worker threads, one per CPU.
//!
//! A task is queued on a CPU, pinned there or free to be stolen by a worker that has nothing to do; within a CPU the
//! highest priority goes first; of one priority, pinned tasks before others, and each kind in its order. A [`Pool`] is a
//! set of queues with its workers. A small closure (three words) is kept in the queue itself, so that queueing allocates
//! nothing. Tasks that a CPU pins to itself are in queues that only it touches, without any lock.

mod rest;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use rest::{Rest, Worker, Workers};

use crate::arch::{Architecture, Machine};
use crate::cpu::{self, CacheLine, Owned};
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::{self, OutOfMemory};
use crate::thread::{self, Builder, JoinHandle, NoSuchCpu, SpawnError};
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

/// A first-in-first-out queue whose capacity is a power of two, or none at first. Workers leave it empty, unless their
/// program ended before them; then the tasks in it, functions of that program, are forgotten.
struct Ring {
    slots: Box<[MaybeUninit<Task>]>,
    /// The capacity less one: as a number it is signed, -1 for none.
    mask: usize,
    /// Tasks ever taken and ever put in, modulo the word size.
    taken: usize,
    put: usize,
}

impl Ring {
    const FIRST_CAPACITY: usize = 16;

    fn new() -> Self {
        Self { slots: Vec::new().into_boxed_slice(), mask: usize::MAX, taken: 0, put: 0 }
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.put.wrapping_sub(self.taken) as isize > self.mask as isize
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
        *self = Self { slots: slots.into_boxed_slice(), mask: capacity - 1, taken: 0, put: count };
        Ok(())
    }

    #[inline(always)]
    fn push(&mut self, task: Task) -> Result<(), OutOfMemory> {
        if self.is_full() {
            self.grow()?;
        }
        let index = self.put & self.mask;
        // SAFETY: a ring that is not full has slots, and masking with their number less one, all bits set, makes any
        // number one of theirs.
        unsafe { self.slots.get_unchecked_mut(index) }.write(task);
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// It is not empty.
    #[inline(always)]
    fn pop(&mut self) -> Task {
        let index = self.taken & self.mask;
        // SAFETY: as above; between `taken` and `put` the slots are full, and each is taken once.
        let task = unsafe { self.slots.get_unchecked(index).assume_init_read() };
        self.taken = self.taken.wrapping_add(1);
        task
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.taken == self.put
    }
}

/// Two rings for each priority: tasks that are pinned, and tasks that may be stolen. A power of two, so that masking an
/// index makes it one of a ring.
const RINGS: usize = (2 * PRIORITIES).next_power_of_two();
/// Bits of the rings with tasks that may be stolen.
const SHARED: u32 = 0b10_1010;
const ALL: u32 = u32::MAX;

/// Rings with a bit for each that has tasks, the lowest for the one that goes first.
struct Rings {
    rings: [Ring; RINGS],
    filled: u32,
}

impl Rings {
    fn new() -> Self {
        Self { rings: core::array::from_fn(|_| Ring::new()), filled: 0 }
    }

    #[inline(always)]
    fn push(&mut self, ring: usize, task: Task) -> Result<(), OutOfMemory> {
        self.rings[ring % RINGS].push(task)?;
        self.filled |= 1 << ring;
        Ok(())
    }

    /// Takes the first task of a ring that has some.
    #[inline(always)]
    fn pop(&mut self, ring: u32) -> Task {
        let queue = &mut self.rings[ring as usize % RINGS];
        let task = queue.pop();
        if queue.is_empty() {
            self.filled &= !(1 << ring);
        }
        task
    }
}

/// The queues of one CPU, and its worker.
struct CpuQueues {
    /// What the CPU has pinned to itself.
    own: Owned<Rings>,
    /// What others have put here, and what others may take.
    common: SpinLock<Rings>,
    /// The filled rings in `common`, written under its lock.
    filled: AtomicU32,
    /// False for a CPU that does not run.
    is_present: bool,
    worker: Worker,
    wake: Event,
}

/// The calling thread is not on the CPU whose queues it means.
struct Elsewhere;

impl CpuQueues {
    fn new(index: usize) -> Self {
        Self {
            own: Owned::new(Rings::new()),
            common: SpinLock::new(Rings::new()),
            filled: AtomicU32::new(0),
            is_present: cpu::get(index).is_some(),
            worker: Worker::new(),
            wake: Event::new(),
        }
    }

    fn put(&self, ring: usize, task: Task) -> Result<(), OutOfMemory> {
        let mut common = self.common.lock();
        common.push(ring, task)?;
        // Ordered before the look whether the worker is awake: see `Workers::rest`.
        self.filled.swap(common.filled, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the first of the common rings in `allowed`.
    fn take_common(&self, allowed: u32) -> Option<Task> {
        if self.filled.load(Ordering::Relaxed) & allowed == 0 {
            return None;
        }
        let mut common = self.common.lock();
        let filled = common.filled & allowed;
        if filled == 0 {
            return None;
        }
        let task = common.pop(filled.trailing_zeros());
        self.filled.store(common.filled, Ordering::Relaxed);
        Some(task)
    }

    /// Runs the first task that this CPU, `index`, has pinned to itself, unless one in the common queues goes first. False if
    /// there is none. By a thread, whose interrupts are on.
    #[inline(always)]
    fn run_own(&self, index: usize) -> Result<bool, Elsewhere> {
        Machine::disable_interrupts();
        let task = (cpu::this().index == index).then(|| {
            // SAFETY: this CPU's, interrupts off.
            let own = unsafe { self.own.get() };
            let common = self.filled.load(Ordering::Relaxed);
            let goes_first = common == 0 || own.filled.trailing_zeros() <= common.trailing_zeros();
            (own.filled != 0 && goes_first).then(|| own.pop(own.filled.trailing_zeros()))
        });
        Machine::enable_interrupts();
        Ok(task.ok_or(Elsewhere)?.map(Task::run).is_some())
    }

    /// True if this CPU has pinned tasks to itself. By its worker there.
    fn has_own_tasks(&self) -> bool {
        let _guard = InterruptGuard::new();
        // SAFETY: on its CPU, interrupts off.
        unsafe { self.own.get() }.filled != 0
    }

    /// Runs the first task of the common queues.
    fn run_common(&self) -> bool {
        self.take_common(ALL).map(Task::run).is_some()
    }
}

struct Shared {
    cpus: Box<[CacheLine<CpuQueues>]>,
    threads: SpinLock<Vec<JoinHandle<()>>>,
    workers: Workers,
}

/// Queues and workers on all CPUs. Dropping it, which no task of its own may, waits until all that is queued has run, also
/// by the last tasks, and the workers have ended. Who else queues must have done so before.
pub struct Pool {
    /// From a box. The workers use it as long as they live. Nothing else is here: tasks may use the pool while it is dropped.
    shared: *const Shared,
}

// SAFETY: what is shared is made for it, and lives as long as the pool.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// What a worker has of its pool.
struct Theirs(*const Shared);

// SAFETY: as for `Pool`.
unsafe impl Send for Theirs {}

impl Theirs {
    /// # Safety
    /// By one of the pool's workers.
    unsafe fn get(&self) -> &Shared {
        // SAFETY: the pool waits for its workers.
        unsafe { &*self.0 }
    }
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
        let mut threads = Vec::new();
        threads.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        let (cpus, threads) = (cpus.into_boxed_slice(), SpinLock::new(threads));
        let shared = memory::try_box(Shared { cpus, threads, workers: Workers::new() })?;
        // Workers of CPUs that have one end with the pool, also if a later one cannot be spawned.
        let pool = Self { shared: Box::into_raw(shared) };
        for cpu in cpu::all() {
            let theirs = Theirs(pool.shared);
            let index = cpu.index;
            let worker = Builder::new("tasks").cpu(index).spawn(move || {
                let theirs = theirs;
                // SAFETY: this is a worker.
                unsafe { theirs.get() }.work(index);
            })?;
            pool.shared().threads.lock().push(worker);
        }
        Ok(pool)
    }

    #[inline(always)]
    fn shared(&self) -> &Shared {
        // SAFETY: freed when the pool is dropped.
        unsafe { &*self.shared }
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
        let guard = InterruptGuard::new();
        let here = cpu::this().index;
        let shared = self.shared();
        if let Place::Pinned(index) = place
            && index == here
            && let Some(cpu) = shared.cpus.get(index)
        {
            let task = Task::new(closure).map_err(|OutOfMemory| QueueError::OutOfMemory)?;
            // SAFETY: this CPU's, interrupts off.
            unsafe { cpu.own.get() }.push(2 * priority as usize, task).map_err(|_| QueueError::OutOfMemory)?;
            drop(guard);
            if !cpu.worker.is_awake_here() {
                shared.wake_worker(index, true);
            }
            return Ok(());
        }
        drop(guard);
        let task = Task::new(closure).map_err(|OutOfMemory| QueueError::OutOfMemory)?;
        match place {
            Place::Here => self.queue_common(here, false, priority, task),
            Place::Near(cpu) => self.queue_common(cpu, false, priority, task),
            Place::Pinned(cpu) => self.queue_common(cpu, true, priority, task),
        }
    }

    fn queue_common(&self, index: usize, is_pinned: bool, priority: Priority, task: Task) -> Result<(), QueueError> {
        let shared = self.shared();
        let Some(cpu) = shared.cpus.get(index).filter(|cpu| cpu.is_present) else {
            return Err(QueueError::NoSuchCpu(NoSuchCpu(index)));
        };
        let ring = 2 * priority as usize + usize::from(!is_pinned);
        cpu.put(ring, task).map_err(|OutOfMemory| QueueError::OutOfMemory)?;
        let wanted = match is_pinned {
            true => !cpu.worker.is_awake(),
            false => shared.workers.may_sleep(),
        };
        if wanted {
            shared.wake_worker(index, is_pinned);
        }
        Ok(())
    }

    /// Runs one task of this CPU's queues on the caller, a thread, if there is one; true if there was.
    ///
    /// # Panics
    /// If interrupts are off, as they are in handlers.
    #[inline]
    pub fn run_one(&self) -> bool {
        assert!(Machine::interrupts_enabled(), "a task is run where interrupts are off");
        let shared = self.shared();
        let index = cpu::this_index();
        let run = |cpu: &CpuQueues| Ok::<_, Elsewhere>(cpu.run_own(index)? || cpu.run_common());
        shared.cpus.get(index).is_some_and(|cpu| run(cpu).unwrap_or(false))
    }

    /// True for a thread that is one of its workers.
    pub fn is_worker(&self) -> bool {
        self.shared().threads.lock().iter().any(|worker| ptr::eq(worker.thread(), thread::running()))
    }
}

impl Pool {
    /// Waits until all that is queued has run, and what that queues, and the workers have ended: the pool's last use but for its
    /// drop. Not by one of its own tasks.
    pub fn finish(&self) {
        let shared = self.shared();
        let threads = core::mem::take(&mut *shared.threads.lock());
        if threads.is_empty() {
            return;
        }
        shared.workers.end_when_asleep(threads.len());
        shared.tell_all();
        for mut worker in threads {
            // A program's end forces timeouts on who waits; its workers end then too.
            while let Err(still_there) = worker.join_until(Deadline::NEVER) {
                worker = still_there;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        assert!(!self.is_worker(), "a pool of tasks was dropped by one of its own tasks, which it would wait for");
        self.finish();
        // SAFETY: from a box; the workers, who used it, have ended.
        drop(unsafe { Box::from_raw(self.shared.cast_mut()) });
    }
}

impl Shared {
    /// Wakes the queue's own worker if it sleeps, or else, for a task that may be stolen, another one.
    #[cold]
    fn wake_worker(&self, index: usize, pinned: bool) {
        let others = self.cpus.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, cpu)| cpu);
        let candidates = core::iter::once(&self.cpus[index]).chain(others);
        for cpu in candidates.take(if pinned { 1 } else { self.cpus.len() }) {
            if self.workers.wake(&cpu.worker) {
                cpu.wake.signal();
                return;
            }
        }
    }

    fn tell_all(&self) {
        self.cpus.iter().for_each(|cpu| cpu.wake.signal());
    }

    /// Runs a task that another CPU may spare.
    fn run_stolen(&self, thief: usize) -> bool {
        let count = self.cpus.len();
        let stolen = (1..count).find_map(|distance| self.cpus[(thief + distance) % count].take_common(SHARED));
        stolen.map(Task::run).is_some()
    }

    /// Runs what a worker finds, until it finds nothing, or a task takes it to another CPU.
    #[inline(never)]
    fn run_all(&self, index: usize) -> Result<(), Elsewhere> {
        let queues = &self.cpus[index];
        while queues.run_own(index)? || queues.run_common() || self.run_stolen(index) {}
        Ok(())
    }

    /// True if there is something for a worker to run.
    fn has_tasks_for(&self, index: usize) -> bool {
        self.cpus[index].has_own_tasks()
            || self.cpus.iter().enumerate().any(|(other, cpu)| {
                let mine = if other == index { ALL } else { SHARED };
                cpu.filled.load(Ordering::SeqCst) & mine != 0
            })
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let queues = &self.cpus[index];
        while !self.workers.have_ended() {
            if let Err(Elsewhere) = self.run_all(index) {
                // Its CPU runs, or the worker would not.
                let _ = thread::migrate(index);
                continue;
            }
            let rest = self.workers.rest(&queues.worker, || self.has_tasks_for(index));
            if rest == Rest::End {
                self.tell_all();
            }
            if rest != Rest::None {
                // A program's end forces it; then the worker's next step ends it.
                let _ = queues.wake.wait_until(Deadline::NEVER);
                thread::leave_if_ending();
            }
            self.workers.wake(&queues.worker);
        }
    }
}
