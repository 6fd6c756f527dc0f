//! Invalid arguments to the interface's functions: every function returns `INVALID`, and none
//! waits.

use alloc::sync::Arc;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use abi::{ANY, BUSY, INVALID, NEVER, OK, Status, TIMED_OUT};
use kernel::program::Outcome;

use crate::interface::{RAN, RELEASED, STARTED, note, reset, wait_for_ever};
use crate::program::api::*;
use crate::program::{check, end, start, succeed};
use crate::support::eventually;
use crate::{TestResult, ensure, tests};

tests![
    memory_that_is_no_such_object_is_invalid,
    locks_are_given_back_by_who_has_them,
    a_mutex_is_unlocked_by_its_owner_only,
    stale_and_wrong_handles_are_invalid,
    handles_of_another_program_are_invalid,
    fibers_are_their_threads_own,
];

/// A call of the interface, as a function of the misused argument.
macro_rules! call {
    (|$($name:pat_param),*| $call:expr) => {
        |$($name),*| {
            // SAFETY: the interface accepts any number as a handle, and any writable address as an
            // object's, which is the subject of these tests. The other pointers are valid.
            unsafe { $call }
        }
    };
}

/// Memory large enough for any object.
#[repr(C, align(16))]
struct Place([AtomicU64; 12]);

/// A function that takes an object by its address. [`ON_OBJECTS`] lists each with the index of the
/// object's kind in [`INITIALISERS`]. Deadlines are 10 ms away, so a function that waited would
/// return `TIMED_OUT`.
type OnObject = unsafe fn(*mut u8, u64) -> Status;
const ON_OBJECTS: [(usize, OnObject); 17] = [
    (0, call!(|at, _| aero_event_signal(at.cast()))),
    (0, call!(|at, _| aero_event_broadcast(at.cast()))),
    (0, call!(|at, soon| aero_event_wait(at.cast(), soon))),
    (1, call!(|at, soon| aero_mutex_lock(at.cast(), soon))),
    (1, call!(|at, _| aero_mutex_try_lock(at.cast()))),
    (1, call!(|at, _| aero_mutex_unlock(at.cast()))),
    (2, call!(|at, soon| aero_condition_wait(at.cast(), at.cast(), soon))),
    (2, call!(|at, _| aero_condition_signal(at.cast()))),
    (2, call!(|at, _| aero_condition_broadcast(at.cast()))),
    (3, call!(|at, soon| aero_semaphore_down(at.cast(), soon))),
    (3, call!(|at, _| aero_semaphore_up(at.cast()))),
    (4, call!(|at, soon| aero_barrier_wait(at.cast(), soon))),
    (5, call!(|at, soon| aero_reader_writer_read(at.cast(), soon))),
    (5, call!(|at, _| aero_reader_writer_read_unlock(at.cast()))),
    (5, call!(|at, soon| aero_reader_writer_write(at.cast(), soon))),
    (5, call!(|at, _| aero_reader_writer_write_unlock(at.cast()))),
    // The other object of a wait is invalid too.
    (1, call!(|at, soon| aero_condition_wait(at.cast(), at.cast(), soon))),
];

const INITIALISERS: [unsafe fn(*mut u8) -> Status; 6] = [
    call!(|at| aero_event_init(at.cast())),
    call!(|at| aero_mutex_init(at.cast())),
    call!(|at| aero_condition_init(at.cast())),
    call!(|at| aero_semaphore_init(at.cast(), 1)),
    call!(|at| aero_barrier_init(at.cast(), 1)),
    call!(|at| aero_reader_writer_init(at.cast())),
];

