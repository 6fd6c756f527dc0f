//! The tracer: events of each CPU with their times, in one ring per CPU that overwrites its oldest
//! entries.
//!
//! With tracing off, a trace point is a test and a branch not taken; with tracing on, about thirty
//! instructions. On an emulated machine the rings are exported to the host when the machine ends,
//! or continuously, so that nothing is overwritten.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::{Export, MAX_CPUS, TRACE_ENTRIES, TraceEntry};
use arrayvec::ArrayVec;
use serde::Serialize;
use wire::trace::{Event, EventKind, Header, MAGIC, Part, Ring as RingHeader, Thread as NamedThread, VERSION};

use crate::arch::*;
use crate::cpu;
use crate::lock::InterruptGuard;
use crate::memory::OutOfMemory;
use crate::thread::{self, SpawnError, Thread};
use crate::time::{self, spin_until};
use crate::wait::Mutex;

/// Maximum size of an encoded record, in bytes.
const RECORD_LIMIT: usize = 128;
/// Number of events written in one go.
const EVENTS_AT_ONCE: usize = 32;
/// Intervals at which recorded events are written while the machine runs, and at which the tracer
/// checks for overwritten ones.
const STREAM_INTERVAL: Duration = Duration::from_millis(2);
const LOSS_INTERVAL: Duration = Duration::from_millis(50);
/// Time for which the end of the machine waits for a write in progress.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The ring of each CPU; null until tracing first starts.
static RINGS: [AtomicPtr<TraceEntry>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Number of bits of an entry's tag that hold the kind. The rest is the running thread's number.
const KIND_BITS: u32 = 8;

/// Records an event if tracing is on. Interrupts must be off.
#[inline(always)]
pub fn event(kind: EventKind, first: u64, second: u64) {
    if TraceRing::is_on() {
        // SAFETY: a CPU that takes part in scheduling always has a running thread.
        let thread = unsafe { &*(Core::current() as *const Thread) };
        TraceRing::write(thread.id() << KIND_BITS | kind as u64, first, second);
    }
}

/// Records a user-defined mark if tracing is on. Callable from any context.
#[inline(always)]
pub fn mark(first: u64, second: u64) {
    if TraceRing::is_on() {
        let _guard = InterruptGuard::new();
        event(EventKind::Mark, first, second);
    }
}

/// Records that a thread was spawned. Interrupts must be off.
#[inline(always)]
pub(crate) fn spawned(id: u64, cpu: usize, name: &str) {
    if TraceRing::is_on() {
        record_spawn(id, cpu, name);
    }
}

#[cold]
fn record_spawn(id: u64, cpu: usize, name: &str) {
    event(EventKind::Spawn, id, cpu as u64);
    let (first, second) = wire::trace::name_words(name);
    event(EventKind::Name, first, second);
}

/// Returns whether events are recorded.
pub fn is_on() -> bool {
    TraceRing::is_on()
}

/// Discards all recorded events and starts recording.
///
/// # Errors
/// [`OutOfMemory`] for the rings.
pub fn start() -> Result<(), OutOfMemory> {
    stop();
    for cpu in cpu::all_known() {
        let place = &RINGS[cpu.index];
        let mut ring = place.load(Ordering::Acquire);
        if ring.is_null() {
            let mut entries = Vec::new();
            entries.try_reserve_exact(TRACE_ENTRIES).map_err(|_| OutOfMemory)?;
            entries.resize(TRACE_ENTRIES, TraceEntry::default());
            ring = Vec::leak(entries).as_mut_ptr();
            place.store(ring, Ordering::Release);
        }
        TraceRing::set(cpu.index, ring);
    }
    BEGINNINGS.fetch_add(1, Ordering::Release);
    TraceRing::set_on(true);
    Ok(())
}

/// Stops recording. The recorded events are kept.
pub fn stop() {
    TraceRing::set_on(false);
}

/// A CPU's ring at one moment.
struct View {
    cpu: usize,
    ring: *const TraceEntry,
    recorded: usize,
}

fn views() -> impl Iterator<Item = View> {
    (0..MAX_CPUS).filter_map(|cpu| {
        let ring = RINGS[cpu].load(Ordering::Acquire).cast_const();
        (!ring.is_null()).then(|| View { cpu, ring, recorded: TraceRing::written(cpu) })
    })
}

impl View {
    fn kept(&self) -> usize {
        self.recorded.min(TRACE_ENTRIES)
    }

    /// Returns the event at a position among those kept, oldest first.
    fn get(&self, position: usize) -> Event {
        self.nth(self.recorded - self.kept() + position)
    }

    /// Returns an event by its number since tracing began. It must be among those kept.
    fn nth(&self, number: usize) -> Event {
        let at = number % TRACE_ENTRIES;
        // SAFETY: `at` is within the ring, which is never freed. The entry is copied by a volatile
        // read, because its CPU may be overwriting it; a torn copy is still only numbers.
        let [cycles, tag, first, second] = unsafe { self.ring.add(at).read_volatile() };
        let kind = EventKind::ALL.get((tag & ((1 << KIND_BITS) - 1)) as usize).copied().unwrap_or(EventKind::Mark);
        Event { cycles, thread: tag >> KIND_BITS, kind, first, second }
    }
}

/// How far a reader has read each CPU's ring.
pub struct Position {
    read: [usize; MAX_CPUS],
}

impl Position {
    /// Returns a position behind everything recorded so far.
    pub fn now() -> Self {
        let mut read = [0; MAX_CPUS];
        views().for_each(|view| read[view.cpu] = view.recorded);
        Self { read }
    }

    /// Calls `each` with the CPU and the event for each event recorded since the last call and not
    /// yet overwritten.
    pub fn read(&mut self, mut each: impl FnMut(usize, &Event)) {
        for view in views() {
            let read = &mut self.read[view.cpu];
            // A new start of tracing counts from zero again.
            let fresh = view.recorded.checked_sub(*read).unwrap_or(view.recorded);
            let first = view.kept().saturating_sub(fresh);
            (first..view.kept()).for_each(|position| each(view.cpu, &view.get(position)));
            *read = view.recorded;
        }
    }
}

/// Returns the number of events kept and the number of events overwritten.
pub fn counts() -> (usize, usize) {
    views().fold((0, 0), |(kept, lost), view| (kept + view.kept(), lost + view.recorded - view.kept()))
}

/// Calls `each` with the CPU and the event for the last `limit` events of all CPUs, in order of
/// time. Tracing is paused while they are gathered.
///
/// # Errors
/// [`OutOfMemory`].
pub fn for_last(limit: usize, mut each: impl FnMut(usize, &Event)) -> Result<(), OutOfMemory> {
    let was_on = is_on();
    stop();
    let result = gather(limit);
    if was_on {
        TraceRing::set_on(true);
    }
    result?.iter().for_each(|(cpu, event)| each(*cpu, event));
    Ok(())
}

fn gather(limit: usize) -> Result<Vec<(usize, Event)>, OutOfMemory> {
    let mut events = Vec::new();
    for view in views() {
        let first = view.kept().saturating_sub(limit);
        events.try_reserve(view.kept() - first).map_err(|_| OutOfMemory)?;
        events.extend((first..view.kept()).map(|position| (view.cpu, view.get(position))));
    }
    sort(&mut events);
    events.drain(..events.len().saturating_sub(limit));
    Ok(events)
}

/// Sorts events by time. Those of the same time keep their order.
#[inline(never)]
pub(crate) fn sort(events: &mut [(usize, Event)]) {
    events.sort_by_key(|(_, event)| event.cycles);
}

/// Number of times tracing was started.
static BEGINNINGS: AtomicUsize = AtomicUsize::new(0);

/// How much of the trace has been exported to the host.
struct Written {
    has_begun: bool,
    /// Value of [`BEGINNINGS`] at the last look.
    beginnings: usize,
    /// For each CPU, the number of its events since tracing began that are written.
    events: [usize; MAX_CPUS],
}

static WRITTEN: Mutex<Written> = Mutex::new(Written::NOTHING);

/// Starts a thread that exports events while the machine runs, if there is an export channel.
/// Called once.
///
/// # Errors
/// [`SpawnError`]; the events are then exported only at the end.
pub(crate) fn stream() -> Result<(), SpawnError> {
    let work = || {
        loop {
            // Tracing may be paused, so it is checked before every write.
            while is_on() && WRITTEN.lock().write_some(State::Records, &mut export_bytes).is_break() {}
            thread::sleep(STREAM_INTERVAL);
        }
    };
    spawn_writer(work)
}

/// Starts a thread that tells the host when the first event is overwritten, if there is an export
/// channel: it writes the beginning of the trace and a mark. Called once.
///
/// # Errors
/// [`SpawnError`]; the host is then not told.
pub(crate) fn tell_of_loss() -> Result<(), SpawnError> {
    let work = || {
        while counts().1 == 0 {
            thread::sleep(LOSS_INTERVAL);
        }
        let mut written = WRITTEN.lock();
        written.begin(&mut export_bytes);
        write(&Part::Loss, &mut export_bytes);
    };
    spawn_writer(work)
}

fn spawn_writer(work: impl FnOnce() + Send + 'static) -> Result<(), SpawnError> {
    if Platform::exports(Export::Trace) {
        thread::Builder::new("tracer").spawn(work)?.detach();
    }
    Ok(())
}

/// Whether the CPUs are recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// They are, so the last event of each may be incomplete.
    Records,
    /// They are not, and all events are complete.
    Stopped,
}

