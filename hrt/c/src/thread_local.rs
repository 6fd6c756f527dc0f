//! What each thread has for itself, and what becomes of it at the thread's end: POSIX's keys, thread-local objects of C++.

use core::cell::Cell;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::memory::{free, malloc};
use crate::process::{EAGAIN, EINVAL, ENOMEM};

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
pub unsafe fn end_thread_locals() {
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
