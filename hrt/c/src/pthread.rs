//! POSIX threads over the kernel's: each bound to a CPU, one after the other unless it says which.
//!
//! The types are glibc's by size: what is in them is this library's, but zeros are a free lock, an unused once, and so on.

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use hrt::abi::{NEVER, OK, OUT_OF_MEMORY, Thread, ThreadOptions};
use hrt::raw::{
    aero_thread_detach, aero_thread_exit, aero_thread_join, aero_thread_migrate, aero_thread_spawn, aero_thread_yield,
};

use crate::futex;
use crate::memory::{free, malloc};
use crate::process::{EAGAIN, EBUSY, EDEADLK, EINVAL, ENOMEM, EPERM, ETIMEDOUT, TimeSpec, cpus, next_cpu};

/// Bytes of a thread's stack that does not ask for another: it is all there from the start.
const STACK: usize = 256 << 10;

/// A thread; `pthread_t` is its address.
struct Control {
    /// Written by whoever makes the thread, which waits for that before it begins; null for threads that nobody joins.
    handle: AtomicPtr<Thread>,
    is_joinable: bool,
    start: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    argument: *mut c_void,
    result: Cell<*mut c_void>,
    /// [`RUNNING`], [`DETACHED`] or [`ENDED`]: the second of end and detaching frees it.
    state: AtomicU32,
}

const RUNNING: u32 = 0;
const DETACHED: u32 = 1;
const ENDED: u32 = 2;

#[thread_local]
static SELF: Cell<*mut Control> = Cell::new(ptr::null_mut());

/// What stands for a thread that `pthread_create` has not made: the first one, a pool's workers.
#[thread_local]
static OTHER: Control = Control {
    handle: AtomicPtr::new(ptr::null_mut()),
    is_joinable: false,
    start: None,
    argument: ptr::null_mut(),
    result: Cell::new(ptr::null_mut()),
    state: AtomicU32::new(RUNNING),
};

