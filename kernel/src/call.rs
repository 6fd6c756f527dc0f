//! Cross-CPU function calls and inter-processor interrupts.

use core::alloc::Layout;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::{FIRST_VECTOR, IpiError, MAX_CPUS};
use wire::trace::EventKind;

use crate::arch::*;
use crate::boot;
use crate::cpu::{self, Cpu};
use crate::interrupts::{CALL_VECTOR, RESCHEDULE_VECTOR};
use crate::lock::InterruptGuard;
use crate::memory::{self, OutOfMemory, Placement};
use crate::scheduler::mailbox::Linked;
use crate::thread::NoSuchCpu;
use crate::time::Deadline;
use crate::trace;

/// Default time limit of a call that waits.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(1);

/// Number of polls for an answer before the deadline is computed.
const POLLS_WITHOUT_CLOCK: u32 = 100;

/// Why a function did not run, or did not run on every CPU in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// There is no memory for the request.
    OutOfMemory,
    /// The CPU does not run.
    NoSuchCpu(NoSuchCpu),
    /// The CPU did not answer in time; the function may still run there later.
    NoAnswer {
        /// Index of the CPU, the first one if several did not answer.
        cpu: usize,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory for the request"),
            Self::NoSuchCpu(error) => error.fmt(f),
            Self::NoAnswer { cpu } => write!(f, "CPU {cpu} did not answer in time; it may have interrupts off"),
        }
    }
}

impl From<OutOfMemory> for CallError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A set of CPUs, by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    words: [u64; MAX_CPUS / 64],
}

impl CpuSet {
    /// Creates an empty set.
    pub const fn new() -> Self {
        Self { words: [0; MAX_CPUS / 64] }
    }

    /// Returns the set of all running CPUs.
    pub fn all() -> Self {
        cpu::all().map(|cpu| cpu.index).collect()
    }

    /// Adds a CPU. Indices from [`MAX_CPUS`] on are ignored.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Removes a CPU.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// Returns the number of CPUs in the set.
    pub fn len(&self) -> usize {
        // Not `count_ones`: the target CPUs need not have a population count instruction.
        self.iter().count()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words == [0; MAX_CPUS / 64]
    }

    /// Returns the CPUs of the set, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + Clone {
        self.words.into_iter().enumerate().flat_map(|(index, word)| {
            let mut left = word;
            core::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(index * 64 + bit)
            })
        })
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        let mut set = Self::new();
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

/// One target's part of a request, linked into that CPU's call mailbox.
pub(crate) struct CallNode {
    next: AtomicPtr<CallNode>,
    request: *const Request,
    done: AtomicBool,
}

