//! Edge cases of the programs' interface: CPUs that do not answer, exhausted memory, and objects
//! still in use when a program ends.
//!
//! The programs here are functions of this image; they call the interface as a separate image
//! would.

use alloc::format;
use alloc::string::String;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use abi::{ANY, BUSY, INVALID, NEVER, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::memory::faults::with_failing;
use kernel::memory::stack::{self, Keep};
use kernel::program::Outcome;
use kernel::time::{Deadline, now_ns, spin_until};
use kernel::{call, cpu, memory, thread};

use crate::program::api::*;
use crate::program::{check, end, start, succeed};
use crate::support::{LIMIT, eventually, join, text};
use crate::{TestResult, ensure, misuse, program_memory, tests};

tests![
    a_program_ends_only_when_its_calls_have_run,
    a_program_ends_only_when_its_handlers_have_returned,
    a_timer_goes_only_when_its_function_has_returned,
    a_timer_is_not_destroyed_by_its_own_function,
    what_an_ended_thread_lent_stays_until_the_program_ends,
    every_object_fails_at_every_allocation_and_nothing_has_happened,
    every_operation_fails_at_every_allocation_and_nothing_has_happened,
    a_program_ends_while_it_joins,
    many_objects_and_blocks_end_at_once,
    a_blocking_call_in_a_handler_ends_the_program,
    tasks_may_queue_tasks_until_their_pool_has_gone,
    nothing_is_left_of_any_program,
];

pub(crate) static RELEASED: AtomicBool = AtomicBool::new(false);
pub(crate) static STARTED: AtomicU32 = AtomicU32::new(0);
pub(crate) static RAN: AtomicU32 = AtomicU32::new(0);

pub(crate) fn reset() {
    RELEASED.store(false, Ordering::SeqCst);
    STARTED.store(0, Ordering::SeqCst);
    RAN.store(0, Ordering::SeqCst);
}

unsafe extern "C" fn hold(_: *mut u8) {
    STARTED.fetch_add(1, Ordering::SeqCst);
    spin_until(LIMIT, || RELEASED.load(Ordering::SeqCst));
    RAN.fetch_add(1, Ordering::SeqCst);
}

pub(crate) unsafe extern "C" fn note(_: *mut u8) {
    RAN.fetch_add(1, Ordering::SeqCst);
}

/// Checks that a program that has ended is not given back while a CPU is still in one of its
/// functions.
fn kept_until_released(body: fn() -> i32, then_ran: u32) -> TestResult {
    reset();
    let program = start(body)?;
    eventually("the program's function returns", || program.outcome().is_some())?;
    let early = program.wait_until(Deadline::after(Duration::from_millis(300)));
    RELEASED.store(true, Ordering::SeqCst);
    ensure!(early.is_err(), "the program was given back while a CPU was in its function");
    let outcome = end(&program)?;
    ensure!(outcome == Outcome::Exited(0), "the program {outcome}");
    let ran = RAN.load(Ordering::SeqCst);
    ensure!(ran == then_ran, "{ran} of its functions ran instead of {then_ran}");
    Ok(())
}

fn a_program_ends_only_when_its_calls_have_run() -> TestResult {
    if cpu::count() == 1 {
        return Ok(());
    }
    let body = || {
        // SAFETY: both functions belong to this image and ignore their argument.
        let (first, second) =
            unsafe { (aero_cpu_call(1, Some(hold), ptr::null_mut()), aero_cpu_call(1, Some(note), ptr::null_mut())) };
        check!(first == TIMED_OUT && second == TIMED_OUT);
        0
    };
    kept_until_released(body, 2)
}

fn a_program_ends_only_when_its_handlers_have_returned() -> TestResult {
    if cpu::count() == 1 {
        return Ok(());
    }
    let body = || {
        let mut interrupt = ptr::null_mut();
        // SAFETY: the function belongs to this image, and the handle's place is a live local.
        unsafe {
            check!(aero_interrupt_register(Some(hold), ptr::null_mut(), &raw mut interrupt) == OK);
            check!(aero_interrupt_send(interrupt, 1) == OK);
            check!(spin_until(LIMIT, || STARTED.load(Ordering::SeqCst) == 1));
            check!(aero_interrupt_unregister(interrupt) == TIMED_OUT);
            // The function was called before and is not called any more.
            check!(aero_interrupt_send(interrupt, 0) == OK);
        }
        0
    };
    kept_until_released(body, 1)
}

fn a_timer_goes_only_when_its_function_has_returned() -> TestResult {
    if cpu::count() == 1 {
        return Ok(());
    }
    let body = || {
        static TIMER: AtomicPtr<abi::Timer> = AtomicPtr::new(ptr::null_mut());
        unsafe extern "C" fn set(_: *mut u8) {
            // SAFETY: the handle was stored before the call, and any handle may be passed.
            unsafe { aero_timer_set(TIMER.load(Ordering::SeqCst), 0) };
        }
        let mut timer = ptr::null_mut();
        // SAFETY: the functions belong to this image, and the handle's place is a live local.
        unsafe {
            check!(aero_timer_create(Some(hold), ptr::null_mut(), &raw mut timer) == OK);
            TIMER.store(timer, Ordering::SeqCst);
            check!(aero_cpu_call(1, Some(set), ptr::null_mut()) == OK);
            check!(spin_until(LIMIT, || STARTED.load(Ordering::SeqCst) == 1));
            check!(aero_timer_cancel(timer) == TIMED_OUT);
            check!(aero_timer_destroy(timer) == TIMED_OUT);
        }
        0
    };
    kept_until_released(body, 1)
}

fn a_timer_is_not_destroyed_by_its_own_function() -> TestResult {
    reset();
    succeed(|| {
        static TIMER: AtomicPtr<abi::Timer> = AtomicPtr::new(ptr::null_mut());
        unsafe extern "C" fn destroy(_: *mut u8) {
            // SAFETY: the handle was stored before the timer was set, and any handle may be passed.
            let status = unsafe { aero_timer_destroy(TIMER.load(Ordering::SeqCst)) };
            STARTED.store(status as u32, Ordering::SeqCst);
        }
        let mut timer = ptr::null_mut();
        // SAFETY: the function belongs to this image, and the handle's place is a live local.
        unsafe {
            check!(aero_timer_create(Some(destroy), ptr::null_mut(), &raw mut timer) == OK);
            TIMER.store(timer, Ordering::SeqCst);
            // Late enough for this call to have left the timer, which is also busy until then.
            check!(aero_timer_set(timer, now_ns() + 5_000_000) == OK);
            check!(spin_until(LIMIT, || STARTED.load(Ordering::SeqCst) != 0));
            check!(STARTED.load(Ordering::SeqCst) as Status == BUSY);
            check!(aero_timer_destroy(timer) == OK);
        }
        0
    })
}

fn what_an_ended_thread_lent_stays_until_the_program_ends() -> TestResult {
    static LENT: AtomicUsize = AtomicUsize::new(0);
    reset();
    LENT.store(0, Ordering::SeqCst);
    let program = start(|| {
        // SAFETY: the function belongs to this image, and all pointers may be null.
        let spawned = unsafe { aero_thread_spawn(ptr::null(), Some(hold), ptr::null_mut(), ptr::null_mut()) };
        check!(spawned == OK && spin_until(LIMIT, || STARTED.load(Ordering::SeqCst) == 1));
        let lent = 0u64;
        LENT.store(&raw const lent as usize, Ordering::SeqCst);
        // SAFETY: the other thread never dereferences the address lent to it.
        unsafe { aero_exit(0) }
    })?;
    eventually("the program exits", || program.outcome().is_some())?;
    let lent = LENT.load(Ordering::SeqCst);
    let on_it = move || {
        let stack = thread::current().stack();
        (stack.bottom()..stack.top()).contains(&lent)
    };
    let mut reused = false;
    for cpu in cpu::all() {
        for _ in 0..2 {
            reused |= join(thread::Builder::new("next").cpu(cpu.index).spawn(on_it).map_err(text)?)?;
        }
    }
    RELEASED.store(true, Ordering::SeqCst);
    let outcome = end(&program)?;
    ensure!(!reused, "a stack was used again while threads of its thread's program ran");
    ensure!(outcome == Outcome::Exited(0), "the program {outcome}");
    Ok(())
}

/// Calls `function` repeatedly, each time with another allocation failing, until none is left to
/// fail.
fn sweep(function: impl Fn() -> (Status, bool)) -> Result<u64, i32> {
    for failing in 0..1000 {
        let ((status, has_happened), allocations) = with_failing(failing, &function);
        if allocations <= failing {
            return if status == OK { Ok(failing) } else { Err(status - 10_000) };
        }
        // Some functions succeed in another way.
        if status == OK {
            continue;
        }
        if status != OUT_OF_MEMORY {
            return Err(status - 20_000);
        }
        for _ in 0..3 {
            // SAFETY: neither function has conditions; any thread of a program may call them.
            unsafe {
                aero_thread_yield();
                aero_fiber_yield();
            }
        }
        if has_happened || RAN.load(Ordering::SeqCst) != 0 {
            return Err(failing as i32 - 30_000);
        }
    }
    Err(-40_000)
}

/// Runs [`sweep`] on a function that creates an object, which `destroy` destroys through its
/// handle.
fn sweep_maker<H>(make: unsafe fn(*mut *mut H) -> Status, destroy: unsafe fn(*mut H) -> Status) -> Result<u64, i32> {
    sweep(|| {
        let mut handle = ptr::null_mut();
        // SAFETY: the handle's place is a local that lives through the call.
        let status = unsafe { make(&raw mut handle) };
        if status == OK {
            RAN.store(0, Ordering::SeqCst);
            // SAFETY: the handle was just created and is not used again.
            let destroyed = unsafe { destroy(handle) };
            RAN.store(0, Ordering::SeqCst);
            return (destroyed, false);
        }
        (status, !handle.is_null())
    })
}

/// Ends with the error as the status unless a sweep met at least the expected number of
/// allocations.
macro_rules! swept {
    ($sweep:expr) => {
        match $sweep {
            Ok(_) => (),
            Err(reason) => return reason - line!() as i32 * 100_000,
        }
    };
    ($sweep:expr, $least:expr) => {
        match $sweep {
            Ok(allocations) if allocations >= $least => (),
            Ok(_) => return line!() as i32,
            Err(reason) => return reason - line!() as i32 * 100_000,
        }
    };
}

fn every_object_fails_at_every_allocation_and_nothing_has_happened() -> TestResult {
    reset();
    succeed(|| {
        unsafe fn spawn(at: *mut *mut abi::Thread) -> Status {
            // SAFETY: the function belongs to this image, and the caller provides the handle's
            // place.
            unsafe { aero_thread_spawn(ptr::null(), Some(note), ptr::null_mut(), at) }
        }
        unsafe fn join(handle: *mut abi::Thread) -> Status {
            // SAFETY: the caller passes a handle that it does not use again.
            unsafe { aero_thread_join(handle, NEVER) }
        }
        unsafe fn big_thread(at: *mut *mut abi::Thread) -> Status {
            let options =
                abi::ThreadOptions { name: ptr::null(), name_length: 0, cpu: ANY, stack_size: 2 * stack::DEFAULT_SIZE };
            // SAFETY: the options live through the call, and the function belongs to this image.
            unsafe { aero_thread_spawn(&raw const options, Some(note), ptr::null_mut(), at) }
        }
        unsafe fn message_queue(at: *mut *mut abi::MessageQueue) -> Status {
            // SAFETY: the caller provides a place for the handle.
            unsafe { aero_message_queue_create(1000, at) }
        }
        unsafe fn timer(at: *mut *mut abi::Timer) -> Status {
            // SAFETY: the function belongs to this image, and the caller provides the handle's
            // place.
            unsafe { aero_timer_create(Some(note), ptr::null_mut(), at) }
        }
        unsafe fn interrupt(at: *mut *mut abi::Interrupt) -> Status {
            // SAFETY: the function belongs to this image, and the caller provides the handle's
            // place.
            unsafe { aero_interrupt_register(Some(note), ptr::null_mut(), at) }
        }
        unsafe fn small_fiber(at: *mut *mut abi::Fiber) -> Status {
            // SAFETY: the function belongs to this image, and the caller provides the handle's
            // place.
            unsafe { aero_fiber_create(Some(note), ptr::null_mut(), 0, at) }
        }
        unsafe fn big_fiber(at: *mut *mut abi::Fiber) -> Status {
            // SAFETY: the function belongs to this image, and the caller provides the handle's
            // place.
            unsafe { aero_fiber_create(Some(note), ptr::null_mut(), 2 * stack::DEFAULT_SIZE, at) }
        }
        unsafe fn collective(at: *mut *mut abi::Collective) -> Status {
            // SAFETY: the caller provides a place for the handle, which outlives the call.
            unsafe { aero_collective_create(5, at) }
        }
        swept!(sweep_maker(spawn, join), 1);
        thread::empty_stock();
        swept!(sweep_maker(big_thread, join), 2);
        swept!(sweep_maker(message_queue, aero_message_queue_destroy), 1);
        swept!(sweep_maker(timer, aero_timer_destroy), 3);
        swept!(sweep_maker(interrupt, aero_interrupt_unregister), 2);
        swept!(sweep_maker(small_fiber, aero_fiber_join), 1);
        swept!(sweep_maker(big_fiber, aero_fiber_join), 1);
        swept!(sweep_maker(collective, aero_collective_destroy), 1);
        swept!(sweep_maker(aero_pool_create, aero_pool_destroy), 1);
        0
    })
}

pub(crate) unsafe extern "C" fn wait_for_ever(_: *mut u8) {
    // SAFETY: the call has no conditions; any thread of a program may sleep.
    unsafe { aero_thread_sleep(NEVER) };
}

fn a_program_ends_while_it_joins() -> TestResult {
    unsafe extern "C" fn for_ever(_: *mut u8) {
        loop {
            STARTED.fetch_add(1, Ordering::SeqCst);
            // SAFETY: the call has no conditions; any thread of a program may yield.
            unsafe { aero_fiber_yield() };
        }
    }
    let fiber = || {
        let mut fiber = ptr::null_mut();
        // SAFETY: the function belongs to this image, and the handle's place is a live local.
        unsafe {
            check!(aero_fiber_create(Some(for_ever), ptr::null_mut(), 0, &raw mut fiber) == OK);
            aero_fiber_join(fiber)
        }
    };
    let thread = || {
        let mut thread = ptr::null_mut();
        // SAFETY: the function belongs to this image, and the handle's place is a live local.
        unsafe {
            check!(aero_thread_spawn(ptr::null(), Some(wait_for_ever), ptr::null_mut(), &raw mut thread) == OK);
            STARTED.store(1, Ordering::SeqCst);
            aero_thread_join(thread, NEVER)
        }
    };
    for body in [fiber, thread] {
        reset();
        let program = start(body)?;
        eventually("it runs", || STARTED.load(Ordering::SeqCst) > 0)?;
        program.end(Outcome::Killed);
        let outcome = end(&program)?;
        ensure!(outcome == Outcome::Killed, "the program {outcome}");
    }
    Ok(())
}

fn many_objects_and_blocks_end_at_once() -> TestResult {
    succeed(|| {
        for _ in 0..5000 {
            let mut queue = ptr::null_mut();
            // SAFETY: the handle's place is a local that lives through the call.
            check!(unsafe { aero_message_queue_create(1, &raw mut queue) } == OK);
            for _ in 0..40 {
                // SAFETY: any size may be requested, and the block is not used.
                check!(!unsafe { aero_allocate(32, 16, ANY) }.is_null());
            }
        }
        0
    })
}

fn every_operation_fails_at_every_allocation_and_nothing_has_happened() -> TestResult {
    reset();
    succeed(|| {
        for size in [1, 100, 5000, 20_000, 1 << 20] {
            // SAFETY: any size may be requested, and the block is freed at once without being used.
            let allocate = || unsafe {
                let block = aero_allocate(size, 16, ANY);
                aero_free(block);
                (if block.is_null() { OUT_OF_MEMORY } else { OK }, false)
            };
            swept!(sweep(allocate), 1);
        }
        let call = || {
            // SAFETY: the function belongs to this image and ignores its argument.
            let status = unsafe { aero_cpu_call(cpu::limit() as u32 - 1, Some(note), ptr::null_mut()) };
            let ran = RAN.swap(0, Ordering::SeqCst);
            (status, status != OK && ran != 0)
        };
        swept!(sweep(call));
        let mut pool = ptr::null_mut();
        // SAFETY: the handle's place is a local that lives through the call.
        check!(unsafe { aero_pool_create(&raw mut pool) } == OK);
        let queue = || {
            let options = abi::TaskOptions { cpu: cpu::limit() as u32 - 1, priority: 1, pinned: 1 };
            // SAFETY: the pool is alive, the options live through the call, and the function
            // belongs to this image.
            let status = unsafe { aero_pool_queue(pool, &raw const options, Some(note), ptr::null_mut()) };
            if status == OK {
                eventually("the task runs", || RAN.swap(0, Ordering::SeqCst) == 1).map_or((1, true), |()| (OK, false))
            } else {
                (status, false)
            }
        };
        swept!(sweep(queue));
        // SAFETY: the pool was created above and is not used after this.
        check!(unsafe { aero_pool_destroy(pool) } == OK);
        0
    })
}

fn a_blocking_call_in_a_handler_ends_the_program() -> TestResult {
    static STATUS: AtomicU32 = AtomicU32::new(0);
    static EVENT: abi::Event = abi::Event::uninit();
    let program = start(|| {
        unsafe extern "C" fn block(_: *mut u8) {
            // SAFETY: the event is a static that was initialised before the timer was set.
            let status = unsafe { aero_event_wait(&raw const EVENT, NEVER) };
            STATUS.store(status as u32, Ordering::SeqCst);
        }
        let mut timer = ptr::null_mut();
        // SAFETY: the function belongs to this image, the handle's place is a live local, and only
        // this program uses the event.
        unsafe {
            check!(aero_event_init((&raw const EVENT).cast_mut()) == OK);
            check!(aero_timer_create(Some(block), ptr::null_mut(), &raw mut timer) == OK);
            check!(aero_timer_set(timer, 0) == OK);
            aero_thread_sleep(NEVER);
        }
        line!() as i32
    })?;
    let outcome = end(&program)?;
    ensure!(
        STATUS.load(Ordering::SeqCst) as i32 == INVALID,
        "the call returned {}",
        STATUS.load(Ordering::SeqCst) as i32
    );
    match outcome {
        Outcome::Failed(reason) => {
            ensure!(reason.contains("a blocking call in an interrupt handler"), "it failed, but: {reason}");
            Ok(())
        }
        outcome => Err(format!("the program {outcome}")),
    }
}

fn tasks_may_queue_tasks_until_their_pool_has_gone() -> TestResult {
    static POOL: AtomicPtr<abi::Pool> = AtomicPtr::new(ptr::null_mut());
    reset();
    succeed(|| {
        unsafe extern "C" fn queue_another(left: *mut u8) {
            RAN.fetch_add(1, Ordering::SeqCst);
            // Long enough for the pool's destruction to have begun.
            spin_until(Duration::from_millis(1), || false);
            if left as usize > 0 {
                let (pool, left) = (POOL.load(Ordering::SeqCst), (left as usize - 1) as *mut u8);
                // SAFETY: any handle may be passed, and the function belongs to this image.
                if unsafe { aero_pool_queue(pool, ptr::null(), Some(queue_another), left) } != OK {
                    STARTED.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        let mut pool = ptr::null_mut();
        // SAFETY: the handle's place is a live local, and the function belongs to this image.
        unsafe {
            check!(aero_pool_create(&raw mut pool) == OK);
            POOL.store(pool, Ordering::SeqCst);
            check!(aero_pool_queue(pool, ptr::null(), Some(queue_another), 20 as *mut u8) == OK);
            check!(aero_pool_destroy(pool) == OK);
        }
        check!(STARTED.load(Ordering::SeqCst) == 0 && RAN.load(Ordering::SeqCst) == 21);
        0
    })
}

/// Returns the bytes that are allocated once nothing is kept for reuse.
fn allocated() -> Result<u64, String> {
    call::on_all(thread::empty_stock, LIMIT).map_err(text)?;
    stack::reclaim(Keep::None);
    call::on_all(memory::flush_this_cpus_caches, LIMIT).map_err(text)?;
    Ok(memory::total_bytes() - memory::free_bytes())
}

fn nothing_is_left_of_any_program() -> TestResult {
    let others = || tests_of_programs().filter(|(name, _)| !name.contains("nothing_is_left"));
    for (name, run) in others() {
        // The first run fills what is kept for good.
        run()?;
        let (before, stacks) = (allocated()?, stack::usage().0);
        run()?;
        // The supervisor thread ends only after it has reported the program's end.
        let deadline = Deadline::after(LIMIT);
        while (allocated()?, stack::usage().0) != (before, stacks) {
            if deadline.has_passed() {
                let (after, stacks_after) = (allocated()?, stack::usage().0);
                return Err(format!(
                    "{name}: {before} bytes and {stacks} stacks before, {after} and {stacks_after} after"
                ));
            }
            thread::yield_now();
        }
    }
    Ok(())
}

fn tests_of_programs() -> impl Iterator<Item = (&'static str, fn() -> TestResult)> {
    TESTS.iter().chain(misuse::TESTS).chain(program_memory::TESTS).map(|test| (test.name, test.run))
}
