//! Tasks: closures that run to completion on worker threads, one worker per CPU.
//!
//! A task is queued on a CPU, either pinned there or free to be stolen by an idle worker. Within a
//! CPU the highest priority runs first; within a priority, pinned tasks run before others, and each
//! kind in the order of queueing. A [`Pool`] is a set of queues with its workers. A closure of up
//! to three words is kept in the queue itself, so queueing it allocates nothing. The tasks that a
//! CPU pins to itself are in queues that only this CPU touches, without a lock.

mod rest;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use rest::{Rest, Worker, Workers};

use crate::arch::*;
use crate::cpu::{self, CacheLine, Owned};
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::{self, OutOfMemory};
use crate::thread::{self, Builder, JoinHandle, NoSuchCpu, SpawnError};
use crate::time::Deadline;
use crate::wait::Event;

/// The priority of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// When no other task is queued.
    Low = 2,
}

const PRIORITIES: usize = 3;

/// Where a task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Queued on the caller's CPU; other CPUs may steal it.
    Here,
    /// Queued on this CPU; other CPUs may steal it.
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

/// Size limit, in words, of a closure that is kept in the queue. A task of a program has as many: a
/// function, its argument and the program.
const INLINE_WORDS: usize = 3;

// A closure's words may contain padding, which is no valid integer.
type Word = MaybeUninit<u64>;

/// A closure of any type, to be called once. Its words are passed in registers. It has no
/// destructor, so that a ring can be freed with tasks in it, functions of a program that has ended.
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
            // SAFETY: `new` wrote an `F` into these words, and a task is called once, so the value
            // is moved out once.
            let closure = unsafe { words.as_ptr().cast::<F>().read() };
            closure();
        }
        unsafe fn call_boxed<F: FnOnce()>(first: Word, _: Word, _: Word) {
            // SAFETY: `new` wrote the address of a box of `F`, and a task is called once, so the
            // box is rebuilt once.
            let closure = unsafe { Box::from_raw(first.assume_init() as *mut F) };
            closure();
        }
        let mut words = [Word::uninit(); INLINE_WORDS];
        if size_of::<F>() <= size_of_val(&words) && align_of::<F>() <= align_of::<Word>() {
            // SAFETY: the check above makes sure that `F` fits the words in size and alignment.
            unsafe { words.as_mut_ptr().cast::<F>().write(closure) };
            return Ok(Self { call: call_inline::<F>, closure: words });
        }
        words[0].write(Box::into_raw(memory::try_box(closure)?) as u64);
        Ok(Self { call: call_boxed::<F>, closure: words })
    }

    #[inline(always)]
    fn run(self) {
        let [first, second, third] = self.closure;
        // SAFETY: `new` stored the words together with their function, and a task is taken out of
        // its ring and run once.
        unsafe { (self.call)(first, second, third) };
    }
}

/// A first-in-first-out queue whose capacity is a power of two, or zero at first. Workers leave it
/// empty unless their program ends before them; the tasks left in it, functions of that program,
/// are then forgotten.
struct Ring {
    slots: Box<[MaybeUninit<Task>]>,
    /// The capacity minus one; `usize::MAX`, which is -1 as a signed number, for a capacity of
    /// zero.
    mask: usize,
    /// Numbers of tasks ever taken and ever put in, modulo the word size.
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

    /// Doubles the capacity.
    #[cold]
    fn grow(&mut self) -> Result<(), OutOfMemory> {
        let capacity = (2 * self.slots.len()).max(Self::FIRST_CAPACITY);
        let mut slots = Vec::new();
        // Before the first task moves, so that a failure changes nothing.
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
        // SAFETY: a ring that is not full has slots, and their number is a power of two, so the
        // mask yields a valid index.
        unsafe { self.slots.get_unchecked_mut(index) }.write(task);
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Takes the oldest task. The ring is not empty.
    #[inline(always)]
    fn pop(&mut self) -> Task {
        let index = self.taken & self.mask;
        // SAFETY: the mask yields a valid index because a ring that holds a task has slots; the
        // slots between `taken` and `put` are written, and each is read once.
        let task = unsafe { self.slots.get_unchecked(index).assume_init_read() };
        self.taken = self.taken.wrapping_add(1);
        task
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.taken == self.put
    }
}

/// Number of rings: for each priority one for pinned tasks and one for tasks that may be stolen,
/// rounded up to a power of two so that masking an index yields a valid one.
const RINGS: usize = (2 * PRIORITIES).next_power_of_two();
/// Bits of the rings whose tasks may be stolen.
const SHARED: u32 = 0b10_1010;
const ALL: u32 = u32::MAX;

/// Rings with one bit per ring that holds tasks; the lowest bit is the ring that goes first.
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

