//! Functions on other CPUs, and inter-processor interrupts.

use core::alloc::Layout;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::{FIRST_VECTOR, IpiError, MAX_CPUS};
use wire::trace::Kind;

use crate::arch::{Architecture, Machine};
use crate::boot;
use crate::cpu::{self, Cpu};
use crate::interrupts::{CALL_VECTOR, RESCHEDULE_VECTOR};
use crate::lock::InterruptGuard;
use crate::memory::{self, OutOfMemory, Placement};
use crate::scheduler::mailbox::Linked;
use crate::thread::NoSuchCpu;
use crate::time::Deadline;
use crate::trace;

/// How long a waiting call waits unless told otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(1);

/// Looks at an answer before the deadline is computed.
const POLLS_WITHOUT_CLOCK: u32 = 100;

/// Why a function did not run, or not run everywhere in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No memory for the request.
    OutOfMemory,
    /// The CPU does not run.
    NoSuchCpu(NoSuchCpu),
    /// The CPU did not answer in time; the function may still run there later.
    NoAnswer {
        /// Which CPU, the first if there are several.
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
    /// No CPU.
    pub const fn new() -> Self {
        Self { words: [0; MAX_CPUS / 64] }
    }

    /// All running CPUs.
    pub fn all() -> Self {
        cpu::all().map(|cpu| cpu.index).collect()
    }

    /// Adds a CPU; indices no machine has are ignored.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// Number of CPUs in it.
    pub fn len(&self) -> usize {
        // By looking, because the CPUs this is compiled for need not count bits by an instruction.
        self.iter().count()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.words == [0; MAX_CPUS / 64]
    }

    /// The CPUs in it, in order.
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

/// A request as one target sees it: in that CPU's call mailbox.
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

/// What all targets share. One block of memory: this, the closure behind it, then a node for each target.
#[repr(C)]
struct Request {
    run: unsafe fn(*const Request),
    drop_closure: unsafe fn(*mut Request),
    layout: Layout,
    /// Whose block this is, to be kept there again.
    home: &'static Cpu,
    /// The caller and each target that has not run it.
    references: AtomicUsize,
}

#[repr(C)]
struct RequestWith<F> {
    request: Request,
    closure: F,
}

unsafe fn run_closure<F: Fn()>(request: *const Request) {
    // SAFETY: made by `Call::new` for this type.
    unsafe { ((*request.cast::<RequestWith<F>>()).closure)() };
}

unsafe fn drop_closure<F>(request: *mut Request) {
    // SAFETY: made by `Call::new` for this type, dropped once by the last reference.
    unsafe { ptr::drop_in_place(&raw mut (*request.cast::<RequestWith<F>>()).closure) };
}

/// Bytes of the block each CPU keeps for its next request, besides those of a node for each CPU: most requests fit, also those
/// to all CPUs, so that they need no memory, of which there may be none.
const KEPT_SIZE: usize = 128;
const KEPT_ALIGN: usize = 16;
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(KEPT_SIZE);

#[inline(always)]
fn kept_block() -> Layout {
    // SAFETY: the alignment is a power of two, and the size that of a few kilobytes.
    unsafe { Layout::from_size_align_unchecked(KEPT_BYTES.load(Ordering::Relaxed), KEPT_ALIGN) }
}

#[inline(always)]
fn is_kept(layout: Layout) -> bool {
    layout.size() <= KEPT_BYTES.load(Ordering::Relaxed) && layout.align() <= KEPT_ALIGN
}

/// Gives a CPU the block it keeps. Once.
pub(crate) fn prepare(cpu: &Cpu) -> Result<(), OutOfMemory> {
    // The same for all CPUs, and set before the first one's block is made.
    KEPT_BYTES.store(KEPT_SIZE + boot::information().cpus.len() * size_of::<CallNode>(), Ordering::Relaxed);
    cpu.kept_call_block.store(memory::allocate(kept_block(), Placement::Near)?.as_ptr(), Ordering::Relaxed);
    Ok(())
}

/// Memory for a request: the block this CPU kept, or a new one while that is in use. Interrupts off.
#[inline(always)]
fn take_block(layout: Layout, home: &Cpu) -> Option<NonNull<u8>> {
    if !is_kept(layout) {
        return memory::allocate(layout, Placement::Near).ok();
    }
    let kept = home.kept_call_block.swap(ptr::null_mut(), Ordering::Acquire);
    NonNull::new(kept).or_else(|| memory::allocate(kept_block(), Placement::Near).ok())
}

/// Keeps the block for its CPU's next request, or frees it. Any context, any CPU.
///
/// # Safety
/// The block came from [`take_block`] with this layout and is not used any more.
#[inline(always)]
unsafe fn return_block(block: NonNull<u8>, layout: Layout, home: &Cpu) {
    if !is_kept(layout) {
        // SAFETY: the caller's obligation.
        return unsafe { memory::free(block, layout) };
    }
    if let Some(other) = NonNull::new(home.kept_call_block.swap(block.as_ptr(), Ordering::AcqRel)) {
        // SAFETY: kept by an earlier call of this function, so of this layout.
        unsafe { memory::free(other, kept_block()) };
    }
}

/// The caller's end of a request.
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
        // SAFETY: the block has room for the request, and for `count` nodes at `offset`.
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
        // SAFETY: there are `count` nodes, and the caller's reference keeps them.
        unsafe { &*self.nodes.add(index) }
    }

    /// Leaves a node in a CPU's mailbox and tells it.
    #[inline(always)]
    fn send(&self, index: usize, target: &Cpu) {
        // SAFETY: the node is in no mailbox and lives until the target gives its reference up.
        if unsafe { target.calls.push(self.node(index)) } {
            tell(target, CALL_VECTOR);
        }
    }

    /// Waits until a target has run it, serving calls to this CPU meanwhile.
    #[inline(always)]
    fn wait(&self, index: usize, cpu: usize, limit: Duration) -> Result<(), CallError> {
        // Most answers come before it is worth looking at the clock.
        for _ in 0..POLLS_WITHOUT_CLOCK {
            if self.node(index).done.load(Ordering::Acquire) {
                return Ok(());
            }
            Machine::spin_hint();
        }
        self.wait_long(index, cpu, limit)
    }

    #[cold]
    fn wait_long(&self, index: usize, cpu: usize, limit: Duration) -> Result<(), CallError> {
        let deadline = Deadline::after(limit);
        let serve = !Machine::interrupts_enabled();
        while !self.node(index).done.load(Ordering::Acquire) {
            if serve {
                serve_while_waiting();
            }
            if deadline.has_passed() {
                return Err(CallError::NoAnswer { cpu });
            }
            Machine::spin_hint();
        }
        Ok(())
    }
}

