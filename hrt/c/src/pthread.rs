//! POSIX threads over the kernel's: each bound to a CPU, one after the other unless it says which.

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