    /// Takes the first task of a ring that is not empty.
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
    /// Tasks that the CPU has pinned to itself.
    own: Owned<Rings>,
    /// Tasks that other CPUs have put here or may steal.
    common: SpinLock<Rings>,
    /// The filled rings of `common`, written under its lock. Other workers read it without the
    /// lock, so that a look at an empty CPU does not disturb that CPU's pushes.
    filled: AtomicU32,
    /// False for a CPU that does not run.
    is_present: bool,
    worker: Worker,
    wake: Event,
}

/// The calling thread is on another CPU than the one whose queues it addresses.
struct Elsewhere;

impl CpuQueues {
    fn new(index: usize) -> Self {
        Self {
            own: Owned::new(Rings::new()),
            common: SpinLock::new(Rings::new()),
            filled: AtomicU32::new(0),
            // Workers are spawned for these CPUs, and only once.
            is_present: cpu::get(index).is_some(),
            worker: Worker::new(),
            wake: Event::new(),
        }
    }

    fn put(&self, ring: usize, task: Task) -> Result<(), OutOfMemory> {
        let mut common = self.common.lock();
        common.push(ring, task)?;
        // A full barrier between the task's publication and the caller's check whether the worker
        // is awake, which pairs with the one in `Workers::rest`.
        self.filled.swap(common.filled, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the first task of the common rings in `allowed`.
    fn take_common(&self, allowed: u32) -> Option<Task> {
        // Relaxed, because a worker that misses a task here looks again before it sleeps
        // (`has_tasks_for`).
        if self.filled.load(Ordering::Relaxed) & allowed == 0 {
            return None;
        }
        let mut common = self.common.lock();
        let filled = common.filled & allowed;
        if filled == 0 {
            return None;
        }
        let task = common.pop(filled.trailing_zeros());
        // No barrier as in `put`: a bit that is seen too late costs a useless look.
        self.filled.store(common.filled, Ordering::Relaxed);
        Some(task)
    }

    /// Runs the first task that this CPU, `index`, has pinned to itself, unless a task in the
    /// common queues goes first. Returns false if there is none. The caller is a thread with
    /// interrupts on.
    #[inline(always)]
    fn run_own(&self, index: usize) -> Result<bool, Elsewhere> {
        // Without a guard, which would save the flag: the caller has interrupts on. The CPU is
        // compared inside, because the thread may have been moved before.
        Core::disable_interrupts();
        let task = (cpu::this().index == index).then(|| {
            // SAFETY: the check above makes these the running CPU's own queues, and interrupts are
            // off until they are enabled below.
            let own = unsafe { self.own.get() };
            let common = self.filled.load(Ordering::Relaxed);
            // Of equal rings the own one goes first. That the word may be out of date only changes
            // the order of tasks that are queued at the same time.
            let goes_first = common == 0 || own.filled.trailing_zeros() <= common.trailing_zeros();
            (own.filled != 0 && goes_first).then(|| own.pop(own.filled.trailing_zeros()))
        });
        Core::enable_interrupts();
        // With interrupts on, because a task is a thread's code and may block.
        Ok(task.ok_or(Elsewhere)?.map(Task::run).is_some())
    }

    /// Returns true if this CPU has pinned tasks to itself. Only its worker calls this, on that
    /// CPU.
    fn has_own_tasks(&self) -> bool {
        let _guard = InterruptGuard::new();
        // SAFETY: the worker runs on the CPU that owns the queues, and interrupts are off.
        unsafe { self.own.get() }.filled != 0
    }

    /// Runs the first task of the common queues. Returns false if there is none.
    fn run_common(&self) -> bool {
        self.take_common(ALL).map(Task::run).is_some()
    }
}

/// The part of a pool that its workers share.
struct Shared {
    cpus: Box<[CacheLine<CpuQueues>]>,
    threads: SpinLock<Vec<JoinHandle<()>>>,
    workers: Workers,
}

/// Queues and workers on all CPUs. Dropping the pool waits until every queued task has run,
/// including the tasks that those queue, and the workers have ended. A task of the pool must not
/// drop it, and every other thread must have finished queueing.
pub struct Pool {
    /// Allocated as a box. The workers use it as long as they live. The pool has no other state,
    /// because tasks may use it while it is being dropped.
    shared: *const Shared,
}

// SAFETY: `Shared` is synchronized by its locks, atomics and per-CPU ownership, and lives as long
// as the pool.
unsafe impl Send for Pool {}
// SAFETY: every method takes `&self` and goes through `Shared`, whose parts are synchronized.
unsafe impl Sync for Pool {}

/// A worker's pointer to its pool's shared part.
struct Theirs(*const Shared);

// SAFETY: the pointer leads to `Shared`, which is synchronized and outlives the workers.
unsafe impl Send for Theirs {}

impl Theirs {
    /// Returns the shared part.
    ///
    /// # Safety
    /// The caller is one of the pool's workers.
    unsafe fn get(&self) -> &Shared {
        // SAFETY: the caller is a worker, and the pool frees the shared part only after its workers
        // have ended.
        unsafe { &*self.0 }
    }
}

impl Pool {
    /// Creates a pool whose workers are threads of the caller's program.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn new() -> Result<Self, SpawnError> {
        let mut cpus = Vec::new();
        cpus.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        cpus.extend((0..cpu::limit()).map(|index| CacheLine(CpuQueues::new(index))));
        let mut threads = Vec::new();
        // Now, because a push that allocated would panic when memory is out.
        threads.try_reserve_exact(cpu::limit()).map_err(|_| OutOfMemory)?;
        let (cpus, threads) = (cpus.into_boxed_slice(), SpinLock::new(threads));
        let shared = memory::try_box(Shared { cpus, threads, workers: Workers::new() })?;
        // If a later worker cannot be spawned, dropping this pool ends the earlier ones.
        let pool = Self { shared: Box::into_raw(shared) };
        for cpu in cpu::all() {
            let theirs = Theirs(pool.shared);
            let index = cpu.index;
            let worker = Builder::new("tasks").cpu(index).spawn(move || {
                let theirs = theirs;
                // SAFETY: this closure is the body of one of the pool's workers.
                unsafe { theirs.get() }.work(index);
            })?;
            pool.shared().threads.lock().push(worker);
        }
        Ok(pool)
    }

    #[inline(always)]
    fn shared(&self) -> &Shared {
        // SAFETY: the shared part is freed only when the pool is dropped, and this borrow keeps the
        // pool.
        unsafe { &*self.shared }
    }

    /// Queues a task. Callable in any context, as long as the queue does not have to grow.
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
            // SAFETY: `index` is the running CPU, so the queue is its own, and the guard keeps
            // interrupts off.
            unsafe { cpu.own.get() }.push(2 * priority as usize, task).map_err(|_| QueueError::OutOfMemory)?;
            drop(guard);
            // The worker runs on the same CPU: either it announced itself before the push, and is
            // seen here, or it looks after the push.
            if !cpu.worker.is_awake_here() {
                shared.wake_worker(index, true);
            }
            return Ok(());
        }
        // Before the closure is boxed, because an allocation reclaims memory only with interrupts
        // on.
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
            // A pinned task is for this worker alone; any sleeping worker may take the other kind.
            true => !cpu.worker.is_awake(),
            false => shared.workers.may_sleep(),
        };
        if wanted {
            shared.wake_worker(index, is_pinned);
        }
        Ok(())
    }

    /// Runs one task of this CPU's queues on the calling thread. Returns false if there is none.
    ///
    /// # Panics
    /// If interrupts are off, as they are in handlers.
    #[inline]
    pub fn run_one(&self) -> bool {
        // `run_own` turns interrupts on, which would break the caller's critical section.
        assert!(Core::interrupts_enabled(), "a task is run where interrupts are off");
        let shared = self.shared();
        let index = cpu::this_index();
        let run = |cpu: &CpuQueues| Ok::<_, Elsewhere>(cpu.run_own(index)? || cpu.run_common());
        shared.cpus.get(index).is_some_and(|cpu| run(cpu).unwrap_or(false))
    }

    /// Returns true if the calling thread is one of the pool's workers.
    pub fn is_worker(&self) -> bool {
        self.shared().threads.lock().iter().any(|worker| ptr::eq(worker.thread(), thread::running()))
    }
}

