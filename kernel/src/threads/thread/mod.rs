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

use crate::arch::{Architecture, Machine};
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

/// Longest thread name, in bytes; longer ones are cut.
pub const NAME_LIMIT: usize = 31;

/// What a thread is doing. Only its own CPU changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// In a run queue.
    Ready = 0,
    /// On its CPU.
    Running = 1,
    /// Waiting for something, or for a time.
    Blocked = 2,
    /// Over; kept until it is joined.
    Exited = 3,
}

/// A thread. The scheduler's part comes first.
#[repr(C, align(64))]
pub struct Thread {
    pub(crate) context: UnsafeCell<<Machine as Architecture>::Context>,
    next: AtomicPtr<Thread>,
    /// CPU it is bound to.
    pub(crate) cpu: AtomicU32,
    /// CPU it shall be bound to from its next turn on.
    pub(crate) target_cpu: AtomicU32,
    state: AtomicU8,
    /// True while it has handed over its result.
    finished: AtomicBool,
    /// Set by the first of thread and handle to be done with the result.
    result_touched: AtomicBool,
    claim: Claim,
    /// The running thread and its handle.
    references: AtomicU32,
    /// Cycles it ran, up to its last switch.
    pub(crate) run_cycles: AtomicU64,
    pub(crate) wait_link: LinkedListLink,
    registry_link: LinkedListLink,
    timeout: TimerNode,
    stack: UnsafeCell<Stack>,
    id: AtomicU64,
    name: UnsafeCell<ArrayString<NAME_LIMIT>>,
    locals: local::Slots,
    exit: SpinLock<Exit>,
    /// The program it belongs to, null for the kernel's own.
    owner: AtomicPtr<Owner>,
    /// Where the program's thread-local variables of it end, 0 if there are none.
    thread_pointer: AtomicUsize,
    fibers: Ring,
    /// Address of the state of the mutex it waits for, 0 for none.
    wanted_mutex: AtomicUsize,
}

/// A thread waits for a mutex while this exists.
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

// SAFETY: the links and cells are guarded: `wait_link` by the wait list's lock, `registry_link` by the registry's,
// `context` by the scheduler's hand-over, `stack` and `name` are written before the thread is registered.
unsafe impl Sync for Thread {}

impl Linked for Thread {
    #[inline(always)]
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

impl Thread {
    /// Its number, never used twice.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name_text()
    }

    fn name_text(&self) -> &ArrayString<NAME_LIMIT> {
        // SAFETY: written before the thread was registered or ran, read-only until it is reused.
        unsafe { &*self.name.get() }
    }

    /// The program it belongs to, null for the kernel's own. The program outlives the thread's code, not its handle.
    #[inline(always)]
    pub(crate) fn owner(&self) -> *const Owner {
        self.owner.load(Ordering::Relaxed)
    }

    /// Where its thread-local variables end, 0 if it has none.
    #[inline(always)]
    pub fn thread_pointer(&self) -> usize {
        self.thread_pointer.load(Ordering::Relaxed)
    }

    /// The same; it has none from now on.
    pub(crate) fn take_thread_pointer(&self) -> usize {
        self.thread_pointer.swap(0, Ordering::Relaxed)
    }

    /// Its fibers. By itself.
    #[inline(always)]
    pub(crate) fn fibers(&self) -> &Ring {
        &self.fibers
    }

    /// Ends its wait, if it waits, as if its deadline had passed. Any context, while it cannot end.
    pub(crate) fn force_time_out(&self) {
        if self.claim.try_time_out() {
            let _guard = InterruptGuard::new();
            scheduler::make_runnable(self);
        }
    }

    /// What it is doing, as it was at some moment during the call.
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

    /// Its stack.
    pub fn stack(&self) -> Stack {
        // SAFETY: as for `name`.
        unsafe { *self.stack.get() }
    }

    #[inline(always)]
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// True if its wait list still has it. Under that list's lock.
    pub(crate) fn is_in_wait_list(&self) -> bool {
        self.wait_link.is_linked()
    }

