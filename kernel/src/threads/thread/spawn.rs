//! Spawning threads, joining them and taking their results.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit, needs_drop};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arrayvec::ArrayString;
use intrusive_collections::LinkedListLink;

use super::owner::{self, Owner};
use super::{Exit, NAME_LIMIT, NoSuchCpu, State, Thread, local, stock::Stock, time_out};
use crate::arch::*;
use crate::cpu::{self, Cpu, Here};
use crate::fiber::Ring;
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::stack::{DEFAULT_SIZE, Stack};
use crate::memory::{self, OutOfMemory, Placement};
use crate::scheduler;
use crate::time::Deadline;
use crate::time::timer::TimerNode;
use crate::trace;
use crate::wait::claim::Claim;
use crate::wait::{Outcome, TimedOut, WaitList, list};

/// Why a thread was not spawned. The attempt has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// No memory for the thread or its stack.
    OutOfMemory,
    /// The CPU to run on is not running.
    NoSuchCpu(NoSuchCpu),
    /// The closure and its result do not fit half of the thread's stack.
    ClosureTooLarge {
        /// Size of the closure and its result in bytes.
        size: usize,
    },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => write!(f, "out of memory for a thread and its stack"),
            Self::NoSuchCpu(error) => error.fmt(f),
            Self::ClosureTooLarge { size } => write!(f, "the thread's closure of {size} bytes needs a larger stack"),
        }
    }
}

/// Why a thread has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// The thread ended before its body returned, as by [`super::exit`].
    Exited,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread exited without a result")
    }
}

/// The properties of a thread to be spawned.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    name: &'a str,
    cpu: Option<usize>,
    has_partner: bool,
    stack_size: usize,
    owner: *const Owner,
}

/// Spawns a thread on the caller's CPU with the default stack.
///
/// # Errors
/// See [`SpawnError`].
pub fn spawn<F, T>(name: &str, body: F) -> Result<JoinHandle<T>, SpawnError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new(name).spawn(body)
}

impl<'a> Builder<'a> {
    /// Starts with a thread called `name` (cut to 31 bytes) on the caller's CPU with the default
    /// stack.
    pub fn new(name: &'a str) -> Self {
        Self { name, cpu: None, has_partner: false, stack_size: DEFAULT_SIZE, owner: ptr::null() }
    }

