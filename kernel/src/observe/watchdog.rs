//! The watchdog: reports a CPU that takes no interrupts any more and a thread that never gives way
//! by itself, each once, with the backtraces of all CPUs.
//!
//! It is off by default, because a program that computes for minutes without giving way does
//! nothing wrong. When on, it interrupts every CPU that is not idle four times per limit. CPU 0
//! watches the other CPUs, CPU 1 watches CPU 0.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::MAX_CPUS;
use arch_contract::fault::Registers;
use arrayvec::ArrayString;

use crate::arch::*;
use crate::backtrace;
use crate::call;
use crate::cpu::{self, Cpu};
use crate::crash::state;
use crate::debug;
use crate::thread::{self, Builder, NAME_LIMIT, SpawnError};
use crate::time::{self, spin_until};

/// Minimum limit.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// Checks per limit.
const LOOKS: u64 = 4;
/// Voluntary switches between two checks that are no sign of life: the watchdog's own switch, which
/// may be seen before the watcher has counted it.
const OWN_SWITCHES: u64 = 1;
/// Time all CPUs have to report where they are.
const SAMPLE_LIMIT: Duration = Duration::from_secs(1);

/// The limit in ns, 0 while the watchdog is off.
static LIMIT: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicBool = AtomicBool::new(false);
/// Number of times the watchers on CPU 0 and CPU 1 have slept, by CPU.
static SLEPT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Where a CPU was when it was sampled, and the thread it ran.
struct Sample {
    instruction_pointer: AtomicUsize,
    stack_pointer: AtomicUsize,
    frame_pointer: AtomicUsize,
    thread: AtomicU64,
}

impl Sample {
    /// Returns the registers a backtrace needs.
    fn registers(&self) -> Registers {
        Registers {
            instruction_pointer: self.instruction_pointer.load(Ordering::Acquire),
            stack_pointer: self.stack_pointer.load(Ordering::Relaxed),
            frame_pointer: self.frame_pointer.load(Ordering::Relaxed),
            ..Registers::zero()
        }
    }
}