/// Runs what other CPUs ask of this one while it waits for another, interrupts off: as in a handler, and in one that has not
/// returned if the waiter is a handler itself.
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
        // SAFETY: the caller's reference.
        unsafe { release(self.request) };
    }
}

/// Gives a reference up; the last one frees the request.
///
/// # Safety
/// The caller has a reference.
#[inline(always)]
unsafe fn release(request: *mut Request) {
    // SAFETY: as the caller has a reference, the request is there.
    unsafe {
        if (*request).references.fetch_sub(1, Ordering::AcqRel) == 1 {
            ((*request).drop_closure)(request);
            let Request { layout, home, .. } = *request;
            return_block(NonNull::new_unchecked(request.cast()), layout, home);
        }
    }
}

/// Runs what other CPUs asked this one to run: the interrupt that says so.
pub(crate) fn interrupt(_: usize) {
    let here = cpu::this();
    here.calls.drain(|node| {
        here.counters.calls.add(1);
        // SAFETY: the node is ours until its reference is given up; `done` is the last thing the caller may see of it.
        unsafe {
            let request = (*node).request;
            ((*request).run)(request);
            (*node).done.store(true, Ordering::Release);
            release(request.cast_mut());
        }
    });
}

/// Runs `function` on a CPU, in its interrupt handler, and waits for it at most `limit`. Any context.
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
    drop(guard);
    call.wait(0, cpu, limit)
}

/// Lets `function` run on a CPU without waiting for it. Any context.
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