/// Where records go.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

impl Written {
    const NOTHING: Self = Self { has_begun: false, beginnings: 0, events: [0; MAX_CPUS] };

    fn begin(&mut self, sink: Sink<'_>) {
        if !core::mem::replace(&mut self.has_begun, true) {
            let (cycle_hz, epoch) = (time::cycle_frequency_hz(), time::epoch_cycles());
            write(&Header { magic: MAGIC, version: VERSION, cycle_hz, epoch }, sink);
        }
    }

    /// Writes some events of each CPU. Breaks if there are more.
    fn write_some(&mut self, state: State, sink: Sink<'_>) -> ControlFlow<()> {
        self.begin(sink);
        let beginnings = BEGINNINGS.load(Ordering::Acquire);
        if core::mem::replace(&mut self.beginnings, beginnings) != beginnings {
            self.events = [0; MAX_CPUS];
        }
        let mut flow = ControlFlow::Continue(());
        for view in views() {
            let end = view.recorded.saturating_sub(usize::from(state == State::Records));
            let from = &mut self.events[view.cpu];
            // Tracing may just be starting anew.
            *from = (*from).min(view.recorded);
            let first = (*from).max(view.recorded - view.kept());
            let mut lost = first - *from;
            let mut events: ArrayVec<Event, EVENTS_AT_ONCE> =
                (first..end).take(EVENTS_AT_ONCE).map(|at| view.nth(at)).collect();
            *from = first + events.len();
            // The CPU may have overwritten some of the copied events in the meantime.
            let overwritten =
                TraceRing::written(view.cpu).saturating_sub(TRACE_ENTRIES).saturating_sub(first).min(events.len());
            events.drain(..overwritten);
            lost += overwritten;
            if events.is_empty() && lost == 0 {
                continue;
            }
            let idle = cpu::known(view.cpu).map_or(core::ptr::null_mut(), |cpu| cpu.idle.load(Ordering::Relaxed));
            // SAFETY: the pointer is null or the CPU's idle thread, which lives forever.
            let idle = unsafe { idle.as_ref() }.map_or(0, thread::Thread::id);
            let header = RingHeader { cpu: view.cpu as u32, events: events.len() as u32, lost: lost as u64, idle };
            write(&Part::Ring(header), sink);
            events.iter().for_each(|event| write(event, sink));
            if *from < end {
                flow = ControlFlow::Break(());
            }
        }
        flow
    }
}