    /// Binds the thread to this CPU.
    pub fn cpu(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// Binds the thread to this CPU, which a partner thread runs ([`crate::hybrid`]).
    pub fn cpu_with_partner(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), has_partner: true, ..self }
    }

    /// Makes this owner the thread's, instead of the caller's owner.
    ///
    /// # Safety
    /// The owner does not end before the thread is spawned.
    pub(crate) unsafe fn owner(self, owner: *const Owner) -> Self {
        Self { owner, ..self }
    }

    /// Gives the thread a stack of at least this many bytes.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self { stack_size: bytes, ..self }
    }

    /// Spawns the thread.
    ///
    /// # Errors
    /// See [`SpawnError`].
    #[inline]
    pub fn spawn<F, T>(self, body: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let size = size_of::<Start<F, T>>();
        if size > self.stack_size.max(DEFAULT_SIZE) / 2 {
            return Err(SpawnError::ClosureTooLarge { size });
        }
        let interrupts = InterruptGuard::new();
        let here = cpu::this();
        let target = match self.cpu {
            None => here,
            Some(index) if self.has_partner => cpu::known(index).ok_or(SpawnError::NoSuchCpu(NoSuchCpu(index)))?,
            Some(index) => cpu::get(index).ok_or(SpawnError::NoSuchCpu(NoSuchCpu(index)))?,
        };
        let thread = match self.take_dead(&interrupts.here()) {
            Some(thread) => thread,
            None => self.allocate(&interrupts)?,
        };
        let owner = if self.owner.is_null() { super::running().owner() } else { self.owner };
        thread.owner.store(owner.cast_mut(), Ordering::Relaxed);
        if !owner.is_null() {
            // SAFETY: the owner is the caller's, which outlives the caller, or one that does not
            // end before the spawn, which the caller of `owner` guarantees.
            unsafe { thread.join_owner(owner) }?;
        }
        let top = thread.stack().top();
        let start = ((top - size) & !(align_of::<Start<F, T>>().max(16) - 1)) as *mut Start<F, T>;
        // SAFETY: the thread is new or dead, so nothing else refers to it or its stack; the check
        // above makes sure that `start` fits the stack.
        unsafe {
            start.write(Start { body: ManuallyDrop::new(body), result: MaybeUninit::uninit() });
            thread.reset(self.name, target);
            let context = &mut *thread.context.get();
            Contexts::prepare(context, start as usize, run::<F, T>, start as usize);
        }
        target.registry.lock().add(thread);
        trace::spawned(thread.id(), target.index, self.name);
        scheduler::make_runnable(thread);
        drop(interrupts);
        // SAFETY: the stack that holds the result stays allocated until the handle releases its
        // reference.
        let result = unsafe { &raw mut (*start).result };
        Ok(JoinHandle { thread, result, _result: PhantomData })
    }

    /// Takes a dead thread from this CPU's stock if its stack is large enough.
    #[inline(always)]
    fn take_dead(&self, here: &Here<'_>) -> Option<&'static Thread> {
        if self.stack_size > DEFAULT_SIZE {
            return None;
        }
        here.stock().take()
    }

    /// Allocates a thread with a new stack. When memory runs out, reclaims what dead threads and
    /// freed stacks hold and tries again. Reclaiming needs interrupts on, which the caller's guard
    /// has turned off, so it happens only if they were on before.
    #[cold]
    fn allocate(&self, interrupts: &InterruptGuard) -> Result<&'static Thread, SpawnError> {
        let size = self.stack_size.max(DEFAULT_SIZE);
        let first = Thread::allocate(size);
        if first.is_ok() || !interrupts.were_enabled() {
            return Ok(first?);
        }
        Core::enable_interrupts();
        memory::reclaim();
        Core::disable_interrupts();
        Ok(Thread::allocate(size)?)
    }
}

/// Frees the dead threads kept on this CPU; their stacks join the freed stacks.
pub fn empty_stock() {
    loop {
        let guard = InterruptGuard::new();
        match guard.here().stock().take() {
            Some(thread) => thread.deallocate(),
            None => return,
        }
    }
}

/// The body and the result of a thread, at the top of its stack.
struct Start<F, T> {
    body: ManuallyDrop<F>,
    result: MaybeUninit<T>,
}

