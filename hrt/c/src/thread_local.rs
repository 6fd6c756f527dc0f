//! Thread-specific data and its destruction at the thread's end: POSIX keys, and thread-local C++
//! objects.

use core::cell::Cell;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::memory::{free, malloc};
use crate::process::{EAGAIN, EINVAL, ENOMEM};

const KEYS: usize = 128;
/// Number of rounds of destructor calls, since a destructor may set further values
/// (PTHREAD_DESTRUCTOR_ITERATIONS).
const ROUNDS: usize = 4;

type Destructor = unsafe extern "C" fn(*mut c_void);

/// The destructor of a key that has none.
unsafe extern "C" fn forget(_: *mut c_void) {}

/// The destructors of the keys in use; null for a free key.
static DESTRUCTORS: [AtomicPtr<c_void>; KEYS] = [const { AtomicPtr::new(ptr::null_mut()) }; KEYS];
/// Number of times each key has been created. A value from an earlier life of the key does not
/// count.
static LIVES: [AtomicU32; KEYS] = [const { AtomicU32::new(0) }; KEYS];

/// A thread's value for a key.
struct Value {
    value: Cell<*mut c_void>,
    life: Cell<u32>,
}

#[thread_local]
static VALUES: [Value; KEYS] = [const { Value { value: Cell::new(ptr::null_mut()), life: Cell::new(0) } }; KEYS];

/// Returns the calling thread's value for a key; null if the value is from an earlier life of the
/// key.
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
            // SAFETY: the caller passes a place for the key that is valid for writes.
            unsafe { key.write(index as c_uint) };
            0
        }
        None => EAGAIN,
    }
}

/// Creates a key. Older versions of libstdc++ test for this symbol to find out whether the program
/// has threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __pthread_key_create(key: *mut c_uint, destructor: Option<Destructor>) -> c_int {
    // SAFETY: the caller's arguments meet the conditions of `pthread_key_create`, to which they are
    // passed on.
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

/// A thread-local object and its destructor.
struct AtThreadExit {
    destructor: Destructor,
    object: *mut c_void,
    next: *mut AtThreadExit,
}

#[thread_local]
static AT_THREAD_EXIT: Cell<*mut AtThreadExit> = Cell::new(ptr::null_mut());

/// Registers a thread-local object for destruction at its thread's end (Itanium C++ ABI, 3.3.6.4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_thread_atexit(destructor: Destructor, object: *mut c_void, _: *mut c_void) -> c_int {
    let entry = malloc(size_of::<AtThreadExit>()).cast::<AtThreadExit>();
    if entry.is_null() {
        return ENOMEM;
    }
    // SAFETY: the entry was just allocated, with the size of the structure, and is not in the list
    // yet.
    unsafe { entry.write(AtThreadExit { destructor, object, next: AT_THREAD_EXIT.get() }) };
    AT_THREAD_EXIT.set(entry);
    0
}

/// glibc's name for [`__cxa_thread_atexit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_thread_atexit_impl(
    destructor: Destructor,
    object: *mut c_void,
    dso: *mut c_void,
) -> c_int {
    // SAFETY: the caller's arguments meet the conditions of `__cxa_thread_atexit`, to which they
    // are passed on.
    unsafe { __cxa_thread_atexit(destructor, object, dso) }
}

/// Destroys the calling thread's own objects, and calls the destructors of its keys.
///
/// # Safety
/// The objects and values must not be used any more.
pub unsafe fn end_thread_locals() {
    // SAFETY: the caller guarantees that neither the objects nor the values are used any more.
    unsafe {
        destroy_objects();
        destroy_values();
    }
}

/// Destroys the calling thread's own objects, the last one first.
///
/// # Safety
/// The objects must not be used any more.
pub unsafe fn destroy_objects() {
    loop {
        let entry = AT_THREAD_EXIT.get();
        if entry.is_null() {
            break;
        }
        // SAFETY: the thread-local list only holds entries of this thread, and the caller
        // guarantees that the objects are not used any more.
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
/// The values must not be used any more.
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
            // SAFETY: `pthread_key_create` only stores destructors, and this one is not null.
            unsafe { core::mem::transmute::<*mut c_void, Destructor>(destructor)(object) };
        }
        if !any {
            return;
        }
    }
}
