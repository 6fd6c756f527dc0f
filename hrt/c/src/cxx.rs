//! The functions that C++ compilers and the header-only part of libstdc++ call. There are no
//! exceptions: what would be thrown ends the program.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

use hrt::abi::ANY;
use hrt::raw::{aero_allocate, aero_free};

use crate::futex;
use crate::process::fail;

const ALIGN: usize = 16;

fn allocate(size: usize, align: usize) -> *mut c_void {
    // SAFETY: the interface allows this call in any state; it returns null for a request it cannot
    // meet.
    unsafe { aero_allocate(size.max(1), align.max(ALIGN), ANY).cast() }
}

fn allocate_or_fail(size: usize, align: usize) -> *mut c_void {
    let block = allocate(size, align);
    if block.is_null() {
        fail(b"out of memory in operator new");
    }
    block
}

/// Defines `operator new` and `operator new[]` by their mangled names. They are weak, so a program
/// may replace each of them.
macro_rules! operators_new {
    ($($name:literal $function:ident($($parameter:ident: $kind:ty),*) $body:expr;)*) => {
        $(#[unsafe(export_name = $name)]
        #[linkage = "weak"]
        pub extern "C" fn $function($($parameter: $kind),*) -> *mut c_void {
            $body
        })*
    };
}
operators_new! {
    "_Znwm" new(size: usize) allocate_or_fail(size, ALIGN);
    "_Znam" new_array(size: usize) allocate_or_fail(size, ALIGN);
    "_ZnwmSt11align_val_t" new_aligned(size: usize, align: usize) allocate_or_fail(size, align);
    "_ZnamSt11align_val_t" new_array_aligned(size: usize, align: usize) allocate_or_fail(size, align);
    "_ZnwmRKSt9nothrow_t" new_quiet(size: usize, _tag: *const c_void) allocate(size, ALIGN);
    "_ZnamRKSt9nothrow_t" new_array_quiet(size: usize, _tag: *const c_void) allocate(size, ALIGN);
    "_ZnwmSt11align_val_tRKSt9nothrow_t" new_aligned_quiet(size: usize, align: usize, _tag: *const c_void) allocate(size, align);
    "_ZnamSt11align_val_tRKSt9nothrow_t" new_array_aligned_quiet(size: usize, align: usize, _tag: *const c_void) allocate(size, align);
}

/// Defines `operator delete` and `operator delete[]`. Size, alignment and tag arguments are
/// ignored.
macro_rules! operators_delete {
    ($($name:literal $function:ident;)*) => {
        $(#[unsafe(export_name = $name)]
        #[linkage = "weak"]
        pub unsafe extern "C" fn $function(block: *mut c_void) {
            // SAFETY: C++ requires null or a live block from the matching `operator new`.
            unsafe { aero_free(block.cast()) };
        })*
    };
}
operators_delete! {
    "_ZdlPv" delete;
    "_ZdaPv" delete_array;
    "_ZdlPvm" delete_sized;
    "_ZdaPvm" delete_array_sized;
    "_ZdlPvSt11align_val_t" delete_aligned;
    "_ZdaPvSt11align_val_t" delete_array_aligned;
    "_ZdlPvmSt11align_val_t" delete_sized_aligned;
    "_ZdaPvmSt11align_val_t" delete_array_sized_aligned;
    "_ZdlPvRKSt9nothrow_t" delete_quiet;
    "_ZdaPvRKSt9nothrow_t" delete_array_quiet;
    "_ZdlPvSt11align_val_tRKSt9nothrow_t" delete_aligned_quiet;
    "_ZdaPvSt11align_val_tRKSt9nothrow_t" delete_array_aligned_quiet;
}

/// `std::nothrow`.
#[unsafe(export_name = "_ZSt7nothrow")]
pub static NOTHROW: u8 = 0;

