//! POSIX threads on the kernel's threads. Each is bound to a CPU: the one its attributes name,
//! otherwise the CPUs in turn.

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_ulong, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use hrt::abi::{NEVER, OK, OUT_OF_MEMORY, Thread, ThreadOptions};
use hrt::raw::{
    aero_thread_detach, aero_thread_exit, aero_thread_join, aero_thread_migrate, aero_thread_spawn, aero_thread_yield,
};

use crate::memory::{free, malloc};
use crate::process::{EAGAIN, EDEADLK, EINVAL, EPERM, cpus, next_cpu};
use crate::thread_local::end_thread_locals;

/// Default size of a thread's stack in bytes. The whole stack is mapped from the start.
const STACK: usize = 256 << 10;

/// A thread; `pthread_t` is its address.
struct Control {
    /// Written by the kernel on behalf of the creating thread. A joinable thread waits for it
    /// before it starts; null for threads that are created detached.
    handle: AtomicPtr<Thread>,
    is_joinable: bool,
    start: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    argument: *mut c_void,
    result: Cell<*mut c_void>,
    /// [`RUNNING`], [`DETACHED`] or [`ENDED`]. Whichever comes second, the thread's end or its
    /// detaching, frees the control block.
    state: AtomicU32,
}

const RUNNING: u32 = 0;
const DETACHED: u32 = 1;
const ENDED: u32 = 2;

#[thread_local]
static SELF: Cell<*mut Control> = Cell::new(ptr::null_mut());

/// Stands for a thread that `pthread_create` did not make: the program's first thread, or a pool's
/// worker.
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
    /// The CPU plus 1, or 0 for any CPU.
    cpu: u32,
    _reserved: [u64; 5],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_init(attributes: *mut Attributes) -> c_int {
    // SAFETY: the caller passes memory for a `pthread_attr_t`, which is at least as large.
    unsafe { attributes.write(Attributes { stack_size: STACK, detached: 0, cpu: 0, _reserved: [0; 5] }) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn pthread_attr_destroy(_: *mut Attributes) -> c_int {
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_setstacksize(attributes: *mut Attributes, size: usize) -> c_int {
    // SAFETY: the caller passes initialised attributes, as POSIX requires, and does not use them
    // concurrently.
    unsafe { (*attributes).stack_size = size };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_getstacksize(attributes: *const Attributes, size: *mut usize) -> c_int {
    // SAFETY: the caller passes initialised attributes and a place for the size, as POSIX requires.
    unsafe { size.write((*attributes).stack_size) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_attr_setdetachstate(attributes: *mut Attributes, detached: c_int) -> c_int {
    // SAFETY: the caller passes initialised attributes, as POSIX requires, and does not use them
    // concurrently.
    unsafe { (*attributes).detached = detached };
    0
}

/// Returns the first CPU in a bit set, if it exists.
///
/// # Safety
/// `set` must be readable for `size` bytes.
unsafe fn first_of(set: *const u8, size: usize) -> Option<u32> {
    // SAFETY: the caller guarantees that `set` is readable for `size` bytes.
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
    // SAFETY: the caller passes a set that is readable for `size` bytes.
    match unsafe { first_of(set, size) } {
        Some(cpu) => {
            // SAFETY: the caller passes initialised attributes, as POSIX requires, and does not use
            // them concurrently.
            unsafe { (*attributes).cpu = cpu + 1 };
            0
        }
        None => EINVAL,
    }
}

/// Moves the calling thread to the first CPU of the set. A thread can move only itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_setaffinity_np(thread: c_ulong, size: usize, set: *const u8) -> c_int {
    if thread != pthread_self() {
        return EPERM;
    }
    // SAFETY: the caller passes a set that is readable for `size` bytes.
    match unsafe { first_of(set, size) } {
        // SAFETY: the interface allows this call in any state and with any CPU number.
        Some(cpu) if unsafe { aero_thread_migrate(cpu) } == OK => 0,
        _ => EINVAL,
    }
}

/// Fills the set with the CPU that the calling thread is bound to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_getaffinity_np(thread: c_ulong, size: usize, set: *mut u8) -> c_int {
    let cpu = crate::process::sched_getcpu() as usize;
    if thread != pthread_self() || cpu / 8 >= size {
        return EINVAL;
    }
    // SAFETY: the caller passes a set that is writable for `size` bytes, and `cpu / 8` is below
    // `size`.
    unsafe {
        set.write_bytes(0, size);
        set.add(cpu / 8).write(1 << (cpu % 8));
    }
    0
}

/// The function behind `CPU_COUNT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sched_cpucount(size: usize, set: *const u8) -> c_int {
    // SAFETY: the caller passes a set that is readable for `size` bytes.
    unsafe { core::slice::from_raw_parts(set, size) }.iter().map(|byte| byte.count_ones() as c_int).sum()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sched_setaffinity(_: c_int, size: usize, set: *const u8) -> c_int {
    // SAFETY: the caller passes a set that is readable for `size` bytes.
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
    // SAFETY: the caller passes null or initialised attributes, as POSIX requires.
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
    // SAFETY: the control block was just allocated. It holds the place for the handle and outlives
    // the thread: only `leave`, `pthread_join` and `pthread_detach` free it. `thread` is the
    // caller's place for the id, written before the thread starts.
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

/// The body of every thread that `pthread_create` makes. A joinable thread first waits for its
/// handle, because it may detach itself or pass its id to a thread that joins it.
unsafe extern "C" fn run(control: *mut u8) {
    let control = control.cast::<Control>();
    SELF.set(control);
    // SAFETY: `pthread_create` passes an initialised control block, which lives until `leave`.
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

/// Ends the calling thread's part in its control block.
///
/// # Safety
/// `control` must be the calling thread's, and the thread must not use its thread-local values any
/// more.
unsafe fn leave(control: *mut Control) {
    // SAFETY: the caller guarantees that the block is its own, and the state decides which side
    // frees it.
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
    // SAFETY: a non-null `SELF` is the calling thread's own control block, and POSIX ends the use
    // of its thread-local values here.
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
    // SAFETY: POSIX requires a thread that was neither joined nor detached, so its control block
    // still exists.
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
    // SAFETY: POSIX requires a thread that was neither joined nor detached, so its control block
    // still exists until the state says that both sides are done.
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

/// Accepts and ignores the name: the kernel only names threads when it spawns them.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_setname_np(_: c_ulong, _: *const c_char) -> c_int {
    0
}