/// `pthread_attr_t`, of 56 bytes.
#[repr(C)]
pub struct Attributes {
    stack_size: usize,
    detached: c_int,
    /// The CPU and 1, or 0 for any.
    cpu: u32,
    _reserved: [u64; 5],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_init(attributes: *mut Attributes) -> c_int {
    // SAFETY: the caller's place.
    unsafe { attributes.write(Attributes { stack_size: STACK, detached: 0, cpu: 0, _reserved: [0; 5] }) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_attr_destroy(_: *mut Attributes) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_setstacksize(attributes: *mut Attributes, size: usize) -> c_int {
    // SAFETY: the caller's, initialised.
    unsafe { (*attributes).stack_size = size };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_getstacksize(attributes: *const Attributes, size: *mut usize) -> c_int {
    // SAFETY: the caller's, initialised.
    unsafe { size.write((*attributes).stack_size) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_setdetachstate(attributes: *mut Attributes, detached: c_int) -> c_int {
    // SAFETY: the caller's, initialised.
    unsafe { (*attributes).detached = detached };
    0
}

/// The first CPU of a set of bits.
///
/// # Safety
/// `set` has so many bytes.
unsafe fn first_of(set: *const u8, size: usize) -> Option<u32> {
    // SAFETY: the caller's word.
    let bytes = unsafe { core::slice::from_raw_parts(set, size) };
    let byte = bytes.iter().position(|&byte| byte != 0)?;
    let cpu = byte as u32 * u8::BITS + bytes[byte].trailing_zeros();
    (cpu < cpus()).then_some(cpu)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_setaffinity_np(
    attributes: *mut Attributes,
    size: usize,
    set: *const u8,
) -> c_int {
    // SAFETY: the caller's set and attributes.
    match unsafe { first_of(set, size) } {
        Some(cpu) => {
            // SAFETY: the caller's, initialised.
            unsafe { (*attributes).cpu = cpu + 1 };
            0
        }
        None => EINVAL,
    }
}

/// The thread with that number moves to the first CPU of the set: a thread can move only itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_setaffinity_np(thread: c_ulong, size: usize, set: *const u8) -> c_int {
    if thread != pthread_self() {
        return EPERM;
    }
    // SAFETY: the caller's set.
    match unsafe { first_of(set, size) } {
        // SAFETY: no condition.
        Some(cpu) if unsafe { aero_thread_migrate(cpu) } == OK => 0,
        _ => EINVAL,
    }
}

/// The calling thread's set has the CPU it is bound to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_getaffinity_np(thread: c_ulong, size: usize, set: *mut u8) -> c_int {
    let cpu = crate::process::sched_getcpu() as usize;
    if thread != pthread_self() || cpu / 8 >= size {
        return EINVAL;
    }
    // SAFETY: the caller's set, of so many bytes.
    unsafe {
        set.write_bytes(0, size);
        set.add(cpu / 8).write(1 << (cpu % 8));
    }
    0
}

/// What `CPU_COUNT` stands for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sched_cpucount(size: usize, set: *const u8) -> c_int {
    // SAFETY: the caller's set.
    unsafe { core::slice::from_raw_parts(set, size) }.iter().map(|byte| byte.count_ones() as c_int).sum()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sched_setaffinity(_: c_int, size: usize, set: *const u8) -> c_int {
    // SAFETY: the caller's set.
    match unsafe { pthread_setaffinity_np(pthread_self(), size, set) } {
        0 => 0,
        error => {
            crate::process::set_errno(error);
            -1
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut c_ulong,
    attributes: *const Attributes,
    start: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: null, or the caller's, initialised.
    let (stack_size, detached, cpu) = match unsafe { attributes.as_ref() } {
        Some(attributes) => (attributes.stack_size, attributes.detached != 0, attributes.cpu),
        None => (STACK, false, 0),
    };
    let control = malloc(size_of::<Control>()).cast::<Control>();
    if control.is_null() {
        return EAGAIN;
    }
    let state = AtomicU32::new(if detached { DETACHED } else { RUNNING });
    let result = Cell::new(ptr::null_mut());
    let cpu = if cpu == 0 { next_cpu() } else { cpu - 1 };
    let options = ThreadOptions { name: ptr::null(), name_length: 0, cpu, stack_size };
    // SAFETY: memory of ours; the handle's place is in it, and it goes only after the thread. The caller's place is written
    // before the thread can be joined.
    unsafe {
        let handle = AtomicPtr::new(ptr::null_mut());
        control.write(Control { handle, is_joinable: !detached, start, argument, result, state });
        let handle = if detached { ptr::null_mut() } else { (*control).handle.as_ptr() };
        thread.write(control as c_ulong);
        match aero_thread_spawn(&raw const options, Some(run), control.cast(), handle) {
            OK => 0,
            error => {
                free(control.cast());
                if error == OUT_OF_MEMORY { EAGAIN } else { EINVAL }
            }
        }
    }
}

/// A thread's life.
unsafe extern "C" fn run(control: *mut u8) {
    let control = control.cast::<Control>();
    SELF.set(control);
    // SAFETY: `pthread_create` made it, and it lives until `leave`.
    unsafe {
        while (*control).is_joinable && (*control).handle.load(Ordering::Acquire).is_null() {
            aero_thread_yield();
        }
        if let Some(start) = (*control).start {
            let result = start((*control).argument);
            (*control).result.set(result);
        }
        leave(control);
    }
}

/// # Safety
/// It is the calling thread's, which uses nothing of its own any more.
unsafe fn leave(control: *mut Control) {
    // SAFETY: by the caller's word.
    unsafe {
        end_thread_locals();
        if (*control).state.swap(ENDED, Ordering::AcqRel) == DETACHED {
            free(control.cast());
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_exit(result: *mut c_void) -> ! {
    let control = SELF.get();
    // SAFETY: the calling thread's own, null if it is the first or not one of these.
    unsafe {
        if control.is_null() {
            end_thread_locals();
        } else {
            (*control).result.set(result);
            leave(control);
        }
        aero_thread_exit()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_join(thread: c_ulong, result: *mut *mut c_void) -> c_int {
    if thread == pthread_self() {
        return EDEADLK;
    }
    let control = thread as *mut Control;
    // SAFETY: a thread that was not joined or detached, by POSIX.
    unsafe {
        let handle = (*control).handle.load(Ordering::Acquire);
        if handle.is_null() || aero_thread_join(handle, NEVER) != OK {
            return EINVAL;
        }
        if !result.is_null() {
            result.write((*control).result.get());
        }
        free(control.cast());
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_detach(thread: c_ulong) -> c_int {
    let control = thread as *mut Control;
    // SAFETY: a thread that was not joined or detached, by POSIX.
    unsafe {
        let handle = (*control).handle.load(Ordering::Acquire);
        if handle.is_null() || aero_thread_detach(handle) != OK {
            return EINVAL;
        }
        if (*control).state.swap(DETACHED, Ordering::AcqRel) == ENDED {
            free(control.cast());
        }
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_self() -> c_ulong {
    let control = SELF.get();
    if control.is_null() { &raw const OTHER as c_ulong } else { control as c_ulong }
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_equal(first: c_ulong, second: c_ulong) -> c_int {
    c_int::from(first == second)
}

/// Names are given at the start here.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_setname_np(_: c_ulong, _: *const c_char) -> c_int {
    0
}

/// A deadline of POSIX's, in the kernel's nanoseconds: a point before the clock's begin has passed.
pub unsafe fn deadline(time: *const TimeSpec) -> Option<u64> {
    // SAFETY: the caller's time.
    let time = unsafe { *time };
    if time.seconds < 0 { Some(0) } else { time.nanoseconds() }
}

/// `pthread_mutex_t`, of 40 bytes; `kind` is where glibc's initialisers have it.
#[repr(C)]
pub struct Mutex {
    word: AtomicU32,
    count: AtomicU32,
    owner: AtomicUsize,
    kind: AtomicU32,
}

const RECURSIVE: u32 = 1;
const ERROR_CHECK: u32 = 2;

impl Mutex {
    fn lock(&self, deadline: u64, wait: bool) -> c_int {
        let (kind, me) = (self.kind.load(Ordering::Relaxed), pthread_self() as usize);
        if kind != 0 && self.owner.load(Ordering::Relaxed) == me {
            return match kind {
                RECURSIVE => {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    0
                }
                _ if wait => EDEADLK,
                _ => EBUSY,
            };
        }
        let taken = if wait { futex::lock(&self.word, deadline) } else { futex::try_lock(&self.word) };
        if !taken {
            return if wait { ETIMEDOUT } else { EBUSY };
        }
        if kind != 0 {
            self.owner.store(me, Ordering::Relaxed);
        }
        0
    }

    fn unlock(&self) -> c_int {
        if self.kind.load(Ordering::Relaxed) != 0 {
            if self.owner.load(Ordering::Relaxed) != pthread_self() as usize {
                return EPERM;
            }
            if self.count.load(Ordering::Relaxed) > 0 {
                self.count.fetch_sub(1, Ordering::Relaxed);
                return 0;
            }
            self.owner.store(0, Ordering::Relaxed);
        }
        futex::unlock(&self.word);
        0
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutexattr_init(attributes: *mut c_int) -> c_int {
    // SAFETY: the caller's place.
    unsafe { attributes.write(0) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_mutexattr_destroy(_: *mut c_int) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutexattr_settype(attributes: *mut c_int, kind: c_int) -> c_int {
    if !(0..=ERROR_CHECK as c_int).contains(&kind) {
        return EINVAL;
    }
    // SAFETY: the caller's, initialised.
    unsafe { attributes.write(kind) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_init(mutex: *mut Mutex, attributes: *const c_int) -> c_int {
    // SAFETY: the caller's place, and null or its attributes.
    unsafe {
        let kind = attributes.as_ref().map_or(0, |&kind| kind as u32);
        mutex.write(Mutex {
            word: AtomicU32::new(0),
            count: AtomicU32::new(0),
            owner: AtomicUsize::new(0),
            kind: AtomicU32::new(kind),
        });
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_destroy(mutex: *const Mutex) -> c_int {
    // SAFETY: the caller's.
    if unsafe { &(*mutex).word }.load(Ordering::Relaxed) == 0 { 0 } else { EBUSY }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_lock(mutex: *const Mutex) -> c_int {
    // SAFETY: the caller's.
    unsafe { &*mutex }.lock(NEVER, true)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_trylock(mutex: *const Mutex) -> c_int {
    // SAFETY: the caller's.
    unsafe { &*mutex }.lock(NEVER, false)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_timedlock(mutex: *const Mutex, time: *const TimeSpec) -> c_int {
    // SAFETY: the caller's.
    unsafe { deadline(time) }.map_or(EINVAL, |deadline| unsafe { &*mutex }.lock(deadline, true))
}

/// All clocks are one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_clocklock(mutex: *const Mutex, _: c_int, time: *const TimeSpec) -> c_int {
    // SAFETY: passed on.
    unsafe { pthread_mutex_timedlock(mutex, time) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_unlock(mutex: *const Mutex) -> c_int {
    // SAFETY: the caller's.
    unsafe { &*mutex }.unlock()
}

/// `pthread_cond_t`, of 48 bytes: a number that each signal changes, and the threads that are in a wait.
#[repr(C)]
pub struct Condition {
    signals: AtomicU32,
    waiters: AtomicU32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_init(condition: *mut Condition, _: *const c_void) -> c_int {
    // SAFETY: the caller's place.
    unsafe { condition.write(Condition { signals: AtomicU32::new(0), waiters: AtomicU32::new(0) }) };
    0
}

/// Waits for those that were woken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_destroy(condition: *const Condition) -> c_int {
    // SAFETY: the caller's.
    let waiters = unsafe { &(*condition).waiters };
    while waiters.load(Ordering::Acquire) != 0 {
        // SAFETY: no condition.
        unsafe { aero_thread_yield() };
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_init(_: *mut c_int) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_destroy(_: *mut c_int) -> c_int {
    0
}

/// All clocks are one.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_condattr_setclock(_: *mut c_int, _: c_int) -> c_int {
    0
}

fn wait(condition: &Condition, mutex: &Mutex, deadline: u64) -> c_int {
    let before = condition.signals.load(Ordering::Acquire);
    condition.waiters.fetch_add(1, Ordering::Relaxed);
    let error = mutex.unlock();
    if error != 0 {
        condition.waiters.fetch_sub(1, Ordering::Release);
        return error;
    }
    let in_time = futex::wait(&condition.signals, before, deadline);
    condition.waiters.fetch_sub(1, Ordering::Release);
    let error = mutex.lock(NEVER, true);
    match (error, in_time) {
        (0, true) => 0,
        (0, false) => ETIMEDOUT,
        (error, _) => error,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(condition: *const Condition, mutex: *const Mutex) -> c_int {
    // SAFETY: the caller's.
    unsafe { wait(&*condition, &*mutex, NEVER) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *const Condition,
    mutex: *const Mutex,
    time: *const TimeSpec,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { deadline(time).map_or(EINVAL, |deadline| wait(&*condition, &*mutex, deadline)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_clockwait(
    condition: *const Condition,
    mutex: *const Mutex,
    _: c_int,
    time: *const TimeSpec,
) -> c_int {
    // SAFETY: the caller's.
    unsafe { pthread_cond_timedwait(condition, mutex, time) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_signal(condition: *const Condition) -> c_int {
    // SAFETY: the caller's.
    let signals = unsafe { &(*condition).signals };
    signals.fetch_add(1, Ordering::Release);
    futex::wake(signals, 1);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_broadcast(condition: *const Condition) -> c_int {
    // SAFETY: the caller's.
    let signals = unsafe { &(*condition).signals };
    signals.fetch_add(1, Ordering::Release);
    futex::wake(signals, u32::MAX);
    0
}

/// `pthread_rwlock_t`, of 56 bytes: readers, or [`WRITTEN`].
#[repr(C)]
pub struct ReaderWriterLock {
    state: AtomicU32,
}

const WRITTEN: u32 = u32::MAX;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_init(lock: *mut ReaderWriterLock, _: *const c_void) -> c_int {
    // SAFETY: the caller's place.
    unsafe { lock.write(ReaderWriterLock { state: AtomicU32::new(0) }) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_rwlock_destroy(_: *mut ReaderWriterLock) -> c_int {
    0
}

/// Goes from one state to the next, waiting while there is none; without a deadline it does not wait.
fn pass(state: &AtomicU32, next: impl Fn(u32) -> Option<u32>, deadline: Option<u64>) -> c_int {
    loop {
        match (state.fetch_update(Ordering::AcqRel, Ordering::Acquire, &next), deadline) {
            (Ok(_), _) => return 0,
            (Err(_), None) => return EBUSY,
            (Err(now), Some(deadline)) => {
                if !futex::wait(state, now, deadline) {
                    return ETIMEDOUT;
                }
            }
        }
    }
}

/// The same until a time of the caller's.
unsafe fn pass_until(state: &AtomicU32, next: fn(u32) -> Option<u32>, time: *const TimeSpec) -> c_int {
    // SAFETY: the caller's time.
    match unsafe { deadline(time) } {
        Some(deadline) => pass(state, next, Some(deadline)),
        None => EINVAL,
    }
}

macro_rules! timed {
    ($($name:ident $clock:ident $next:ident;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(lock: *const ReaderWriterLock, time: *const TimeSpec) -> c_int {
            // SAFETY: the caller's.
            unsafe { pass_until(&(*lock).state, $next, time) }
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $clock(lock: *const ReaderWriterLock, _: c_int, time: *const TimeSpec) -> c_int {
            // SAFETY: the caller's.
            unsafe { pass_until(&(*lock).state, $next, time) }
        })*
    };
}
timed! {
    pthread_rwlock_timedrdlock pthread_rwlock_clockrdlock one_more_reader;
    pthread_rwlock_timedwrlock pthread_rwlock_clockwrlock the_writer;
}

fn one_more_reader(state: u32) -> Option<u32> {
    (state < WRITTEN - 1).then(|| state + 1)
}

fn the_writer(state: u32) -> Option<u32> {
    (state == 0).then_some(WRITTEN)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_rdlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: the caller's.
    pass(unsafe { &(*lock).state }, one_more_reader, Some(NEVER))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_tryrdlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: the caller's.
    pass(unsafe { &(*lock).state }, one_more_reader, None)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_wrlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: the caller's.
    pass(unsafe { &(*lock).state }, the_writer, Some(NEVER))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_trywrlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: the caller's.
    pass(unsafe { &(*lock).state }, the_writer, None)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_rwlock_unlock(lock: *const ReaderWriterLock) -> c_int {
    // SAFETY: the caller's.
    let state = unsafe { &(*lock).state };
    let free = |now: u32| match now {
        0 => None,
        WRITTEN => Some(0),
        readers => Some(readers - 1),
    };
    match state.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
        Ok(_) => {
            futex::wake(state, u32::MAX);
            0
        }
        Err(_) => EPERM,
    }
}

/// `pthread_barrier_t`, of 32 bytes.
#[repr(C)]
pub struct Barrier {
    wanted: u32,
    /// Guards `arrived`, and the step to the next round.
    lock: AtomicU32,
    arrived: AtomicU32,
    round: AtomicU32,
    /// Threads that have not left yet.
    inside: AtomicU32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_init(barrier: *mut Barrier, _: *const c_void, wanted: c_uint) -> c_int {
    if wanted == 0 {
        return EINVAL;
    }
    // SAFETY: the caller's place.
    unsafe {
        barrier.write(Barrier {
            wanted,
            lock: AtomicU32::new(0),
            arrived: AtomicU32::new(0),
            round: AtomicU32::new(0),
            inside: AtomicU32::new(0),
        });
    }
    0
}

/// Waits for those that have passed it and not left yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_destroy(barrier: *const Barrier) -> c_int {
    // SAFETY: the caller's.
    let inside = unsafe { &(*barrier).inside };
    while inside.load(Ordering::Acquire) != 0 {
        // SAFETY: no condition.
        unsafe { aero_thread_yield() };
    }
    0
}

/// What one of the threads gets (PTHREAD_BARRIER_SERIAL_THREAD).
const SERIAL: c_int = -1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_wait(barrier: *const Barrier) -> c_int {
    // SAFETY: the caller's.
    let barrier = unsafe { &*barrier };
    barrier.inside.fetch_add(1, Ordering::Relaxed);
    futex::lock(&barrier.lock, NEVER);
    let round = barrier.round.load(Ordering::Relaxed);
    let is_last = barrier.arrived.load(Ordering::Relaxed) + 1 == barrier.wanted;
    if is_last {
        barrier.arrived.store(0, Ordering::Relaxed);
        barrier.round.store(round.wrapping_add(1), Ordering::Release);
    } else {
        barrier.arrived.fetch_add(1, Ordering::Relaxed);
    }
    futex::unlock(&barrier.lock);
    if is_last {
        futex::wake(&barrier.round, u32::MAX);
    } else {
        futex::wait_while(&barrier.round, round);
    }
    barrier.inside.fetch_sub(1, Ordering::Release);
    if is_last { SERIAL } else { 0 }
}

/// What `pthread_once` has seen: nothing, a call under way, a call that has returned.
const UNDER_WAY: u32 = 1;
const DONE: u32 = 2;

/// Calls a function unless it has been: `word` is zero at first.
pub fn once(word: &AtomicU32, function: impl FnOnce()) {
    match word.compare_exchange(0, UNDER_WAY, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            function();
            word.store(DONE, Ordering::Release);
            futex::wake(word, u32::MAX);
        }
        Err(_) => futex::wait_while(word, UNDER_WAY),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_once(word: *const AtomicU32, function: unsafe extern "C" fn()) -> c_int {
    // SAFETY: the caller's word and function.
    once(unsafe { &*word }, || unsafe { function() });
    0
}

const KEYS: usize = 128;
/// Rounds in which destructors are called for what other destructors have set (PTHREAD_DESTRUCTOR_ITERATIONS).
const ROUNDS: usize = 4;

type Destructor = unsafe extern "C" fn(*mut c_void);

/// A key that has no destructor.
unsafe extern "C" fn forget(_: *mut c_void) {}

/// The destructors of keys that are in use.
static DESTRUCTORS: [AtomicPtr<c_void>; KEYS] = [const { AtomicPtr::new(ptr::null_mut()) }; KEYS];
/// How often each key was made: values of an earlier life do not count.
static LIVES: [AtomicU32; KEYS] = [const { AtomicU32::new(0) }; KEYS];

/// A thread's value of a key.
struct Value {
    value: Cell<*mut c_void>,
    life: Cell<u32>,
}

#[thread_local]
static VALUES: [Value; KEYS] = [const { Value { value: Cell::new(ptr::null_mut()), life: Cell::new(0) } }; KEYS];

/// What the calling thread has for a key, null if that is of another life.
fn value_of(key: usize) -> *mut c_void {
    match (VALUES.get(key), LIVES.get(key)) {
        (Some(place), Some(life)) if place.life.get() == life.load(Ordering::Acquire) => place.value.get(),
        _ => ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_key_create(key: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    let destructor = destructor.unwrap_or(forget) as *mut c_void;
    let claim = |place: &AtomicPtr<c_void>| {
        place.compare_exchange(ptr::null_mut(), destructor, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    match DESTRUCTORS.iter().position(claim) {
        Some(index) => {
            LIVES[index].fetch_add(1, Ordering::Release);
            // SAFETY: the caller's place.
            unsafe { key.write(index as c_uint) };
            0
        }
        None => EAGAIN,
    }
}

/// By this name older versions of libstdc++ ask whether there are threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __pthread_key_create(key: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    // SAFETY: passed on.
    unsafe { pthread_key_create(key, destructor) }
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_key_delete(key: c_uint) -> c_int {
    match DESTRUCTORS.get(key as usize) {
        Some(place) => {
            place.store(ptr::null_mut(), Ordering::Release);
            0
        }
        None => EINVAL,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_getspecific(key: c_uint) -> *mut c_void {
    value_of(key as usize)
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int {
    match (VALUES.get(key as usize), LIVES.get(key as usize)) {
        (Some(place), Some(life)) => {
            place.value.set(value.cast_mut());
            place.life.set(life.load(Ordering::Acquire));
            0
        }
        _ => EINVAL,
    }
}

/// A destructor of a thread-local object.
struct AtThreadExit {
    destructor: Destructor,
    object: *mut c_void,
    next: *mut AtThreadExit,
}

#[thread_local]
static AT_THREAD_EXIT: Cell<*mut AtThreadExit> = Cell::new(ptr::null_mut());

/// Has a thread-local object destroyed at its thread's end (Itanium C++ ABI, 3.3.6.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_thread_atexit(destructor: Destructor, object: *mut c_void, _: *mut c_void) -> c_int {
    let entry = malloc(size_of::<AtThreadExit>()).cast::<AtThreadExit>();
    if entry.is_null() {
        return ENOMEM;
    }
    // SAFETY: just allocated.
    unsafe { entry.write(AtThreadExit { destructor, object, next: AT_THREAD_EXIT.get() }) };
    AT_THREAD_EXIT.set(entry);
    0
}

/// glibc's name for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_thread_atexit_impl(
    destructor: Destructor,
    object: *mut c_void,
    dso: *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    unsafe { __cxa_thread_atexit(destructor, object, dso) }
}

/// Destroys the calling thread's own objects, and calls the destructors of its keys.
///
/// # Safety
/// They are used no more.
unsafe fn end_thread_locals() {
    // SAFETY: by the caller's word.
    unsafe {
        destroy_objects();
        destroy_values();
    }
}

/// Destroys the calling thread's own objects.
///
/// # Safety
/// They are used no more.
pub unsafe fn destroy_objects() {
    loop {
        let entry = AT_THREAD_EXIT.get();
        if entry.is_null() {
            break;
        }
        // SAFETY: an entry of ours; its object is used no more.
        unsafe {
            let AtThreadExit { destructor, object, next } = entry.read();
            AT_THREAD_EXIT.set(next);
            free(entry.cast());
            destructor(object);
        }
    }
}

/// Calls the destructors of the calling thread's keys.
///
/// # Safety
/// The values are used no more.
unsafe fn destroy_values() {
    for _ in 0..ROUNDS {
        let mut any = false;
        for (key, destructor) in DESTRUCTORS.iter().enumerate() {
            let (object, destructor) = (value_of(key), destructor.load(Ordering::Acquire));
            if object.is_null() || destructor.is_null() {
                continue;
            }
            VALUES[key].value.set(ptr::null_mut());
            any = true;
            // SAFETY: `pthread_key_create` stores destructors only.
            unsafe { core::mem::transmute::<*mut c_void, Destructor>(destructor)(object) };
        }
        if !any {
            return;
        }
    }
}

/// `pthread_spinlock_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_init(lock: *mut u32, _: c_int) -> c_int {
    // SAFETY: the caller's place.
    unsafe { lock.write(0) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_spin_destroy(_: *mut u32) -> c_int {
    0
}

/// Whoever has the lock may be a thread of this CPU: waiting gives the CPU up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_lock(lock: *const AtomicU32) -> c_int {
    // SAFETY: the caller's.
    futex::lock(unsafe { &*lock }, NEVER);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_trylock(lock: *const AtomicU32) -> c_int {
    // SAFETY: the caller's.
    if futex::try_lock(unsafe { &*lock }) { 0 } else { EBUSY }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_spin_unlock(lock: *const AtomicU32) -> c_int {
    // SAFETY: the caller's.
    futex::unlock(unsafe { &*lock });
    0
}