/// Runs `function` on each CPU of a set, all at once, and waits at most `limit` for each. Any context.
///
/// # Errors
/// See [`CallError`]. Where one CPU fails, the function still runs on the others.
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
        // All of the set are there, as was seen above.
        if let Some(target) = cpu::get(cpu) {
            call.send(index, target);
        }
    }
    if others != cpus {
        // SAFETY: the request is alive.
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

/// How long each CPU may take to flush its TLB.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Flushes the TLBs of all CPUs. Blocks: for threads only. Where memory for the request is short, it waits for its turn to have
/// some: who flushes is often about to give memory back.
///
/// # Errors
/// See [`CallError`]: then a CPU may still use the old translations.
pub fn flush_tlbs() -> Result<(), CallError> {
    match on_all(Machine::flush_tlb, FLUSH_LIMIT) {
        Err(CallError::OutOfMemory) => flush_tlbs_once_there_is_memory(),
        result => result,
    }
}

#[cold]
fn flush_tlbs_once_there_is_memory() -> Result<(), CallError> {
    let deadline = Deadline::after(FLUSH_LIMIT);
    loop {
        crate::thread::yield_now();
        match on_all(Machine::flush_tlb, FLUSH_LIMIT) {
            Err(CallError::OutOfMemory) if !deadline.has_passed() => (),
            result => return result,
        }
    }
}

/// Interrupts a CPU for whose mailbox this one's item is the first: no later sender does. So if that fails, this CPU's timer
/// tries again until it succeeds. Interrupts off.
#[inline(always)]
pub(crate) fn tell(target: &Cpu, vector: u8) {
    trace::event(Kind::Ipi, target.index as u64, u64::from(vector));
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
    Machine::send_ipi(cpu, vector)
}

/// Time between two attempts.
const TELL_INTERVAL: Duration = Duration::from_micros(100);

#[cold]
fn tell_later(target: &Cpu) {
    if !target.is_untold.swap(true, Ordering::AcqRel) {
        target.untold.set(cpu::this(), Deadline::after(TELL_INTERVAL));
    }
}

/// The timer of a CPU that was not told: interrupt context. Either mailbox may be the one.
pub(crate) fn tell_again(cpu: usize) {
    let Some(target) = cpu::get(cpu) else { return };
    target.is_untold.store(false, Ordering::Release);
    tell(target, CALL_VECTOR);
    tell(target, RESCHEDULE_VECTOR);
}

/// Interrupts that fail because a test wants it, or that it wants to know of.
#[cfg(feature = "faults")]
pub mod faults {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use crate::lock::SpinLock;

    static LEFT: AtomicUsize = AtomicUsize::new(0);
    static HOOK: SpinLock<Option<fn()>> = SpinLock::new(None);

    /// Calls a function at the next attempt to tell a CPU, before it is told.
    pub fn on_next_interrupt(hook: fn()) {
        *HOOK.lock() = Some(hook);
    }

    /// Makes the next `count` attempts to tell a CPU fail.
    pub fn fail_next_interrupts(count: usize) {
        LEFT.store(count, Ordering::SeqCst);
    }

    /// Calls the hook; true if this attempt shall fail.
    pub(super) fn meet_interrupt() -> bool {
        let hook = HOOK.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Sends an inter-processor interrupt; its handler is registered with [`crate::interrupts::register_vector`].
///
/// # Errors
/// See [`IpiError`].
///
/// # Panics
/// For the vectors of exceptions, whose entries expect what those push.
#[inline]
pub fn send_ipi(cpu: usize, vector: u8) -> Result<(), IpiError> {
    assert!(vector >= FIRST_VECTOR, "vector {vector} is an exception's");
    let _guard = InterruptGuard::new();
    trace::event(Kind::Ipi, cpu as u64, u64::from(vector));
    Machine::send_ipi(cpu, vector)
}

/// Sends an inter-processor interrupt to all other CPUs.
///
/// # Errors
/// See [`IpiError`].
pub fn broadcast_ipi(vector: u8) -> Result<(), IpiError> {
    assert!(vector >= FIRST_VECTOR, "vector {vector} is an exception's");
    let _guard = InterruptGuard::new();
    trace::event(Kind::Ipi, u64::MAX, u64::from(vector));
    Machine::broadcast_ipi(vector)
}