impl Linked for CallNode {
    #[inline(always)]
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// The part of a request that all targets share. A request is one block of memory: this header, the
/// closure, then one node per target.
#[repr(C)]
struct Request {
    run: unsafe fn(*const Request),
    drop_closure: unsafe fn(*mut Request),
    layout: Layout,
    /// CPU the block belongs to and is returned to.
    home: &'static Cpu,
    /// One reference for the caller and one for each target that has not run the function yet.
    references: AtomicUsize,
}

#[repr(C)]
struct RequestWith<F> {
    request: Request,
    closure: F,
}

unsafe fn run_closure<F: Fn()>(request: *const Request) {
    // SAFETY: `Call::new` stores this function only in a request whose closure is an `F`, and the
    // closure is alive as long as the request has references.
    unsafe { ((*request.cast::<RequestWith<F>>()).closure)() };
}

unsafe fn drop_closure<F>(request: *mut Request) {
    // SAFETY: `Call::new` stores this function only in a request whose closure is an `F`; only the
    // release of the last reference calls it, so the closure is dropped once.
    unsafe { ptr::drop_in_place(&raw mut (*request.cast::<RequestWith<F>>()).closure) };
}

/// Size in bytes, without the nodes, of the block each CPU keeps for its next request. With one
/// node per CPU most requests fit, even those to all CPUs, so they do not allocate and work when
/// memory is short.
const KEPT_SIZE: usize = 128;
const KEPT_ALIGN: usize = 16;
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(KEPT_SIZE);

#[inline(always)]
fn kept_block() -> Layout {
    // SAFETY: the alignment is a power of two, and the size of a few kilobytes does not overflow
    // when rounded up to it.
    unsafe { Layout::from_size_align_unchecked(KEPT_BYTES.load(Ordering::Relaxed), KEPT_ALIGN) }
}

#[inline(always)]
fn is_kept(layout: Layout) -> bool {
    layout.size() <= KEPT_BYTES.load(Ordering::Relaxed) && layout.align() <= KEPT_ALIGN
}

/// Gives a CPU the block it keeps for requests. Called once per CPU.
pub(crate) fn prepare(cpu: &Cpu) -> Result<(), OutOfMemory> {
    // The size is the same for all CPUs and is set before the first block is allocated.
    KEPT_BYTES.store(KEPT_SIZE + boot::information().cpus.len() * size_of::<CallNode>(), Ordering::Relaxed);
    cpu.kept_call_block.store(memory::allocate(kept_block(), Placement::Near)?.as_ptr(), Ordering::Relaxed);
    Ok(())
}

/// Returns memory for a request: the block this CPU keeps, or a new one while that is in use.
/// Interrupts must be off.
#[inline(always)]
fn take_block(layout: Layout, home: &Cpu) -> Option<NonNull<u8>> {
    if !is_kept(layout) {
        return memory::allocate(layout, Placement::Near).ok();
    }
    let kept = home.kept_call_block.swap(ptr::null_mut(), Ordering::Acquire);
    NonNull::new(kept).or_else(|| memory::allocate(kept_block(), Placement::Near).ok())
}

/// Keeps the block for its CPU's next request, or frees it. Callable from any context on any CPU.
///
/// # Safety
/// The block came from [`take_block`] with this layout, and nothing uses it any more.
#[inline(always)]
unsafe fn return_block(block: NonNull<u8>, layout: Layout, home: &Cpu) {
    if !is_kept(layout) {
        // SAFETY: the caller guarantees that the block was allocated with this layout and is no
        // longer used.
        return unsafe { memory::free(block, layout) };
    }
    if let Some(other) = NonNull::new(home.kept_call_block.swap(block.as_ptr(), Ordering::AcqRel)) {
        // SAFETY: the swap made this CPU the block's only owner, and every kept block was allocated
        // with the layout of `kept_block`.
        unsafe { memory::free(other, kept_block()) };
    }
}

/// The caller's side of a request.
struct Call {
    request: *mut Request,
    nodes: *mut CallNode,
    count: usize,
}

impl Call {
    #[inline(always)]
    fn new<F: Fn() + Send + Sync + 'static>(closure: F, count: usize) -> Result<Self, CallError> {
        let nodes = Layout::array::<CallNode>(count).map_err(|_| CallError::OutOfMemory)?;
        let (layout, offset) = Layout::new::<RequestWith<F>>().extend(nodes).map_err(|_| CallError::OutOfMemory)?;
        let home = cpu::this();
        let memory = take_block(layout, home).ok_or(CallError::OutOfMemory)?.as_ptr();
        let request = memory.cast::<RequestWith<F>>();
        // SAFETY: the block has room for the request, and for `count` nodes at `offset`; it is not
        // shared before this returns.
        unsafe {
            request.write(RequestWith {
                request: Request {
                    run: run_closure::<F>,
                    drop_closure: drop_closure::<F>,
                    layout,
                    home,
                    references: AtomicUsize::new(count + 1),
                },
                closure,
            });
            let first = memory.add(offset).cast::<CallNode>();
            for index in 0..count {
                first.add(index).write(CallNode {
                    next: AtomicPtr::new(ptr::null_mut()),
                    request: request.cast(),
                    done: AtomicBool::new(false),
                });
            }
            Ok(Self { request: request.cast(), nodes: first, count })
        }
    }

    #[inline(always)]
    fn node(&self, index: usize) -> &CallNode {
        debug_assert!(index < self.count);
        // SAFETY: there are `count` nodes, and the caller's reference keeps the block allocated.
        unsafe { &*self.nodes.add(index) }
    }

    /// Pushes a node into a CPU's call mailbox and interrupts the CPU if the mailbox was empty.
    #[inline(always)]
    fn send(&self, index: usize, target: &Cpu) {
        // SAFETY: the node is in no mailbox yet, and the target's reference keeps it allocated
        // until the target has run it.
        if unsafe { target.calls.push(self.node(index)) } {
            tell(target, CALL_VECTOR);
        }
    }

    /// Waits until a target has run the function. With interrupts off, this CPU serves calls to
    /// itself meanwhile, so that two CPUs calling each other do not deadlock.
    #[inline(always)]
    fn wait(&self, index: usize, cpu: usize, limit: Duration) -> Result<(), CallError> {
        // Most answers arrive sooner than reading the clock would pay off.
        for _ in 0..POLLS_WITHOUT_CLOCK {
            if self.node(index).done.load(Ordering::Acquire) {
                return Ok(());
            }
            Core::spin_hint();
        }
        self.wait_long(index, cpu, limit)
    }

    #[cold]
    fn wait_long(&self, index: usize, cpu: usize, limit: Duration) -> Result<(), CallError> {
        let deadline = Deadline::after(limit);
        let serve = !Core::interrupts_enabled();
        while !self.node(index).done.load(Ordering::Acquire) {
            if serve {
                serve_while_waiting();
            }
            if deadline.has_passed() {
                return Err(CallError::NoAnswer { cpu });
            }
            Core::spin_hint();
        }
        Ok(())
    }
}