impl Pool {
    /// Waits until every queued task has run, including the tasks that those queue, and the workers
    /// have ended. Only the drop of the pool may follow. A task of the pool must not call this.
    pub fn finish(&self) {
        let shared = self.shared();
        let threads = core::mem::take(&mut *shared.threads.lock());
        if threads.is_empty() {
            return;
        }
        // The number is set before the workers are told: each falls asleep once more, and the last
        // one finds that all do.
        shared.workers.end_when_asleep(threads.len());
        shared.tell_all();
        for mut worker in threads {
            // The end of a program forces a timeout on its waiting threads; its workers end then
            // too.
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
        // SAFETY: `new` made the pointer from a box, and the workers, its only other users, have
        // ended.
        drop(unsafe { Box::from_raw(self.shared.cast_mut()) });
    }
}

impl Shared {
    /// Wakes the CPU's own worker if it sleeps; otherwise, for a task that may be stolen, wakes
    /// another one.
    #[cold]
    fn wake_worker(&self, index: usize, pinned: bool) {
        let others = self.cpus.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, cpu)| cpu);
        let candidates = core::iter::once(&self.cpus[index]).chain(others);
        for cpu in candidates.take(if pinned { 1 } else { self.cpus.len() }) {
            // The worker of a CPU that does not run is never asleep, so it is not chosen.
            if self.workers.wake(&cpu.worker) {
                cpu.wake.signal();
                return;
            }
        }
    }

    fn tell_all(&self) {
        self.cpus.iter().for_each(|cpu| cpu.wake.signal());
    }

    /// Runs a task that another CPU's queues hold and that may be stolen. Returns false if there is
    /// none.
    fn run_stolen(&self, thief: usize) -> bool {
        let count = self.cpus.len();
        // Each thief begins behind its own CPU, so that not all of them begin at the same one.
        let stolen = (1..count).find_map(|distance| self.cpus[(thief + distance) % count].take_common(SHARED));
        stolen.map(Task::run).is_some()
    }

    /// Runs tasks until there is none for this worker. Fails if a task has migrated the worker to
    /// another CPU.
    #[inline(never)]
    fn run_all(&self, index: usize) -> Result<(), Elsewhere> {
        let queues = &self.cpus[index];
        // After each task the search begins anew, because a more urgent one may have been queued.
        while queues.run_own(index)? || queues.run_common() || self.run_stolen(index) {}
        Ok(())
    }

    /// Returns true if there is a task for this CPU's worker to run.
    fn has_tasks_for(&self, index: usize) -> bool {
        self.cpus[index].has_own_tasks()
            || self.cpus.iter().enumerate().any(|(other, cpu)| {
                let mine = if other == index { ALL } else { SHARED };
                // The other side of the exchange in `put`: the worker has announced itself before
                // (`Workers::rest`).
                cpu.filled.load(Ordering::SeqCst) & mine != 0
            })
    }

    /// The body of a worker.
    fn work(&self, index: usize) {
        let queues = &self.cpus[index];
        while !self.workers.have_ended() {
            if let Err(Elsewhere) = self.run_all(index) {
                // The CPU is running, because its worker was spawned there.
                let _ = thread::migrate(index);
                continue;
            }
            let rest = self.workers.rest(&queues.worker, || self.has_tasks_for(index));
            if rest == Rest::End {
                // This worker is told too, so the wait below passes at once.
                self.tell_all();
            }
            if rest != Rest::None {
                // `Err` means that the program is ending, which forces a timeout; the next call
                // ends the worker.
                let _ = queues.wake.wait_until(Deadline::NEVER);
                thread::leave_if_ending();
            }
            // Also when it did not sleep, because it has announced itself as looking.
            self.workers.wake(&queues.worker);
        }
    }
}