fn memory_that_is_no_such_object_is_invalid() -> TestResult {
    succeed(|| {
        let place = Place([const { AtomicU64::new(0) }; 12]);
        let at = (&raw const place).cast_mut().cast::<u8>();
        let fill = |word: u64| place.0.iter().for_each(|place| place.store(word, Ordering::Relaxed));
        let words = [0, u64::MAX, 0x4141_4141_4141_4141, 1, at as u64];
        for (function, &(kind, use_it)) in ON_OBJECTS.iter().enumerate() {
            // SAFETY: the memory is ours, and the other addresses are refused before they are used.
            unsafe {
                let soon = aero_time_ns() + 10_000_000;
                let mut is_right =
                    use_it(ptr::null_mut(), soon) == INVALID && use_it(at.wrapping_add(4), soon) == INVALID;
                for word in words {
                    fill(word);
                    is_right &= use_it(at, soon) == INVALID;
                }
                for (other, initialise) in INITIALISERS.iter().enumerate() {
                    fill(0);
                    is_right &= initialise(at) == OK && (other == kind || use_it(at, soon) == INVALID);
                }
                if !is_right || aero_time_ns() > soon + 5_000_000_000 {
                    return line!() as i32 * 100 + function as i32;
                }
            }
        }
        for (kind, initialise) in INITIALISERS.iter().enumerate() {
            // SAFETY: both addresses are refused before anything is written to them.
            if unsafe { initialise(ptr::null_mut()) != INVALID || initialise(at.wrapping_add(4)) != INVALID } {
                return line!() as i32 * 100 + kind as i32;
            }
        }
        // SAFETY: the memory is ours, the counts are refused before the objects are initialised,
        // and only block addresses are looked up.
        unsafe {
            check!(aero_barrier_init(at.cast(), 0) == INVALID && aero_semaphore_init(at.cast(), u64::MAX) == INVALID);
            check!(aero_allocated_size(at) == 0 && aero_allocated_size(ptr::null_mut()) == 0);
            let block = aero_allocate(77, 16, ANY);
            check!(aero_allocated_size(block) == 77 && aero_allocated_size(block.wrapping_add(1)) == 0);
            aero_free(block);
            check!(aero_allocated_size(block) == 0);
        }
        0
    })
}

fn locks_are_given_back_by_who_has_them() -> TestResult {
    succeed(|| {
        let mut lock = MaybeUninit::<abi::ReaderWriterLock>::uninit();
        let lock = lock.as_mut_ptr();
        // SAFETY: the lock is a local, initialised before it is used.
        unsafe {
            check!(aero_reader_writer_init(lock) == OK);
            check!(aero_reader_writer_read_unlock(lock) == INVALID && aero_reader_writer_write_unlock(lock) == INVALID);
            check!(aero_reader_writer_read(lock, NEVER) == OK);
            check!(aero_reader_writer_write_unlock(lock) == INVALID && aero_reader_writer_write(lock, 0) == TIMED_OUT);
            check!(aero_reader_writer_read_unlock(lock) == OK && aero_reader_writer_read_unlock(lock) == INVALID);
            check!(aero_reader_writer_write(lock, NEVER) == OK && aero_reader_writer_read_unlock(lock) == INVALID);
            check!(aero_reader_writer_write_unlock(lock) == OK && aero_reader_writer_write(lock, 0) == OK);
        }
        0
    })
}

fn a_mutex_is_unlocked_by_its_owner_only() -> TestResult {
    succeed(|| {
        unsafe extern "C" fn unlock(mutex: *mut u8) {
            // SAFETY: the caller passes the mutex below, which outlives this thread.
            let status = unsafe { aero_mutex_unlock(mutex.cast()) };
            STARTED.store(status as u32, Ordering::SeqCst);
        }
        let (mut mutex, mut condition) = (MaybeUninit::<abi::Mutex>::uninit(), MaybeUninit::<abi::Condition>::uninit());
        let (mutex, condition) = (mutex.as_mut_ptr(), condition.as_mut_ptr());
        // SAFETY: both objects are initialised before they are used, and outlive the thread.
        unsafe {
            check!(aero_mutex_init(mutex) == OK && aero_condition_init(condition) == OK);
            check!(aero_mutex_unlock(mutex) == INVALID);
            check!(aero_condition_wait(condition, mutex, 0) == INVALID);
            check!(aero_mutex_lock(mutex, NEVER) == OK);
            let mut other = ptr::null_mut();
            check!(aero_thread_spawn(ptr::null(), Some(unlock), mutex.cast(), &raw mut other) == OK);
            check!(aero_thread_join(other, NEVER) == OK);
            check!(STARTED.load(Ordering::SeqCst) as Status == INVALID);
            check!(aero_mutex_try_lock(mutex) == BUSY);
            check!(aero_condition_wait(condition, mutex, 0) == TIMED_OUT);
            check!(aero_mutex_unlock(mutex) == OK && aero_mutex_unlock(mutex) == INVALID);
        }
        0
    })
}