/// Exports the trace to the host at the end of the machine, if tracing is on and there is an export
/// channel.
pub(crate) fn export() {
    if !is_on() || !Platform::exports(Export::Trace) {
        return;
    }
    stop();
    let mut written = None;
    // After a crash, a writer may have stopped for good while holding the lock; the trace then ends
    // there.
    spin_until(WRITE_LIMIT, || {
        written = WRITTEN.try_lock();
        written.is_some()
    });
    let Some(mut written) = written else { return };
    while written.write_some(State::Stopped, &mut export_bytes).is_break() {}
    write_end(&mut export_bytes);
}

/// Writes the threads that there are, and the end.
fn write_end(sink: Sink<'_>) {
    for cpu in cpu::all_known() {
        let Some(registry) = cpu.registry.try_lock() else { continue };
        for thread in registry.iter() {
            write(&Part::Thread(NamedThread { id: thread.id(), name: thread.name().into() }), sink);
        }
    }
    write(&Part::End, sink);
}

fn write<T: Serialize>(record: &T, sink: Sink<'_>) {
    let mut buffer = [0; RECORD_LIMIT];
    if let Ok(bytes) = postcard::to_slice(record, &mut buffer) {
        sink(bytes);
    }
}

fn export_bytes(bytes: &[u8]) {
    Platform::export(Export::Trace, bytes);
}

/// Reads the trace in pieces, beside whatever is exported.
pub(crate) struct Reader(Box<Written>);

impl Reader {
    pub(crate) fn new() -> Self {
        Self(Box::new(Written::NOTHING))
    }

    /// Returns the records since the last call, as far as they are recorded. The last ones come
    /// with the trace's end, once tracing is off: the second part of the result says so.
    pub(crate) fn read(&mut self) -> (Vec<u8>, bool) {
        let state = if is_on() { State::Records } else { State::Stopped };
        let mut bytes = Vec::new();
        let mut sink = |record: &[u8]| bytes.extend_from_slice(record);
        let is_last = self.0.write_some(state, &mut sink).is_continue() && state == State::Stopped;
        if is_last {
            write_end(&mut sink);
        }
        (bytes, is_last)
    }
}
