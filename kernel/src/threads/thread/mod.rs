//! Threads: spawn, join, detach, exit, yield, sleep, migrate, thread-local values.
//!
//! A thread is bound to a CPU and stays there until [`migrate`] or [`JoinHandle::migrate`].

pub mod local;
pub(crate) mod owner;
pub(crate) mod registry;
mod spawn;
pub(crate) mod stock;

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arrayvec::ArrayString;
use intrusive_collections::LinkedListLink;

use crate::arch::*;
use crate::cpu;
use crate::fiber::Ring;
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::OutOfMemory;
use crate::memory::stack::Stack;
use crate::scheduler;
use crate::scheduler::mailbox::Linked;
use crate::time::Deadline;
use crate::time::timer::TimerNode;
use crate::wait::WaitList;
use crate::wait::claim::Claim;
use crate::wait::{list, mutex};
use owner::Owner;
pub use owner::{is_ending, leave_if_ending};
pub use spawn::{Builder, JoinError, JoinHandle, SpawnError, empty_stock, spawn};
pub(crate) use spawn::{create_idle, next_id, release_reference};

/// Longest thread name in bytes; longer names are cut.
pub const NAME_LIMIT: usize = 31;

/// The state of a thread. Only the thread's own CPU changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// In a run queue.
    Ready = 0,
    /// Running on its CPU.
    Running = 1,
    /// Waiting for an event or a deadline.
    Blocked = 2,
    /// Ended; kept until its last reference is released.
    Exited = 3,
}

/// A thread. The fields that the scheduler uses come first.
#[repr(C, align(64))]
pub struct Thread {
    pub(crate) context: UnsafeCell<Context>,
    next: AtomicPtr<Thread>,
    /// The CPU the thread is bound to.
    pub(crate) cpu: AtomicU32,
    /// The CPU the thread is to be bound to from its next turn on.
    pub(crate) target_cpu: AtomicU32,
    state: AtomicU8,
    /// True once the thread has left its result.
    finished: AtomicBool,
    /// Set by the first of the thread and its handle that is done with the result; the second one
    /// drops it.
    result_touched: AtomicBool,
    claim: Claim,
    /// Number of references: the running thread's own, the handle's, and those added since.
    references: AtomicU32,
    /// Cycles the thread has run, up to its last switch.
    pub(crate) run_cycles: AtomicU64,
    pub(crate) wait_link: LinkedListLink,
    registry_link: LinkedListLink,
    timeout: TimerNode,
    stack: UnsafeCell<Stack>,
    id: AtomicU64,
    name: UnsafeCell<ArrayString<NAME_LIMIT>>,
    locals: local::Slots,
    exit: SpinLock<Exit>,
    /// The program the thread belongs to, null for a thread of the kernel.
    owner: AtomicPtr<Owner>,
    /// Where the thread's block of program thread-local variables ends, 0 if it has none.
    thread_pointer: AtomicUsize,
    fibers: Ring,
    /// Address of the state of the mutex the thread waits for, 0 for none.
    wanted_mutex: AtomicUsize,
}

/// Marks a thread as waiting for a mutex while it exists.
pub(crate) struct WaitsForMutex<'a>(&'a Thread);

impl Drop for WaitsForMutex<'_> {
    fn drop(&mut self) {
        self.0.wanted_mutex.store(0, Ordering::Relaxed);
    }
}

struct Exit {
    exited: bool,
    joiners: WaitList,
}

// SAFETY: every link and cell is guarded: `wait_link` by the wait list's lock, `registry_link` by
// the registry's lock, `context` by the scheduler's hand-over; `stack` and `name` are written
// before the thread is registered.
unsafe impl Sync for Thread {}

impl Linked for Thread {
    #[inline(always)]
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

impl Thread {
    /// Returns the thread's number, never used twice.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// Returns the thread's name.
    pub fn name(&self) -> &str {
        self.name_text()
    }