/// Creates one object of each kind and returns the handles.
fn one_of_each() -> Result<[*mut u8; 7], i32> {
    let (mut thread, mut queue, mut timer, mut interrupt) =
        (ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let (mut fiber, mut pool, mut collective) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the functions belong to this image, and the handles' places are live locals.
    let made = unsafe {
        [
            aero_thread_spawn(ptr::null(), Some(wait_for_ever), ptr::null_mut(), &raw mut thread),
            aero_message_queue_create(1, &raw mut queue),
            aero_timer_create(Some(note), ptr::null_mut(), &raw mut timer),
            aero_interrupt_register(Some(note), ptr::null_mut(), &raw mut interrupt),
            aero_fiber_create(Some(note), ptr::null_mut(), 0, &raw mut fiber),
            aero_pool_create(&raw mut pool),
            aero_collective_create(1, &raw mut collective),
        ]
    };
    if made != [OK; 7] {
        return Err(line!() as i32);
    }
    Ok([thread.cast(), queue.cast(), timer.cast(), interrupt.cast(), fiber.cast(), pool.cast(), collective.cast()])
}

/// A function that takes a handle. [`USES`] lists each with the index of its kind in
/// [`one_of_each`].
type Use = unsafe fn(*mut u8) -> Status;
const USES: [(usize, Use); 20] = {
    unsafe fn word() -> *mut u64 {
        static WORDS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
        WORDS.as_ptr().cast_mut().cast()
    }
    [
        (0, call!(|at| aero_thread_join(at.cast(), 0))),
        (0, call!(|at| aero_thread_detach(at.cast()))),
        (1, call!(|at| aero_message_queue_send(at.cast(), 1, 0))),
        (1, call!(|at| aero_message_queue_receive(at.cast(), word(), 0))),
        (1, call!(|at| aero_message_queue_destroy(at.cast()))),
        (2, call!(|at| aero_timer_set(at.cast(), NEVER))),
        (2, call!(|at| aero_timer_cancel(at.cast()))),
        (2, call!(|at| aero_timer_destroy(at.cast()))),
        (3, call!(|at| aero_interrupt_send(at.cast(), 0))),
        (3, call!(|at| aero_interrupt_unregister(at.cast()))),
        (4, call!(|at| aero_fiber_yield_to(at.cast()))),
        (4, call!(|at| aero_fiber_join(at.cast()))),
        (5, call!(|at| aero_pool_queue(at.cast(), ptr::null(), Some(note), ptr::null_mut()))),
        (5, call!(|at| aero_pool_run_one(at.cast()))),
        (5, call!(|at| aero_pool_destroy(at.cast()))),
        (6, call!(|at| aero_collective_barrier(at.cast(), 0))),
        (6, call!(|at| aero_collective_share(at.cast(), 0, 1, word(), 0))),
        (6, call!(|at| aero_collective_broadcast(at.cast(), 0, 0, word(), 0))),
        (6, call!(|at| aero_collective_follow(at.cast(), 0))),
        (6, call!(|at| aero_collective_destroy(at.cast()))),
    ]
};

/// Each kind with the index in [`USES`] of the function that destroys its handle, except for
/// threads, which must first be awaited.
const DESTROYERS: [(usize, usize); 6] = [(1, 4), (2, 7), (3, 9), (4, 11), (5, 14), (6, 19)];

fn stale_and_wrong_handles_are_invalid() -> TestResult {
    reset();
    succeed(|| {
        let handles = match one_of_each() {
            Ok(handles) => handles,
            Err(line) => return line,
        };
        let block = Arc::new(0u64);
        let nonsense = [ptr::null_mut(), 0x10 as *mut u8, usize::MAX as *mut u8, Arc::as_ptr(&block) as *mut u8];
        for (function, &(kind, use_it)) in USES.iter().enumerate() {
            let wrong = handles.iter().enumerate().filter(|(other, _)| *other != kind).map(|(_, &handle)| handle);
            for handle in wrong.chain(nonsense) {
                // SAFETY: the interface accepts any number as a handle and refuses wrong ones.
                if unsafe { use_it(handle) } != INVALID {
                    return line!() as i32 * 100 + function as i32;
                }
            }
        }
        for (kind, destroyer) in DESTROYERS {
            // SAFETY: the handle is used again only to check that it is refused.
            if unsafe { USES[destroyer].1(handles[kind]) } != OK {
                return line!() as i32 * 100 + kind as i32;
            }
        }
        // SAFETY: the handle is used again only to check that it is refused.
        check!(unsafe { aero_thread_detach(handles[0].cast()) } == OK);
        for again in [false, true] {
            for (function, &(kind, use_it)) in USES.iter().enumerate() {
                // SAFETY: the interface accepts any number as a handle and refuses stale ones.
                if unsafe { use_it(handles[kind]) } != INVALID {
                    return line!() as i32 * 100 + function as i32;
                }
            }
            // New handles then reuse the old ones' places in the table.
            if !again && one_of_each().is_err() {
                return line!() as i32;
            }
        }
        0
    })
}

fn handles_of_another_program_are_invalid() -> TestResult {
    static HANDLES: [AtomicPtr<u8>; 7] = [const { AtomicPtr::new(ptr::null_mut()) }; 7];
    reset();
    let owner = start(|| {
        match one_of_each() {
            Ok(handles) => {
                HANDLES.iter().zip(handles).for_each(|(place, handle)| place.store(handle, Ordering::SeqCst))
            }
            Err(line) => return line,
        }
        STARTED.store(1, Ordering::SeqCst);
        while !RELEASED.load(Ordering::SeqCst) {
            // SAFETY: the call has no conditions; any thread of a program may yield.
            unsafe { aero_thread_yield() };
        }
        0
    })?;
    eventually("the handles are there", || STARTED.load(Ordering::SeqCst) == 1 || owner.outcome().is_some())?;
    let result = succeed(|| {
        // The second program's own handles, in the same places of its table.
        check!(one_of_each().is_ok());
        for (function, &(kind, use_it)) in USES.iter().enumerate() {
            // SAFETY: the interface accepts any number as a handle and refuses another program's.
            if unsafe { use_it(HANDLES[kind].load(Ordering::SeqCst)) } != INVALID {
                return line!() as i32 * 100 + function as i32;
            }
        }
        0
    });
    RELEASED.store(true, Ordering::SeqCst);
    let outcome = end(&owner)?;
    ensure!(outcome == Outcome::Exited(0), "the owner {outcome}");
    result
}

fn fibers_are_their_threads_own() -> TestResult {
    static FIBER: AtomicPtr<abi::Fiber> = AtomicPtr::new(ptr::null_mut());
    static STATUS: AtomicU32 = AtomicU32::new(0);
    reset();
    succeed(|| {
        unsafe extern "C" fn make(_: *mut u8) {
            let mut fiber = ptr::null_mut();
            // SAFETY: the function belongs to this image, and the handle's place is a live local.
            unsafe { aero_fiber_create(Some(note), ptr::null_mut(), 0, &raw mut fiber) };
            FIBER.store(fiber, Ordering::SeqCst);
        }
        unsafe extern "C" fn join_self(_: *mut u8) {
            // SAFETY: the interface accepts any number as a handle, even the caller's own.
            let status = unsafe { aero_fiber_join(FIBER.load(Ordering::SeqCst)) };
            STATUS.store(status as u32, Ordering::SeqCst);
        }
        let mut thread = ptr::null_mut();
        // SAFETY: the functions belong to this image, and the handles' places are live locals.
        unsafe {
            // A fiber whose thread has ended.
            check!(aero_thread_spawn(ptr::null(), Some(make), ptr::null_mut(), &raw mut thread) == OK);
            check!(aero_thread_join(thread, NEVER) == OK);
            let fiber = FIBER.load(Ordering::SeqCst);
            check!(!fiber.is_null());
            check!(aero_fiber_join(fiber) == INVALID && aero_fiber_yield_to(fiber) == INVALID);
            check!(RAN.load(Ordering::SeqCst) == 0);
            // A fiber that joins itself.
            let mut fiber = ptr::null_mut();
            check!(aero_fiber_create(Some(join_self), ptr::null_mut(), 0, &raw mut fiber) == OK);
            FIBER.store(fiber, Ordering::SeqCst);
            check!(aero_fiber_join(fiber) == OK);
            check!(STATUS.load(Ordering::SeqCst) as i32 == INVALID);
        }
        0
    })
}