/// Returns a number for a thread or a program that is never used twice.
#[inline(always)]
pub(crate) fn next_id() -> u64 {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Runs a thread from its first instruction to its exit.
extern "C" fn run<F, T>(start: usize) -> !
where
    F: FnOnce() -> T,
{
    Core::enable_interrupts();
    let start = start as *mut Start<F, T>;
    // SAFETY: `spawn` wrote the body, and each thread takes its body once, here.
    let body = unsafe { ManuallyDrop::take(&mut (*start).body) };
    let result = body();
    let thread = super::running();
    local::drop_all(thread);
    // SAFETY: the place belongs to this thread until `finished` is set; the handle reads it only
    // after that.
    unsafe { (*start).result.write(result) };
    thread.finished.store(true, Ordering::Release);
    if needs_drop::<T>() && thread.result_touched.swap(true, Ordering::AcqRel) {
        // SAFETY: the handle has set the flag, so it is gone without taking the result, and only
        // this thread can drop it.
        unsafe { (*start).result.assume_init_drop() };
    }
    scheduler::exit()
}

impl Thread {
    fn allocate(stack_size: usize) -> Result<&'static Self, OutOfMemory> {
        let stack = Stack::new(stack_size)?;
        let Ok(memory) = memory::allocate(Layout::new::<Self>(), Placement::Near) else {
            // SAFETY: the stack was just made and nothing has used it.
            unsafe { stack.release() };
            return Err(OutOfMemory);
        };
        let thread = memory.cast::<Self>();
        let exit = Exit { exited: false, joiners: WaitList::new() };
        // SAFETY: the memory was just allocated with the layout of a thread, and nothing else
        // refers to it.
        unsafe {
            thread.write(Self {
                context: UnsafeCell::default(),
                next: AtomicPtr::new(core::ptr::null_mut()),
                cpu: AtomicU32::new(0),
                target_cpu: AtomicU32::new(0),
                state: AtomicU8::new(State::Ready as u8),
                finished: AtomicBool::new(false),
                result_touched: AtomicBool::new(false),
                claim: Claim::new(),
                references: AtomicU32::new(0),
                run_cycles: AtomicU64::new(0),
                wait_link: LinkedListLink::new(),
                registry_link: LinkedListLink::new(),
                timeout: TimerNode::new(time_out, thread.as_ptr() as usize),
                stack: UnsafeCell::new(stack),
                id: AtomicU64::new(0),
                name: UnsafeCell::new(ArrayString::new_const()),
                locals: local::Slots::new(),
                exit: SpinLock::new(exit),
                thread_pointer: AtomicUsize::new(0),
                owner: AtomicPtr::new(ptr::null_mut()),
                fibers: Ring::new(),
                wanted_mutex: AtomicUsize::new(0),
            });
            Ok(thread.as_ref())
        }
    }

    /// Frees a thread and its stack. The caller guarantees that nothing refers to the thread.
    fn deallocate(&'static self) {
        // SAFETY: the stack is the thread's own, and the caller guarantees that nothing refers to
        // the thread.
        unsafe { self.stack().release() };
        let memory = core::ptr::NonNull::from(self).cast();
        // SAFETY: `allocate` allocated the memory with this layout, and nothing refers to the
        // thread any more.
        unsafe { memory::free(memory, Layout::new::<Self>()) };
    }

    /// Resets a new or dead thread to its initial state.
    ///
    /// # Safety
    /// Nothing else refers to the thread.
    #[inline(always)]
    unsafe fn reset(&self, name: &str, cpu: &Cpu) {
        self.cpu.store(cpu.index as u32, Ordering::Relaxed);
        self.target_cpu.store(cpu.index as u32, Ordering::Relaxed);
        self.set_state(State::Ready);
        self.finished.store(false, Ordering::Relaxed);
        self.result_touched.store(false, Ordering::Relaxed);
        self.references.store(2, Ordering::Relaxed);
        self.run_cycles.store(0, Ordering::Relaxed);
        self.id.store(next_id(), Ordering::Relaxed);
        let mut cut = name.len().min(NAME_LIMIT);
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        // SAFETY: the caller guarantees that nothing else refers to the thread, so its name can be
        // changed.
        let own_name = unsafe { &mut *self.name.get() };
        own_name.clear();
        own_name.push_str(&name[..cut]);
        self.fibers.reset();
        local::reset(&self.locals);
        self.exit.lock().exited = false;
    }

    /// Counts the thread among the owner's threads and gives it that owner's thread-local
    /// variables.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the thread is deallocated then.
    ///
    /// # Safety
    /// The owner does not end during the call.
    #[cold]
    #[inline(never)]
    unsafe fn join_owner(&'static self, owner: *const Owner) -> Result<(), OutOfMemory> {
        // SAFETY: the caller guarantees that the owner does not end during the call.
        let pointer = unsafe { owner::join(owner) }.inspect_err(|_| self.deallocate())?;
        self.thread_pointer.store(pointer, Ordering::Relaxed);
        Ok(())
    }

    /// Adds a reference that keeps the thread until one more [`release_reference`].
    pub(crate) fn add_reference(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Finishes a thread that has ended: wakes its joiners, leaves its owner and releases its own
    /// reference. Runs on the scheduler's stack with interrupts off.
    pub(crate) fn finish(&'static self) {
        self.set_state(State::Exited);
        cpu::this().registry.lock().remove(self);
        self.fibers.release_spare();
        let mut exit = self.exit.lock();
        exit.exited = true;
        exit.joiners.take_all().wake(exit);
        let owner = self.owner.swap(ptr::null_mut(), Ordering::Relaxed);
        if !owner.is_null() {
            // SAFETY: the thread counts among the owner's threads until this call, so the owner has
            // not ended.
            unsafe { owner::leave(owner, self) };
        }
    }
}

/// Releases a reference. The last one makes the thread available for the next spawn. Callable in
/// any context.
#[inline(always)]
pub(crate) fn release_reference(thread: &'static Thread) {
    if thread.references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let guard = InterruptGuard::new();
    let kept = thread.stack().size() == DEFAULT_SIZE && guard.here().stock().put(thread);
    if !kept {
        thread.deallocate();
    }
}

/// Creates a CPU's idle thread, whose code is [`scheduler::idle`].
pub(crate) fn create_idle(cpu: &Cpu) -> Result<&'static Thread, OutOfMemory> {
    let thread = Thread::allocate(DEFAULT_SIZE)?;
    // SAFETY: the thread was just allocated, so nothing else refers to it.
    unsafe { thread.reset("idle", cpu) };
    thread.set_state(State::Running);
    Ok(thread)
}

