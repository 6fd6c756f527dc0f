//! Threads: creation, exit, switches, migration.

use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use report::Counter;

use crate::system::{check, check_code, cpu_set, pin};
use crate::{Benchmark, Error, Outcome, benchmark, cycles, repeat, samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("pthread_create", 1, create),
    benchmark("pthread_first_cold", 1, |counter| first_instruction(counter, Some(COLD_STACK))),
    benchmark("pthread_first", 1, |counter| first_instruction(counter, None)),
    benchmark("pthread_create_join", 1, |counter| create_join(counter, None)),
    benchmark("pthread_create_join_remote", 2, |counter| create_join(counter, Some(1))),
    benchmark("pthread_exit", 1, exit),
    benchmark("sched_yield_switch", 1, switch),
    benchmark("sched_yield_alone", 1, |counter| {
        // SAFETY: the call takes no arguments and touches no memory of ours.
        repeat(counter, || unsafe { libc::sched_yield() }, |result| result == 0)
    }),
    benchmark("sched_setaffinity_round_trip", 2, migrate),
    benchmark("swapcontext", 1, swap_context),
    benchmark("makecontext_run", 1, make_context),
];

/// Larger than glibc's cache of dead threads' stacks (40 MiB), so that the stack is mapped anew
/// each time.
const COLD_STACK: usize = 64 << 20;

type Body = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;

/// A thread's attributes, if any.
struct Attributes(Option<Box<libc::pthread_attr_t>>);

impl Attributes {
    fn new(stack: Option<usize>, cpu: Option<usize>) -> Result<Self, Error> {
        if stack.is_none() && cpu.is_none() {
            return Ok(Self(None));
        }
        // SAFETY: `pthread_attr_t` is plain memory, for which zeros are valid.
        let mut attributes: Box<libc::pthread_attr_t> = Box::new(unsafe { mem::zeroed() });
        let at = &raw mut *attributes;
        // SAFETY: the attributes are initialised before they are changed, and the call copies the
        // set.
        unsafe {
            check_code(libc::pthread_attr_init(at))?;
            if let Some(stack) = stack {
                check_code(libc::pthread_attr_setstacksize(at, stack))?;
            }
            if let Some(cpu) = cpu {
                let set = cpu_set(cpu);
                check_code(libc::pthread_attr_setaffinity_np(at, size_of_val(&set), &raw const set))?;
            }
        }
        Ok(Self(Some(attributes)))
    }

    fn start(&self, body: Body) -> Result<libc::pthread_t, Error> {
        let mut thread = 0;
        let attributes = self.0.as_ref().map_or(ptr::null(), |attributes| &raw const **attributes);
        // SAFETY: the attributes are initialised or null, and the bodies ignore their argument.
        check_code(unsafe { libc::pthread_create(&raw mut thread, attributes, body, ptr::null_mut()) })?;
        Ok(thread)
    }
}

/// Joins a thread and returns the number it returned.
fn join(thread: libc::pthread_t) -> Result<u64, Error> {
    let mut result = ptr::null_mut();
    // SAFETY: the caller passes a joinable thread and joins it only once.
    check_code(unsafe { libc::pthread_join(thread, &raw mut result) })?;
    Ok(result as u64)
}

extern "C" fn count(_: *mut libc::c_void) -> *mut libc::c_void {
    RAN.fetch_add(1, Ordering::Relaxed);
    ptr::null_mut()
}

extern "C" fn say_when(_: *mut libc::c_void) -> *mut libc::c_void {
    cycles() as *mut libc::c_void
}

static RAN: AtomicUsize = AtomicUsize::new(0);

fn create(counter: Counter) -> Outcome {
    let attributes = Attributes::new(None, None)?;
    RAN.store(0, Ordering::Relaxed);
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        let thread = attributes.start(count);
        samples.add(start, cycles());
        join(thread?)?;
    }
    if RAN.load(Ordering::Relaxed) == samples.rounds() { Ok(samples) } else { Err("a thread did not run".into()) }
}

fn first_instruction(counter: Counter, stack: Option<usize>) -> Outcome {
    let attributes = Attributes::new(stack, None)?;
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        let thread = attributes.start(say_when)?;
        samples.add(start, join(thread)?);
    }
    Ok(samples)
}

fn create_join(counter: Counter, cpu: Option<usize>) -> Outcome {
    let attributes = Attributes::new(None, cpu)?;
    RAN.store(0, Ordering::Relaxed);
    let samples = repeat(counter, || attributes.start(count).and_then(join), |result| result.is_ok())?;
    if RAN.load(Ordering::Relaxed) == samples.rounds() { Ok(samples) } else { Err("a thread did not run".into()) }
}

fn exit(counter: Counter) -> Outcome {
    let attributes = Attributes::new(None, None)?;
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let thread = attributes.start(say_when)?;
        let last = join(thread)?;
        samples.add(last, cycles());
    }
    Ok(samples)
}

