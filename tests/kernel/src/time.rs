//! The clock and timers.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use kernel::call;
use kernel::cpu;
use kernel::lock::{InterruptGuard, SpinLock};
use kernel::time::{Deadline, Timer, cycles, now_ns, spin_until};

use crate::support::{LIMIT, Random, eventually, text};
use crate::{TestResult, ensure, tests};

tests![
    the_clock_never_goes_back,
    a_deadline_beyond_all_time_never_passes,
    timers_fire_in_order_and_not_early,
    a_cancelled_timer_never_fires,
    a_timer_can_be_set_again,
    a_cancelled_timer_is_not_running_elsewhere,
];

fn the_clock_never_goes_back() -> TestResult {
    let mut last = now_ns();
    for _ in 0..20_000 {
        let now = now_ns();
        ensure!(now >= last, "{now} after {last}");
        last = now;
    }
    Ok(())
}

fn a_deadline_beyond_all_time_never_passes() -> TestResult {
    let far = Deadline::at_ns(u64::MAX);
    ensure!(!far.has_passed() && far > Deadline::after(LIMIT), "it is after {} cycles", far.cycles());
    Ok(())
}

/// The deadline and the firing time of each timer, in cycles.
static FIRED: SpinLock<Vec<(u64, u64)>> = SpinLock::new(Vec::new());

fn timers_fire_in_order_and_not_early() -> TestResult {
    static DEADLINES: [AtomicU64; 200] = [const { AtomicU64::new(0) }; 200];
    FIRED.lock().clear();
    FIRED.lock().reserve(DEADLINES.len());
    let note = |deadline: &AtomicU64| FIRED.lock().push((deadline.load(Ordering::Relaxed), cycles()));
    let mut random = Random(7);
    let mut timers = Vec::new();
    for slot in &DEADLINES {
        let mut timer = Timer::new(slot, note).map_err(text)?;
        // If the machine stood still in here, a later timer could fire before this one is set.
        let interrupts = InterruptGuard::new();
        let deadline = Deadline::after(Duration::from_micros(2000 + random.next() % 20_000));
        slot.store(deadline.cycles(), Ordering::Relaxed);
        timer.set(deadline);
        drop(interrupts);
        timers.push(timer);
    }
    eventually("all timers fire", || FIRED.lock().len() == DEADLINES.len())?;
    let fired = FIRED.lock();
    for pair in fired.windows(2) {
        ensure!(pair[0].0 <= pair[1].0, "{} fired before {}", pair[0].0, pair[1].0);
    }
    let early = fired.iter().find(|(deadline, at)| at < deadline);
    ensure!(early.is_none(), "fired early: {early:?}");
    Ok(())
}

static COUNT: AtomicU64 = AtomicU64::new(0);

fn count(count: &AtomicU64) {
    count.fetch_add(1, Ordering::SeqCst);
}

/// Waits until this CPU's earlier timers, with deadlines up to 3 ms ahead, have fired: a timer with
/// a later deadline fires after them.
fn wait_for_timers_of_before() -> TestResult {
    static LATER: AtomicU64 = AtomicU64::new(0);
    LATER.store(0, Ordering::SeqCst);
    let mut later = Timer::new(&LATER, count).map_err(text)?;
    later.set(Deadline::after(Duration::from_millis(4)));
    eventually("a later timer fires", || LATER.load(Ordering::SeqCst) == 1)
}

fn a_cancelled_timer_never_fires() -> TestResult {
    COUNT.store(0, Ordering::SeqCst);
    let mut timer = Timer::new(&COUNT, count).map_err(text)?;
    for _ in 0..100 {
        // If the machine stood still in here, the timer could fire before it is cancelled.
        let interrupts = InterruptGuard::new();
        timer.set(Deadline::after(Duration::from_millis(3)));
        let was_set = timer.cancel();
        drop(interrupts);
        ensure!(was_set, "it was not set");
    }
    ensure!(!timer.cancel(), "it was set after being cancelled");
    let interrupts = InterruptGuard::new();
    timer.set(Deadline::after(Duration::from_millis(3)));
    drop(timer);
    drop(interrupts);
    wait_for_timers_of_before()?;
    ensure!(COUNT.load(Ordering::SeqCst) == 0, "it fired");
    Ok(())
}

fn a_timer_can_be_set_again() -> TestResult {
    COUNT.store(0, Ordering::SeqCst);
    let mut timer = Timer::new(&COUNT, count).map_err(text)?;
    // Setting a timer again replaces its deadline; interrupts are off, so the first cannot fire
    // before.
    let interrupts = InterruptGuard::new();
    timer.set(Deadline::after(Duration::from_micros(500)));
    timer.set(Deadline::after(Duration::from_micros(200)));
    drop(interrupts);
    eventually("it fires", || COUNT.load(Ordering::SeqCst) == 1)?;
    timer.set(Deadline::NOW);
    eventually("it fires at once", || COUNT.load(Ordering::SeqCst) == 2)?;
    wait_for_timers_of_before()?;
    ensure!(COUNT.load(Ordering::SeqCst) == 2, "a replaced deadline fired too");
    Ok(())
}

fn a_cancelled_timer_is_not_running_elsewhere() -> TestResult {
    const ROUNDS: u64 = 400;
    /// Set by the canceller; the function checks at its end whether it was set while it ran.
    static CANCELLED: AtomicU64 = AtomicU64::new(0);
    static RAN_TOO_LONG: AtomicU64 = AtomicU64::new(0);
    static RUNS: AtomicU64 = AtomicU64::new(0);
    static TIMER: SpinLock<Option<Timer>> = SpinLock::new(None);
    let function = |cancelled: &AtomicU64| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        spin_until(Duration::from_micros(100), || false);
        RAN_TOO_LONG.fetch_add(cancelled.load(Ordering::SeqCst), Ordering::SeqCst);
    };
    RUNS.store(0, Ordering::SeqCst);
    RAN_TOO_LONG.store(0, Ordering::SeqCst);
    *TIMER.lock() = Some(Timer::new(&CANCELLED, function).map_err(text)?);
    let mut random = Random(11);
    let mut prevented = 0;
    for round in 0..ROUNDS {
        CANCELLED.store(0, Ordering::SeqCst);
        let runs = RUNS.load(Ordering::SeqCst);
        let set = || {
            if let Some(timer) = TIMER.lock().as_mut() {
                timer.set(Deadline::after(Duration::from_micros(20)));
            }
        };
        call::on(cpu::limit() - 1, set, LIMIT).map_err(text)?;
        // Every second time while the function runs, otherwise at any moment.
        let limit = if round % 2 == 0 { LIMIT } else { Duration::from_micros(random.next() % 100) };
        spin_until(limit, || RUNS.load(Ordering::SeqCst) > runs);
        let cancelled = TIMER.lock().as_mut().is_some_and(Timer::cancel);
        CANCELLED.store(1, Ordering::SeqCst);
        let ran = RUNS.load(Ordering::SeqCst) - runs;
        ensure!(ran + u64::from(cancelled) == 1, "cancelled: {cancelled}, and it ran {ran} times");
        prevented += u64::from(cancelled);
        // Long enough for a function that still runs, in breach of the rule, to notice.
        spin_until(Duration::from_micros(150), || false);
    }
    *TIMER.lock() = None;
    let too_long = RAN_TOO_LONG.load(Ordering::SeqCst);
    ensure!(too_long == 0, "{too_long} of {ROUNDS} ran on after they were cancelled; {prevented} were prevented");
    Ok(())
}