    fn name_text(&self) -> &ArrayString<NAME_LIMIT> {
        // SAFETY: the name is written before the thread is registered or runs, and read-only until
        // the thread is reused.
        unsafe { &*self.name.get() }
    }

    /// Returns the program the thread belongs to, null for a thread of the kernel. The program
    /// outlives the thread's code, but not its handle.
    #[inline(always)]
    pub(crate) fn owner(&self) -> *const Owner {
        self.owner.load(Ordering::Relaxed)
    }

    /// Returns where the thread's thread-local variables end, 0 if it has none.
    #[inline(always)]
    pub fn thread_pointer(&self) -> usize {
        self.thread_pointer.load(Ordering::Relaxed)
    }

    /// Returns [`Thread::thread_pointer`] and sets it to 0: the thread has no thread-local
    /// variables from now on.
    pub(crate) fn take_thread_pointer(&self) -> usize {
        self.thread_pointer.swap(0, Ordering::Relaxed)
    }

    /// Returns the thread's fibers. Only the thread itself calls this.
    #[inline(always)]
    pub(crate) fn fibers(&self) -> &Ring {
        &self.fibers
    }

    /// Ends the thread's wait, if it waits, as if its deadline had passed. Callable in any context;
    /// the caller makes sure that the thread cannot end in the meantime.
    pub(crate) fn force_time_out(&self) {
        if self.claim.try_time_out() {
            let _guard = InterruptGuard::new();
            scheduler::make_runnable(self);
        }
    }

    /// Returns the thread's state at some moment during the call.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Ready,
            1 => State::Running,
            2 => State::Blocked,
            _ => State::Exited,
        }
    }

    #[inline(always)]
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Returns the thread's stack.
    pub fn stack(&self) -> Stack {
        // SAFETY: the stack is written before the thread is registered or runs, and never changes
        // afterwards.
        unsafe { *self.stack.get() }
    }

    #[inline(always)]
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Returns true if the thread is still in its wait list. The caller holds that list's lock.
    pub(crate) fn is_in_wait_list(&self) -> bool {
        self.wait_link.is_linked()
    }

    /// Sets the timeout that ends the thread's wait at `deadline`. The thread itself calls this,
    /// with interrupts off.
    pub(crate) fn start_timeout(&self, deadline: Deadline) {
        self.timeout.set(cpu::this(), deadline);
    }

    /// Cancels the timeout. Only the thread itself calls this.
    pub(crate) fn end_timeout(&self) {
        self.timeout.cancel();
    }

    /// Returns true if the thread waits without a deadline.
    pub(crate) fn waits_for_ever(&self) -> bool {
        self.state() == State::Blocked && !self.timeout.is_set()
    }

    /// Notes that the thread waits for the mutex with this state. Only the thread itself calls
    /// this.
    pub(crate) fn waits_for(&self, state: &AtomicUsize) -> WaitsForMutex<'_> {
        self.wanted_mutex.store(ptr::from_ref(state) as usize, Ordering::Relaxed);
        WaitsForMutex(self)
    }

    /// Returns the address of the thread that owns the mutex this thread waits for. The answer may
    /// be outdated, because the thread may continue during the call.
    pub(crate) fn waits_for_thread(&self) -> Option<usize> {
        let mut state = [0; size_of::<usize>()];
        // The mutex may be gone by now; the read then yields whatever is at its address, or fails.
        match self.wanted_mutex.load(Ordering::Relaxed) {
            0 => None,
            at => AddressSpace::probe_read(at, &mut state).is_ok().then(|| mutex::owner(usize::from_ne_bytes(state))),
        }
    }

    /// Returns true if the thread has to migrate at its next turn.
    #[inline(always)]
    pub(crate) fn shall_move(&self) -> bool {
        self.target_cpu.load(Ordering::Relaxed) != self.cpu.load(Ordering::Relaxed)
    }
}