/// Runs the functions other CPUs ask of this one while it waits for an answer with interrupts off.
/// They run as in an interrupt handler, so `in_interrupt` is set. If the waiter is a handler
/// itself, `handler_waits` tells [`crate::interrupts::wait_for_handlers`] that this handler has not
/// returned.
fn serve_while_waiting() {
    let here = cpu::this();
    let in_handler = here.in_interrupt.swap(true, Ordering::Relaxed);
    let outer = here.handler_waits.load(Ordering::Relaxed);
    here.handler_waits.store(in_handler, Ordering::Relaxed);
    if !in_handler {
        here.thread_serves.store(true, Ordering::Relaxed);
    }
    interrupt(0);
    if !in_handler {
        here.thread_serves.store(false, Ordering::Relaxed);
    }
    here.handler_waits.store(outer, Ordering::Relaxed);
    here.in_interrupt.store(in_handler, Ordering::Relaxed);
}

impl Drop for Call {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `Call::new` took one reference for the caller, and this `Call` gives it up
        // exactly once.
        unsafe { release(self.request) };
    }
}

/// Gives up a reference. The last one drops the closure and frees the request.
///
/// # Safety
/// The caller holds a reference and does not use the request afterwards.
#[inline(always)]
unsafe fn release(request: *mut Request) {
    // SAFETY: the caller's reference keeps the request alive until the count drops, and the
    // caller that drops it to zero has the request alone.
    unsafe {
        if (*request).references.fetch_sub(1, Ordering::AcqRel) == 1 {
            ((*request).drop_closure)(request);
            let Request { layout, home, .. } = *request;
            return_block(NonNull::new_unchecked(request.cast()), layout, home);
        }
    }
}

/// Runs the functions other CPUs left in this CPU's call mailbox. Handler of [`CALL_VECTOR`].
pub(crate) fn interrupt(_: usize) {
    let here = cpu::this();
    here.calls.drain(|node| {
        here.counters.calls.add(1);
        // SAFETY: the target's reference keeps the node until `release`. `done` is stored last,
        // because the caller may return as soon as it sees it.
        unsafe {
            let request = (*node).request;
            ((*request).run)(request);
            (*node).done.store(true, Ordering::Release);
            release(request.cast_mut());
        }
    });
}

/// Runs `function` on a CPU, in its interrupt handler, and waits at most `limit` for it. On the
/// calling CPU it runs directly, with interrupts off. Callable from any context.
///
/// # Errors
/// See [`CallError`].
#[inline]
pub fn on<F: Fn() + Send + Sync + 'static>(cpu: usize, function: F, limit: Duration) -> Result<(), CallError> {
    let target = cpu::get(cpu).ok_or(CallError::NoSuchCpu(NoSuchCpu(cpu)))?;
    let guard = InterruptGuard::new();
    if target.is_this() {
        function();
        return Ok(());
    }
    let call = Call::new(function, 1)?;
    call.send(0, target);
    // Before the wait, so that a caller with interrupts on serves calls to its CPU by interrupt.
    drop(guard);
    call.wait(0, cpu, limit)
}

/// Starts `function` on a CPU without waiting for it. Callable from any context.
///
/// # Errors
/// See [`CallError`].
pub fn start_on<F: Fn() + Send + Sync + 'static>(cpu: usize, function: F) -> Result<(), CallError> {
    let target = cpu::get(cpu).ok_or(CallError::NoSuchCpu(NoSuchCpu(cpu)))?;
    let _guard = InterruptGuard::new();
    if target.is_this() {
        function();
        return Ok(());
    }
    Call::new(function, 1)?.send(0, target);
    Ok(())
}

/// Runs `function` on every CPU of a set at the same time and waits at most `limit` for each.
/// Callable from any context.
///
/// # Errors
/// See [`CallError`]. If one CPU fails to answer, the function still runs on the others.
pub fn on_set<F: Fn() + Send + Sync + 'static>(cpus: CpuSet, function: F, limit: Duration) -> Result<(), CallError> {
    if let Some(absent) = cpus.iter().find(|&cpu| cpu::get(cpu).is_none()) {
        return Err(CallError::NoSuchCpu(NoSuchCpu(absent)));
    }
    let guard = InterruptGuard::new();
    let here = cpu::this();
    let mut others = cpus;
    others.remove(here.index);
    let call = Call::new(function, others.len())?;
    for (index, cpu) in others.iter().enumerate() {
        // Every CPU of the set exists, as checked at the start.
        if let Some(target) = cpu::get(cpu) {
            call.send(index, target);
        }
    }
    if others != cpus {
        // SAFETY: the reference that `call` holds keeps the request and its closure alive.
        unsafe { ((*call.request).run)(call.request) };
    }
    drop(guard);
    let mut result = Ok(());
    for (index, cpu) in others.iter().enumerate() {
        result = result.and(call.wait(index, cpu, limit));
    }
    result
}