    /// Ends its wait at `deadline`. By itself, interrupts off.
    pub(crate) fn start_timeout(&self, deadline: Deadline) {
        self.timeout.set(cpu::this(), deadline);
    }

    /// Withdraws the timeout. By itself.
    pub(crate) fn end_timeout(&self) {
        self.timeout.cancel();
    }

    /// True if it waits, and no time will end that.
    pub(crate) fn waits_for_ever(&self) -> bool {
        self.state() == State::Blocked && !self.timeout.is_set()
    }

    /// Notes that it waits for the mutex with this state. By itself.
    pub(crate) fn waits_for(&self, state: &AtomicUsize) -> WaitsForMutex<'_> {
        self.wanted_mutex.store(ptr::from_ref(state) as usize, Ordering::Relaxed);
        WaitsForMutex(self)
    }

    /// Address of the thread whose mutex it waits for, as far as that can be told while it may go on.
    pub(crate) fn waits_for_thread(&self) -> Option<usize> {
        let mut state = [0; size_of::<usize>()];
        // The mutex may be gone when this looks: then whatever is there now is read, or nothing.
        match self.wanted_mutex.load(Ordering::Relaxed) {
            0 => None,
            at => Machine::probe_read(at, &mut state).is_ok().then(|| mutex::owner(usize::from_ne_bytes(state))),
        }
    }

    /// True if it was told to run elsewhere from its next turn on.
    #[inline(always)]
    pub(crate) fn shall_move(&self) -> bool {
        self.target_cpu.load(Ordering::Relaxed) != self.cpu.load(Ordering::Relaxed)
    }
}

/// The timeout of a waiting thread: interrupt context.
fn time_out(thread: usize) {
    // SAFETY: a thread withdraws its timeout before it ends.
    let thread = unsafe { &*(thread as *const Thread) };
    if thread.claim.try_time_out() {
        scheduler::make_runnable(thread);
    }
}

/// The calling thread.
#[inline(always)]
pub(crate) fn running() -> &'static Thread {
    // SAFETY: set before any thread runs. It outlives its own code, and the kernel keeps no such reference beyond that.
    unsafe { &*(Machine::current() as *const Thread) }
}

/// The calling thread, `None` before there are threads on this CPU.
pub(crate) fn try_running() -> Option<&'static Thread> {
    // SAFETY: as for `running`; zero before.
    unsafe { (Machine::current() as *const Thread).as_ref() }
}

/// The calling thread, from inside: gives copies only, as nothing borrowed from a thread may outlive it, and a thread can leave
/// anything behind for others.
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
    /// The thread's number, never used twice.
    #[inline(always)]
    pub fn id(self) -> u64 {
        running().id()
    }

    /// The thread's name.
    pub fn name(self) -> ArrayString<NAME_LIMIT> {
        *running().name_text()
    }

    /// The thread's stack.
    pub fn stack(self) -> Stack {
        running().stack()
    }
}

/// The calling thread.
#[inline(always)]
pub fn current() -> Current {
    Current { _not_send: PhantomData }
}

/// Lets other ready threads of this CPU run first.
#[inline]
pub fn yield_now() {
    scheduler::yield_now();
}

/// Sleeps. Blocks.
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

/// Ends the calling thread without a result: its joiner gets [`JoinError::Exited`]. Values on its stack are not dropped.
///
/// # Safety
/// Nothing refers to what is on the thread's stack, which is used for something else from now on: no pinned value is there, and
/// nothing that was lent to another thread for a time.
///
/// # Panics
/// In an interrupt handler, where no thread can end.
pub unsafe fn exit() -> ! {
    assert!(!cpu::in_interrupt(), "a thread's exit in an interrupt handler, where there is none");
    local::drop_all(running());
    scheduler::exit()
}

/// There is no such CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchCpu(pub usize);

impl fmt::Display for NoSuchCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no CPU {} running (0 to {} are possible)", self.0, cpu::limit().saturating_sub(1))
    }
}

/// Moves the calling thread to a CPU; it goes on there.
///
/// # Errors
/// [`NoSuchCpu`].
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