/// A handle of a thread. Dropping it detaches the thread.
pub struct JoinHandle<T> {
    thread: &'static Thread,
    result: *mut MaybeUninit<T>,
    _result: PhantomData<T>,
}

// SAFETY: the handle reads the result only after the thread has written it, and `T` can be sent.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: a shared handle gives access to the thread, which is `Sync`, and not to the result.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// Returns the thread.
    pub fn thread(&self) -> &Thread {
        self.thread
    }

    /// Waits for the end of the thread and takes its result. Blocks.
    ///
    /// # Errors
    /// [`JoinError::Exited`] if the thread ended without a result, or has none yet when the end of
    /// the caller's program cuts the wait short.
    #[inline]
    pub fn join(self) -> Result<T, JoinError> {
        let _ = self.wait_until(Deadline::NEVER);
        self.take_result()
    }

    /// Like [`JoinHandle::join`], but waits until `deadline` at most. Blocks.
    ///
    /// # Errors
    /// The handle, if the thread has not ended by then.
    pub fn join_until(self, deadline: Deadline) -> Result<Result<T, JoinError>, Self> {
        match self.wait_until(deadline) {
            Ok(()) => Ok(self.take_result()),
            Err(TimedOut) => Err(self),
        }
    }

    /// Returns true if the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.exit.lock().exited
    }

    /// Binds the thread to another CPU from its next turn on. A running thread is made to yield; a
    /// waiting one migrates when it is woken.
    ///
    /// # Errors
    /// [`NoSuchCpu`] if the CPU does not run.
    pub fn migrate(&self, to: usize) -> Result<(), NoSuchCpu> {
        cpu::get(to).ok_or(NoSuchCpu(to))?;
        self.thread.target_cpu.store(to as u32, Ordering::SeqCst);
        scheduler::nudge(self.thread.cpu.load(Ordering::SeqCst) as usize);
        Ok(())
    }

    /// Drops the handle and lets the thread continue.
    pub fn detach(self) {}

    fn wait_until(&self, deadline: Deadline) -> Result<(), TimedOut> {
        let guard = self.thread.exit.lock();
        if guard.exited {
            return Ok(());
        }
        match list::wait_in(&self.thread.exit, guard, |exit| &mut exit.joiners, deadline, || ()) {
            Outcome::Woken => Ok(()),
            Outcome::TimedOut => Err(TimedOut),
        }
    }

    fn take_result(self) -> Result<T, JoinError> {
        let handle = ManuallyDrop::new(self);
        let finished = handle.thread.finished.load(Ordering::Acquire);
        // SAFETY: the thread wrote the result before it set `finished`; this handle, the only
        // reader, is consumed here.
        let result = finished.then(|| unsafe { (*handle.result).assume_init_read() });
        release_reference(handle.thread);
        result.ok_or(JoinError::Exited)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if needs_drop::<T>() && self.thread.result_touched.swap(true, Ordering::AcqRel) {
            // SAFETY: the thread has left a result and set the flag, so it does not touch the
            // result again, and this handle did not take it.
            unsafe { (*self.result).assume_init_drop() };
        }
        release_reference(self.thread);
    }
}

const _: () = assert!(size_of::<Thread>() + size_of::<Stock>() <= 1024, "a thread costs its stack and at most 1 KiB");