static SAMPLES: [Sample; MAX_CPUS] = [const {
    Sample {
        instruction_pointer: AtomicUsize::new(0),
        stack_pointer: AtomicUsize::new(0),
        frame_pointer: AtomicUsize::new(0),
        thread: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Records where this CPU is, whatever it was doing; the arch crate calls this from an NMI or its
/// equivalent. The instruction pointer is stored last: it marks the sample as complete.
pub(crate) fn sampled(registers: &Registers) {
    let place = &SAMPLES[cpu::this().index];
    place.thread.store(thread::try_running().map_or(0, thread::Thread::id), Ordering::Relaxed);
    place.stack_pointer.store(registers.stack_pointer, Ordering::Relaxed);
    place.frame_pointer.store(registers.frame_pointer, Ordering::Relaxed);
    place.instruction_pointer.store(registers.instruction_pointer, Ordering::Release);
    #[cfg(feature = "faults")]
    faults::run_hook();
}

/// Hooks for tests in the NMI handler.
#[cfg(feature = "faults")]
pub mod faults {
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Address of a `fn()`, 0 for none. It is not behind a lock, because all CPUs may be in the
    /// handler at once.
    static HOOK: AtomicUsize = AtomicUsize::new(0);

    /// Sets the function that each sampling handler calls.
    pub fn on_samples(hook: Option<fn()>) {
        HOOK.store(hook.map_or(0, |hook| hook as usize), Ordering::SeqCst);
    }

    pub(super) fn run_hook() {
        let hook = HOOK.load(Ordering::SeqCst);
        if hook != 0 {
            // SAFETY: the word is nonzero, and `on_samples` stores only addresses of a `fn()`.
            unsafe { core::mem::transmute::<usize, fn()>(hook)() };
        }
    }
}

/// Starts watching: reports a CPU or thread that hangs for longer than `limit`.
///
/// # Errors
/// [`SpawnError`] for the watching threads.
pub fn start(limit: Duration) -> Result<(), SpawnError> {
    let nanoseconds = u64::try_from(limit.max(SHORTEST).as_nanos()).unwrap_or(u64::MAX);
    LIMIT.store(nanoseconds, Ordering::SeqCst);
    if STARTED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    for watcher in cpu::all().take(2) {
        let index = watcher.index;
        match Builder::new("watchdog").cpu(index).spawn(move || watch_from(index)) {
            Ok(handle) => handle.detach(),
            Err(error) => {
                // The first watcher may exist already; a limit of 0 makes it idle. The next start
                // tries again.
                LIMIT.store(0, Ordering::SeqCst);
                STARTED.store(false, Ordering::SeqCst);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Stops watching.
pub fn stop() {
    LIMIT.store(0, Ordering::SeqCst);
}

/// Returns the limit; `None` while the watchdog is off.
pub fn limit() -> Option<Duration> {
    match LIMIT.load(Ordering::SeqCst) {
        0 => None,
        nanoseconds => Some(Duration::from_nanos(nanoseconds)),
    }
}

/// What the watcher knows of a CPU.
#[derive(Clone, Copy)]
struct Watched {
    /// Switches that were not preemptions.
    voluntary: u64,
    /// Cycles spent in the idle thread.
    idle: u64,
    /// Last time a voluntary switch or idle time was seen, in ns.
    gave_way_at: u64,
    /// Last time the CPU answered, in ns.
    answered_at: u64,
    /// Number of debugger stops at the last check.
    stops: u64,
    reported: bool,
}

/// Returns the number of switches that were neither preemptions nor a watcher going to sleep.
fn voluntary_switches(cpu: &Cpu) -> u64 {
    let slept = SLEPT.get(cpu.index).map_or(0, |slept| slept.load(Ordering::Relaxed));
    cpu.counters.switches.read().saturating_sub(cpu.counters.preemptions.read() + slept)
}

/// Main loop of a watcher.
fn watch_from(index: usize) {
    let is_mine = |cpu: &Cpu| if index == 0 { cpu.index != 0 || cpu::count() == 1 } else { cpu.index == 0 };
    let mut watched = [Watched::of_now(); MAX_CPUS];
    loop {
        let limit = LIMIT.load(Ordering::SeqCst);
        let pause = if limit == 0 { Duration::from_secs(1) } else { Duration::from_nanos(limit / LOOKS) };
        thread::sleep(pause);
        SLEPT[index].fetch_add(1, Ordering::Relaxed);
        for cpu in cpu::all().filter(|cpu| is_mine(cpu)) {
            let state = &mut watched[cpu.index];
            if limit == 0 || cpu.attention.is_idle() {
                *state = Watched::of_now();
            } else if state.stops != debug::stops() {
                // The debugger stopped the CPU, so the time it lost is not its own.
                *state = Watched { voluntary: voluntary_switches(cpu), reported: state.reported, ..Watched::of_now() };
                state.idle = cpu.counters.idle_cycles.read();
            } else {
                look(cpu, state, limit, pause);
            }
        }
    }
}

impl Watched {
    fn of_now() -> Self {
        let now = time::now_ns();
        Self { voluntary: 0, idle: 0, gave_way_at: now, answered_at: now, stops: debug::stops(), reported: false }
    }
}

fn look(cpu: &'static Cpu, state: &mut Watched, limit: u64, patience: Duration) {
    let answers = call::on(cpu.index, || (), patience.min(Duration::from_millis(250))).is_ok();
    let now = time::now_ns();
    if answers {
        state.answered_at = now;
    }
    let voluntary = voluntary_switches(cpu);
    let idle = cpu.counters.idle_cycles.read();
    if voluntary.saturating_sub(state.voluntary) > OWN_SWITCHES || idle != state.idle {
        (state.gave_way_at, state.reported) = (now, false);
    }
    (state.voluntary, state.idle) = (voluntary, idle);
    if state.reported {
        return;
    }
    let (deaf_for, busy_for) = (now - state.answered_at, now - state.gave_way_at);
    if deaf_for >= limit {
        state.reported = true;
        report(cpu, format_args!("takes no interrupts for {} ms", deaf_for / 1_000_000));
    } else if busy_for >= limit {
        state.reported = true;
        report(cpu, format_args!("has run without giving way for {} ms", busy_for / 1_000_000));
    }
}

fn report(cpu: &Cpu, what: core::fmt::Arguments<'_>) {
    let others = || cpu::all().filter(|cpu| !cpu.is_this());
    SAMPLES.iter().for_each(|sample| sample.instruction_pointer.store(0, Ordering::Relaxed));
    Ipi::sample_others();
    let has_answered = |cpu: &Cpu| SAMPLES[cpu.index].instruction_pointer.load(Ordering::Acquire) != 0;
    spin_until(SAMPLE_LIMIT, || others().all(has_answered));
    let running = SAMPLES[cpu.index].thread.load(Ordering::Relaxed);
    let name = name_of(running).unwrap_or_default();
    log::warn!("watchdog: CPU {}, thread {running} \"{name}\" {what}", cpu.index);
    for cpu in others() {
        let sample = &SAMPLES[cpu.index];
        match sample.instruction_pointer.load(Ordering::Acquire) {
            0 => crate::println!("CPU {} does not say where it is", cpu.index),
            _ => {
                crate::println!("CPU {} is at:", cpu.index);
                backtrace::print(&sample.registers());
            }
        }
    }
    if state::halts_after_crash() {
        debug::stop_for_watchdog();
    }
}

fn name_of(id: u64) -> Option<ArrayString<NAME_LIMIT>> {
    cpu::all().find_map(|cpu| {
        // A CPU that hangs may hold the lock of its registry.
        let registry = cpu.registry.try_lock()?;
        let thread = registry.iter().find(|thread| thread.id() == id)?;
        ArrayString::from(thread.name()).ok()
    })
}
