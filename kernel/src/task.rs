//! Tasks: closures that run to completion, on worker threads, one per CPU.
//!
//! A task is queued on a CPU, pinned there or free to be stolen by a worker that has nothing to do; within a CPU the
//! highest priority goes first, and tasks of one priority in their order. A [`Pool`] is a set of queues with its workers.
//! A small closure (five words) is kept in the queue itself, so that queueing allocates nothing.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{MaybeUninit, align_of, size_of};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
const INLINE_WORDS: usize = 5;

type Inline = MaybeUninit<[u64; INLINE_WORDS]>;

/// A closure of any kind, to be called or dropped once.
struct Task {
    call: unsafe fn(*mut Inline),
    closure: Inline,
}

impl Task {
    #[inline(always)]
    fn new<F: FnOnce() + Send + 'static>(closure: F) -> Result<Self, OutOfMemory> {
        unsafe fn call_inline<F: FnOnce()>(at: *mut Inline) {
            // SAFETY: written below, taken once.
            let closure = unsafe { at.cast::<F>().read() };
            closure();
        }
        unsafe fn call_boxed<F: FnOnce()>(at: *mut Inline) {
            // SAFETY: as above.
            let closure = unsafe { at.cast::<Box<F>>().read() };
            closure();
        }
        let mut task = Self { call: call_inline::<F>, closure: Inline::uninit() };
        if size_of::<F>() <= size_of::<Inline>() && align_of::<F>() <= align_of::<Inline>() {
            // SAFETY: it fits.
            unsafe { task.closure.as_mut_ptr().cast::<F>().write(closure) };
        } else {
            task.call = call_boxed::<F>;
            let boxed = memory::try_box(closure)?;
            // SAFETY: a box is a word.
            unsafe { task.closure.as_mut_ptr().cast::<Box<F>>().write(boxed) };
        }
        Ok(task)
    }

    #[inline(always)]
    fn run(mut self) {
        // SAFETY: made with the closure; `self` goes, so it is called once.
        unsafe { (self.call)(&raw mut self.closure) };
    }
}

/// The queues of one CPU.
struct Queues {
    pinned: [VecDeque<Task>; PRIORITIES],
    shared: [VecDeque<Task>; PRIORITIES],
}

impl Queues {
    #[inline(always)]
    fn take(&mut self) -> Option<Task> {
        (0..PRIORITIES)
            .find_map(|priority| self.pinned[priority].pop_front().or_else(|| self.shared[priority].pop_front()))
    }

    fn steal(&mut self) -> Option<Task> {
        self.shared.iter_mut().find_map(VecDeque::pop_front)
    }
}

struct CpuQueues {
    queues: SpinLock<Queues>,
    /// Tasks in it, as a hint for thieves.
    count: AtomicUsize,
    /// Set by its worker before it sleeps, cleared by whoever wakes it.
    asleep: AtomicBool,
    wake: Event,
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
        cpus.resize_with(cpu::limit(), || {
            let empty = || [const { VecDeque::new() }; PRIORITIES];
            CacheLine(CpuQueues {
                queues: SpinLock::new(Queues { pinned: empty(), shared: empty() }),
                count: AtomicUsize::new(0),
                asleep: AtomicBool::new(false),
                wake: Event::new(),
            })
        });
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
        let Some(cpu) = self.shared.cpus.get(index).filter(|_| cpu::get(index).is_some()) else {
            return Err(QueueError::NoSuchCpu(NoSuchCpu(index)));
        };
        let mut queues = cpu.queues.lock();
        let queues_of_kind = if pinned { &mut queues.pinned } else { &mut queues.shared };
        let queue = &mut queues_of_kind[priority as usize];
        if queue.len() == queue.capacity() {
            queue.try_reserve(1).map_err(|_| QueueError::OutOfMemory)?;
        }
        queue.push_back(task);
        drop(queues);
        cpu.count.fetch_add(1, Ordering::SeqCst);
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
        let cpu = self.cpus.get(index)?;
        if cpu.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let task = cpu.queues.lock().take()?;
        cpu.count.fetch_sub(1, Ordering::SeqCst);
        Some(task)
    }

    fn steal(&self, thief: usize) -> Option<Task> {
        let count = self.cpus.len();
        (1..count).map(|distance| &self.cpus[(thief + distance) % count]).find_map(|cpu| {
            if cpu.count.load(Ordering::SeqCst) == 0 {
                return None;
            }
            let task = cpu.queues.lock().steal()?;
            cpu.count.fetch_sub(1, Ordering::SeqCst);
            Some(task)
        })
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let own = &self.cpus[index];
        loop {
            while let Some(task) = self.take(index).or_else(|| self.steal(index)) {
                task.run();
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            // Announced first and looked again after: a task queued in between finds a sleeper or is found.
            own.asleep.store(true, Ordering::SeqCst);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let work_came = self.cpus.iter().any(|cpu| cpu.count.load(Ordering::SeqCst) != 0);
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