/// Defines the functions that throw an exception with a text; they end the program instead. Weak,
/// like the functions below: a program's own definitions, including those of libstdc++ itself, take
/// precedence.
macro_rules! throws_with_text {
    ($($name:literal $function:ident $what:literal;)*) => {
        $(#[unsafe(export_name = $name)]
        #[linkage = "weak"]
        pub unsafe extern "C" fn $function(text: *const c_char) -> ! {
            // SAFETY: the pointer is not null, and libstdc++ passes a C string.
            let text = if text.is_null() { "" } else { unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("") };
            let mut buffer = crate::output::Buffer::<256>::new();
            let _ = core::fmt::write(&mut buffer, format_args!(concat!("std::", $what, ": {}"), text));
            fail(buffer.bytes())
        })*
    };
}
throws_with_text! {
    "_ZSt19__throw_logic_errorPKc" throw_logic_error "logic_error";
    "_ZSt20__throw_length_errorPKc" throw_length_error "length_error";
    "_ZSt20__throw_out_of_rangePKc" throw_out_of_range "out_of_range";
    "_ZSt24__throw_out_of_range_fmtPKcz" throw_out_of_range_format "out_of_range";
    "_ZSt24__throw_invalid_argumentPKc" throw_invalid_argument "invalid_argument";
    "_ZSt21__throw_runtime_errorPKc" throw_runtime_error "runtime_error";
    "_ZSt20__throw_domain_errorPKc" throw_domain_error "domain_error";
    "_ZSt19__throw_range_errorPKc" throw_range_error "range_error";
    "_ZSt22__throw_overflow_errorPKc" throw_overflow_error "overflow_error";
    "_ZSt23__throw_underflow_errorPKc" throw_underflow_error "underflow_error";
}

macro_rules! ends {
    ($($name:literal $function:ident $what:literal;)*) => {
        $(#[unsafe(export_name = $name)]
        #[linkage = "weak"]
        pub extern "C" fn $function() -> ! {
            fail($what)
        })*
    };
}
ends! {
    "_ZSt17__throw_bad_allocv" throw_bad_alloc b"std::bad_alloc: out of memory";
    "_ZSt28__throw_bad_array_new_lengthv" throw_bad_array_new_length b"std::bad_array_new_length";
    "__cxa_throw_bad_array_new_length" throw_bad_array_length b"std::bad_array_new_length";
    "_ZSt25__throw_bad_function_callv" throw_bad_function_call b"std::bad_function_call: an empty std::function was called";
    "_ZSt16__throw_bad_castv" throw_bad_cast b"std::bad_cast";
    "_ZSt18__throw_bad_typeidv" throw_bad_typeid b"std::bad_typeid";
    "_ZSt21__throw_bad_exceptionv" throw_bad_exception b"std::bad_exception";
    "_ZSt20__throw_system_errori" throw_system_error b"std::system_error";
    "_ZSt20__throw_future_errori" throw_future_error b"std::future_error";
    "_ZSt9terminatev" terminate b"std::terminate was called";
    "__cxa_pure_virtual" pure_virtual b"a pure virtual function was called";
    "__cxa_deleted_virtual" deleted_virtual b"a deleted virtual function was called";
}

/// Tells by its type whether a control block belongs to `std::make_shared`. Without type
/// information, libstdc++ recognises it by address alone, so this returns false.
#[unsafe(export_name = "_ZNSt19_Sp_make_shared_tag5_S_eqERKSt9type_info")]
#[linkage = "weak"]
pub extern "C" fn is_make_shared(_: *const c_void) -> bool {
    false
}

/// Called by libstdc++'s assertions on failure.
#[unsafe(export_name = "_ZSt21__glibcxx_assert_failPKciS0_S0_")]
pub unsafe extern "C" fn library_assertion(
    file: *const c_char,
    line: c_int,
    function: *const c_char,
    what: *const c_char,
) -> ! {
    // SAFETY: the compiler passes null or C strings with static lifetime.
    unsafe { crate::process::__assert_fail(what, file, line as u32, function) }
}

// Guards of function-local static objects (Itanium C++ ABI, 3.3.3). The first byte is set once the
// object is initialised; the second word is a lock.
const LOCK: usize = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_guard_acquire(guard: *const [AtomicU32; 2]) -> c_int {
    // SAFETY: the compiler passes the object's guard, which is static and zero at the start.
    let guard = unsafe { &*guard };
    if guard[0].load(Ordering::Acquire) & 0xff != 0 {
        return 0;
    }
    futex::lock(&guard[LOCK], hrt::abi::NEVER);
    if guard[0].load(Ordering::Acquire) & 0xff != 0 {
        futex::unlock(&guard[LOCK]);
        return 0;
    }
    1
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_guard_release(guard: *const [AtomicU32; 2]) {
    // SAFETY: the compiler passes the object's static guard, which the caller has acquired.
    let guard = unsafe { &*guard };
    guard[0].store(1, Ordering::Release);
    futex::unlock(&guard[LOCK]);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cxa_guard_abort(guard: *const [AtomicU32; 2]) {
    // SAFETY: the compiler passes the object's static guard, which the caller has acquired.
    futex::unlock(unsafe { &(*guard)[LOCK] });
}