fn switch(counter: Counter) -> Outcome {
    static LEFT_AT: AtomicU64 = AtomicU64::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    extern "C" fn partner(_: *mut libc::c_void) -> *mut libc::c_void {
        let mut switches = 0usize;
        while !STOP.load(Ordering::Relaxed) {
            LEFT_AT.store(cycles(), Ordering::Relaxed);
            // SAFETY: the call takes no arguments and touches no memory of ours.
            unsafe { libc::sched_yield() };
            switches += 1;
        }
        switches as *mut libc::c_void
    }
    let partner = Attributes::new(None, None)?.start(partner)?;
    // SAFETY: the call takes no arguments and touches no memory of ours.
    unsafe { libc::sched_yield() };
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        // SAFETY: the call takes no arguments and touches no memory of ours.
        unsafe { libc::sched_yield() };
        let now = cycles();
        samples.add(LEFT_AT.load(Ordering::Relaxed), now);
    }
    STOP.store(true, Ordering::Relaxed);
    let switches = join(partner)?;
    if switches > samples.rounds() as u64 { Ok(samples) } else { Err("switches did not happen".into()) }
}

fn migrate(counter: Counter) -> Outcome {
    let sets = [cpu_set(1), cpu_set(0)];
    // SAFETY: the sets live through the calls, and their size is passed along.
    let go = |set: &libc::cpu_set_t| unsafe { libc::sched_setaffinity(0, size_of_val(set), set) };
    let samples = repeat(
        counter,
        // SAFETY: the call takes no arguments and touches no memory of ours.
        || (go(&sets[0]), unsafe { libc::sched_getcpu() }, go(&sets[1])),
        |result| result == (0, 1, 0),
    );
    pin(0)?;
    check(0)?;
    samples
}

const CONTEXT_STACK: usize = 64 << 10;

static mut MAIN: mem::MaybeUninit<libc::ucontext_t> = mem::MaybeUninit::uninit();
static mut OTHER: mem::MaybeUninit<libc::ucontext_t> = mem::MaybeUninit::uninit();
static CONTEXT_LEFT_AT: AtomicU64 = AtomicU64::new(0);

extern "C" fn take_turns() {
    loop {
        CONTEXT_LEFT_AT.store(cycles(), Ordering::Relaxed);
        // SAFETY: both contexts were initialised by `getcontext`, and only one thread uses them.
        unsafe { libc::swapcontext((&raw mut OTHER).cast(), (&raw const MAIN).cast()) };
    }
}

extern "C" fn run_once() {
    CONTEXT_LEFT_AT.fetch_add(1, Ordering::Relaxed);
}

/// Makes `OTHER` a context that begins with `body` on `stack` and ends in `MAIN`.
///
/// # Safety
/// No context runs on `stack`, and `stack` lives until the new context has run for the last time.
unsafe fn make(body: extern "C" fn(), stack: &mut [u8]) {
    // SAFETY: `getcontext` initialises the whole context, and the caller guarantees that the stack
    // is free and lives long enough.
    unsafe {
        let other: *mut libc::ucontext_t = (&raw mut OTHER).cast();
        libc::getcontext(other);
        (*other).uc_stack.ss_sp = stack.as_mut_ptr().cast();
        (*other).uc_stack.ss_size = stack.len();
        (*other).uc_link = (&raw mut MAIN).cast();
        libc::makecontext(other, body, 0);
    }
}

fn swap_context(counter: Counter) -> Outcome {
    let mut stack = vec![0u8; CONTEXT_STACK];
    // SAFETY: the stack is new and lives until this function ends, after which nothing resumes the
    // context.
    unsafe { make(take_turns, &mut stack) };
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        // SAFETY: `make` has initialised `OTHER`, `swapcontext` saves to `MAIN`, and only one
        // thread uses the two.
        unsafe { libc::swapcontext((&raw mut MAIN).cast(), (&raw const OTHER).cast()) };
        let now = cycles();
        samples.add(CONTEXT_LEFT_AT.load(Ordering::Relaxed), now);
    }
    Ok(samples)
}

fn make_context(counter: Counter) -> Outcome {
    let mut stack = vec![0u8; CONTEXT_STACK];
    CONTEXT_LEFT_AT.store(0, Ordering::Relaxed);
    let run = || {
        // SAFETY: the context on this stack ends in `MAIN` before `swapcontext` returns, so the
        // stack is free for the next round.
        unsafe {
            make(run_once, &mut stack);
            libc::swapcontext((&raw mut MAIN).cast(), (&raw const OTHER).cast())
        }
    };
    let samples = repeat(counter, run, |result| result == 0)?;
    let ran = CONTEXT_LEFT_AT.load(Ordering::Relaxed);
    if ran == samples.rounds() as u64 { Ok(samples) } else { Err("a context did not run".into()) }
}
