//! From a closure to a running thread, and back to its result.

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
use crate::arch::{Architecture, Machine};
use crate::cpu::{self, Cpu};
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

/// Why a thread was not spawned. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// No memory for it or its stack.
    OutOfMemory,
    /// The CPU it should run on does not run.
    NoSuchCpu(NoSuchCpu),
    /// The closure and its result do not fit half of its stack.
    ClosureTooLarge {
        /// Their size in bytes.
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

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// The thread called [`super::exit`].
    Exited,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread exited without a result")
    }
}

/// How a thread shall be.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    name: &'a str,
    cpu: Option<usize>,
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
    /// A thread called `name` (cut to 31 bytes) on the caller's CPU with the default stack.
    pub fn new(name: &'a str) -> Self {
        Self { name, cpu: None, stack_size: DEFAULT_SIZE, owner: ptr::null() }
    }

    /// Bound to this CPU.
    pub fn cpu(self, cpu: usize) -> Self {
        Self { cpu: Some(cpu), ..self }
    }

    /// As a thread of this owner, and not of the caller's.
    ///
    /// # Safety
    /// The owner does not end before the thread is spawned.
    pub(crate) unsafe fn owner(self, owner: *const Owner) -> Self {
        Self { owner, ..self }
    }

    /// With a stack of at least so many bytes.
    pub fn stack_size(self, bytes: usize) -> Self {
        Self { stack_size: bytes, ..self }
    }

    /// Spawns it.
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
            Some(index) => cpu::get(index).ok_or(SpawnError::NoSuchCpu(NoSuchCpu(index)))?,
        };
        let thread = match self.take_dead(here) {
            Some(thread) => thread,
            None => self.allocate(&interrupts)?,
        };
        let owner = if self.owner.is_null() { super::running().owner() } else { self.owner };
        thread.owner.store(owner.cast_mut(), Ordering::Relaxed);
        if !owner.is_null() {
            // SAFETY: the caller's owner, which does not end before the caller, or one that does not as `owner` was told.
            unsafe { thread.join_owner(owner) }?;
        }
        let top = thread.stack().top();
        let start = ((top - size) & !(align_of::<Start<F, T>>().max(16) - 1)) as *mut Start<F, T>;
        // SAFETY: the top of a stack nobody uses yet, large enough by the check above, and nobody else has the thread.
        unsafe {
            start.write(Start { body: ManuallyDrop::new(body), result: MaybeUninit::uninit() });
            thread.reset(self.name, target);
            let context = &mut *thread.context.get();
            Machine::prepare(context, start as usize, run::<F, T>, start as usize);
        }
        target.registry.lock().add(thread);
        trace::spawned(thread.id(), target.index, self.name);
        scheduler::make_runnable(thread);
        drop(interrupts);
        // SAFETY: the result's place stays until the handle's reference goes.
        let result = unsafe { &raw mut (*start).result };
        Ok(JoinHandle { thread, result, _result: PhantomData })
    }

    #[inline(always)]
    fn take_dead(&self, here: &Cpu) -> Option<&'static Thread> {
        if self.stack_size > DEFAULT_SIZE {
            return None;
        }
        // SAFETY: this CPU's stock, interrupts off.
        unsafe { here.stock.get() }.take()
    }

    /// A new thread with a new stack. Where memory is short, takes back what dead threads and freed stacks hold, with interrupts
    /// on, which the caller's guard turned off.
    #[cold]
    fn allocate(&self, interrupts: &InterruptGuard) -> Result<&'static Thread, SpawnError> {
        let size = self.stack_size.max(DEFAULT_SIZE);
        let first = Thread::allocate(size);
        if first.is_ok() || !interrupts.were_enabled() {
            return Ok(first?);
        }
        Machine::enable_interrupts();
        memory::reclaim();
        Machine::disable_interrupts();
        Ok(Thread::allocate(size)?)
    }
}

/// Gives the dead threads kept on this CPU back, their stacks to the freed ones.
pub fn empty_stock() {
    loop {
        let _guard = InterruptGuard::new();
        // SAFETY: this CPU's stock, interrupts off.
        match unsafe { cpu::this().stock.get() }.take() {
            Some(thread) => thread.deallocate(),
            None => return,
        }
    }
}

/// What a thread starts from and ends with, at the top of its stack.
struct Start<F, T> {
    body: ManuallyDrop<F>,
    result: MaybeUninit<T>,
}