/// Times out a waiting thread, in the timer interrupt.
fn time_out(thread: usize) {
    // SAFETY: a thread cancels its timeout before its wait returns, so it is alive here.
    let thread = unsafe { &*(thread as *const Thread) };
    if thread.claim.try_time_out() {
        scheduler::make_runnable(thread);
    }
}

/// Returns the calling thread.
#[inline(always)]
pub(crate) fn running() -> &'static Thread {
    // SAFETY: the pointer is set before any thread runs. The thread outlives its own code, and the
    // kernel keeps no such reference beyond that.
    unsafe { &*(Core::current() as *const Thread) }
}

/// Returns the calling thread, `None` before this CPU runs threads.
pub(crate) fn try_running() -> Option<&'static Thread> {
    // SAFETY: the pointer is null before this CPU runs threads, and afterwards leads to the calling
    // thread, which outlives its code.
    unsafe { (Core::current() as *const Thread).as_ref() }
}

/// The calling thread as seen by itself. Gives out copies only: a borrow must not outlive the
/// thread, and a thread can leave anything behind for other threads.
///
/// ```compile_fail,E0716
/// let name: &'static str = kernel::thread::current().name().as_str();
/// ```
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<kernel::thread::Current>();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Current {
    _not_send: PhantomData<*const ()>,
}

impl Current {
    /// Returns the thread's number, never used twice.
    #[inline(always)]
    pub fn id(self) -> u64 {
        running().id()
    }

    /// Returns the thread's name.
    pub fn name(self) -> ArrayString<NAME_LIMIT> {
        *running().name_text()
    }

    /// Returns the thread's stack.
    pub fn stack(self) -> Stack {
        running().stack()
    }

    /// Sets where the thread-local variables are of the code that the thread runs; 0 for none.
    pub fn set_thread_pointer(self, address: usize) {
        running().thread_pointer.store(address, Ordering::Relaxed);
        if address != 0 {
            Core::set_thread_pointer(address);
        }
    }
}

/// Returns the calling thread.
#[inline(always)]
pub fn current() -> Current {
    Current { _not_send: PhantomData }
}

/// Lets the other ready threads of this CPU run first.
#[inline]
pub fn yield_now() {
    scheduler::yield_now();
}

/// Sleeps for `duration`. Blocks.
pub fn sleep(duration: Duration) {
    sleep_until(Deadline::after(duration));
}

/// Sleeps until `deadline`. Blocks.
pub fn sleep_until(deadline: Deadline) {
    if deadline.has_passed() {
        return yield_now();
    }
    let lock = SpinLock::new(WaitList::new());
    let _ = list::wait_in(&lock, lock.lock(), |waiters| waiters, deadline, || ());
}

/// Ends the calling thread without a result; its joiner gets [`JoinError::Exited`]. Values on the
/// thread's stack are not dropped.
///
/// # Safety
/// Nothing refers to the thread's stack, which is reused from now on: it holds no pinned value, and
/// nothing that is lent to another thread.
///
/// # Panics
/// In an interrupt handler, where there is no thread to end.
pub unsafe fn exit() -> ! {
    assert!(!cpu::in_interrupt(), "a thread's exit in an interrupt handler, where there is none");
    local::drop_all(running());
    scheduler::exit()
}

/// The CPU with this index does not exist or does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchCpu(pub usize);

impl fmt::Display for NoSuchCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no CPU {} running (0 to {} are possible)", self.0, cpu::limit().saturating_sub(1))
    }
}

/// Migrates the calling thread to another CPU, where it continues.
///
/// # Errors
/// [`NoSuchCpu`] if the CPU does not run.
pub fn migrate(to: usize) -> Result<(), NoSuchCpu> {
    cpu::get(to).ok_or(NoSuchCpu(to))?;
    running().target_cpu.store(to as u32, Ordering::Relaxed);
    scheduler::move_if_told();
    Ok(())
}

impl From<OutOfMemory> for SpawnError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