/// Runs `function` on all CPUs and waits at most `limit` for each.
///
/// # Errors
/// See [`CallError`].
pub fn on_all<F: Fn() + Send + Sync + 'static>(function: F, limit: Duration) -> Result<(), CallError> {
    on_set(CpuSet::all(), function, limit)
}

/// Time each CPU has to flush its TLB.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Flushes the TLBs of all CPUs. May block, so only threads may call it. If there is no memory for
/// the request, it yields and retries, because a caller that flushes is often about to free memory.
///
/// # Errors
/// See [`CallError`]; a CPU may then still use the old translations.
pub fn flush_tlbs() -> Result<(), CallError> {
    match on_all(AddressSpace::flush_tlb, FLUSH_LIMIT) {
        Err(CallError::OutOfMemory) => flush_tlbs_once_there_is_memory(),
        result => result,
    }
}

#[cold]
fn flush_tlbs_once_there_is_memory() -> Result<(), CallError> {
    let deadline = Deadline::after(FLUSH_LIMIT);
    loop {
        crate::thread::yield_now();
        match on_all(AddressSpace::flush_tlb, FLUSH_LIMIT) {
            Err(CallError::OutOfMemory) if !deadline.has_passed() => (),
            result => return result,
        }
    }
}

/// Interrupts a CPU into whose empty mailbox this CPU just pushed an item. Later senders find the
/// mailbox filled and send nothing, so if the interrupt cannot be sent, this CPU's timer retries
/// until it can. Interrupts must be off.
#[inline(always)]
pub(crate) fn tell(target: &Cpu, vector: u8) {
    trace::event(EventKind::Ipi, target.index as u64, u64::from(vector));
    if send(target.index, vector).is_err() {
        tell_later(target);
    }
}

#[inline(always)]
fn send(cpu: usize, vector: u8) -> Result<(), IpiError> {
    #[cfg(feature = "faults")]
    if faults::meet_interrupt() {
        return Err(IpiError::Busy);
    }
    Ipi::send(cpu, vector)
}

/// Time between two attempts to interrupt a CPU.
const TELL_INTERVAL: Duration = Duration::from_micros(100);

#[cold]
fn tell_later(target: &Cpu) {
    if !target.is_untold.swap(true, Ordering::AcqRel) {
        target.untold.set(cpu::this(), Deadline::after(TELL_INTERVAL));
    }
}

/// Retries an interrupt that could not be sent. Runs in the timer interrupt. Either mailbox may
/// hold the item, so both vectors are sent.
pub(crate) fn tell_again(cpu: usize) {
    let Some(target) = cpu::known(cpu) else { return };
    target.is_untold.store(false, Ordering::Release);
    tell(target, CALL_VECTOR);
    tell(target, RESCHEDULE_VECTOR);
}

/// Fault injection for interrupts: makes attempts fail, and lets a test hook them.
#[cfg(feature = "faults")]
pub mod faults {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use crate::lock::SpinLock;

    static LEFT: AtomicUsize = AtomicUsize::new(0);
    static HOOK: SpinLock<Option<fn()>> = SpinLock::new(None);

    /// Calls `hook` at the next attempt to interrupt a CPU, before the interrupt is sent.
    pub fn on_next_interrupt(hook: fn()) {
        *HOOK.lock() = Some(hook);
    }

    /// Makes the next `count` attempts to interrupt a CPU fail.
    pub fn fail_next_interrupts(count: usize) {
        LEFT.store(count, Ordering::SeqCst);
    }

    /// Calls the hook and returns whether this attempt must fail.
    pub(super) fn meet_interrupt() -> bool {
        let hook = HOOK.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Sends an inter-processor interrupt. Its handler is registered with
/// [`crate::interrupts::register_vector`].
///
/// # Errors
/// See [`IpiError`].
///
/// # Panics
/// If `vector` is that of an exception, whose entry code expects the frame an exception pushes.
#[inline]
pub fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError> {
    assert!(vector >= FIRST_VECTOR, "vector {vector} is an exception's");
    let _guard = InterruptGuard::new();
    trace::event(EventKind::Ipi, cpu as u64, u64::from(vector));
    Ipi::send(cpu, vector)
}

/// Sends an inter-processor interrupt to all other CPUs.
///
/// # Errors
/// See [`IpiError`].
///
/// # Panics
/// If `vector` is that of an exception.
pub fn broadcast_ipi(vector: u8) -> Result<(), IpiError> {
    assert!(vector >= FIRST_VECTOR, "vector {vector} is an exception's");
    let _guard = InterruptGuard::new();
    trace::event(EventKind::Ipi, u64::MAX, u64::from(vector));
    Ipi::broadcast(vector)
}