/// A number for a thread or a program, never used twice.
#[inline(always)]
pub(crate) fn next_id() -> u64 {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A thread's first and last code.
extern "C" fn run<F, T>(start: usize) -> !
where
    F: FnOnce() -> T,
{
    Machine::enable_interrupts();
    let start = start as *mut Start<F, T>;
    // SAFETY: written by `spawn`; the body is taken once, here.
    let body = unsafe { ManuallyDrop::take(&mut (*start).body) };
    let result = body();
    let thread = super::running();
    local::drop_all(thread);
    // SAFETY: the joiner reads it only after the exit.
    unsafe { (*start).result.write(result) };
    thread.finished.store(true, Ordering::Release);
    if needs_drop::<T>() && thread.result_touched.swap(true, Ordering::AcqRel) {
        // SAFETY: the handle went before, so nobody else will look at the result.
        unsafe { (*start).result.assume_init_drop() };
    }
    scheduler::exit()
}

impl Thread {
    fn allocate(stack_size: usize) -> Result<&'static Self, OutOfMemory> {
        let stack = Stack::new(stack_size)?;
        let Ok(memory) = memory::allocate(Layout::new::<Self>(), Placement::Near) else {
            // SAFETY: just made.
            unsafe { stack.release() };
            return Err(OutOfMemory);
        };
        let thread = memory.cast::<Self>();
        let exit = Exit { exited: false, joiners: WaitList::new() };
        // SAFETY: allocated for it.
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

    /// Frees a thread nobody refers to.
    fn deallocate(&'static self) {
        // SAFETY: nobody refers to the thread, whose stack it is.
        unsafe { self.stack().release() };
        let memory = core::ptr::NonNull::from(self).cast();
        // SAFETY: allocated in `allocate`; the caller says nobody refers to it.
        unsafe { memory::free(memory, Layout::new::<Self>()) };
    }

    /// Makes a new or dead thread fresh.
    ///
    /// # Safety
    /// Nobody else refers to it.
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
        // SAFETY: nobody else refers to the thread.
        let own_name = unsafe { &mut *self.name.get() };
        own_name.clear();
        own_name.push_str(&name[..cut]);
        self.fibers.reset();
        local::reset(&self.locals);
        self.exit.lock().exited = false;
    }

    /// Counts it among an owner's threads, and gives it that owner's thread-local variables.
    ///
    /// # Errors
    /// [`OutOfMemory`]; it is deallocated then.
    ///
    /// # Safety
    /// The owner does not end during the call.
    #[cold]
    #[inline(never)]
    unsafe fn join_owner(&'static self, owner: *const Owner) -> Result<(), OutOfMemory> {
        // SAFETY: the caller's word.
        let pointer = unsafe { owner::join(owner) }.inspect_err(|_| self.deallocate())?;
        self.thread_pointer.store(pointer, Ordering::Relaxed);
        Ok(())
    }

    /// The thread stays until one more [`release_reference`].
    pub(crate) fn add_reference(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread is over: on the scheduler's stack, interrupts off.
    pub(crate) fn finish(&'static self) {
        self.set_state(State::Exited);
        cpu::this().registry.lock().remove(self);
        self.fibers.release_spare();
        let mut exit = self.exit.lock();
        exit.exited = true;
        exit.joiners.take_all().wake(exit);
        let owner = self.owner.swap(ptr::null_mut(), Ordering::Relaxed);
        if !owner.is_null() {
            // SAFETY: the thread has counted among the owner's until this, so the owner has not ended.
            unsafe { owner::leave(owner, self) };
        }
        release_reference(self);
    }
}

/// Gives a reference up; the last one makes the thread available for the next spawn. Any context.
#[inline(always)]
pub(crate) fn release_reference(thread: &'static Thread) {
    if thread.references.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let _guard = InterruptGuard::new();
    // SAFETY: this CPU's stock, interrupts off.
    let kept = thread.stack().size() == DEFAULT_SIZE && unsafe { cpu::this().stock.get() }.put(thread);
    if !kept {
        thread.deallocate();
    }
}

/// A CPU's idle thread, which nobody spawned: its code is [`scheduler::idle`].
pub(crate) fn create_idle(cpu: &Cpu) -> Result<&'static Thread, OutOfMemory> {
    let thread = Thread::allocate(DEFAULT_SIZE)?;
    // SAFETY: nobody else refers to the thread yet.
    unsafe { thread.reset("idle", cpu) };
    thread.set_state(State::Running);
    Ok(thread)
}

/// A thread's handle. Dropping it detaches the thread.
pub struct JoinHandle<T> {
    thread: &'static Thread,
    result: *mut MaybeUninit<T>,
    _result: PhantomData<T>,
}

// SAFETY: the result is only read after the thread's exit.
unsafe impl<T: Send> Send for JoinHandle<T> {}
// SAFETY: shared references only read the thread.
unsafe impl<T: Send> Sync for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// The thread.
    pub fn thread(&self) -> &Thread {
        self.thread
    }

    /// Waits for the thread's end and takes its result. Blocks.
    ///
    /// # Errors
    /// [`JoinError::Exited`] if it ended without one.
    #[inline]
    pub fn join(self) -> Result<T, JoinError> {
        let _ = self.wait_until(Deadline::NEVER);
        self.take_result()
    }

    /// As [`JoinHandle::join`], until `deadline`. Blocks.
    ///
    /// # Errors
    /// The handle, if the thread has not ended by then.
    pub fn join_until(self, deadline: Deadline) -> Result<Result<T, JoinError>, Self> {
        match self.wait_until(deadline) {
            Ok(()) => Ok(self.take_result()),
            Err(TimedOut) => Err(self),
        }
    }

    /// True if the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.exit.lock().exited
    }

    /// Binds the thread to another CPU from its next turn on. One that runs is made to give way; one that waits
    /// moves when it is woken.
    ///
    /// # Errors
    /// [`NoSuchCpu`].
    pub fn migrate(&self, to: usize) -> Result<(), NoSuchCpu> {
        cpu::get(to).ok_or(NoSuchCpu(to))?;
        self.thread.target_cpu.store(to as u32, Ordering::SeqCst);
        scheduler::nudge(self.thread.cpu.load(Ordering::SeqCst) as usize);
        Ok(())
    }

    /// Lets the thread go on without a handle.
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
        // SAFETY: the thread wrote it and is over; the handle, and with it the right to read, goes here.
        let result = finished.then(|| unsafe { (*handle.result).assume_init_read() });
        release_reference(handle.thread);
        result.ok_or(JoinError::Exited)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if needs_drop::<T>() && self.thread.result_touched.swap(true, Ordering::AcqRel) {
            // SAFETY: the thread left a result and will not look at it again.
            unsafe { (*self.result).assume_init_drop() };
        }
        release_reference(self.thread);
    }
}

const _: () = assert!(size_of::<Thread>() + size_of::<Stock>() <= 1024, "a thread costs its stack and at most 1 KiB");
