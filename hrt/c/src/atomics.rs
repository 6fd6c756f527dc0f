//! Atomic operations on 16 bytes, which compilers call by name (GCC's libatomic).

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use crate::futex;

/// Replaces a value and returns the previous one, retrying until no other change intervenes.
///
/// # Safety
/// `at` must point to 16 aligned, writable bytes. The CPU must have CMPXCHG16B, as all but the
/// earliest 64-bit CPUs do.
unsafe fn update(at: *mut u128, mut next: impl FnMut(u128) -> u128) -> u128 {
    let mut seen = 0;
    loop {
        // SAFETY: the caller guarantees 16 aligned, writable bytes and a CPU with CMPXCHG16B.
        let found = unsafe { exchange(at, seen, next(seen)) };
        if found == seen {
            return found;
        }
        seen = found;
    }
}

/// Stores a value if the expected one is present, and returns the previous one. Written in
/// assembly, because compilers for the oldest CPUs would turn an intrinsic into a call to these
/// very functions.
///
/// # Safety
/// As for [`update`].
unsafe fn exchange(at: *mut u128, expected: u128, new: u128) -> u128 {
    let (low, high): (u64, u64);
    // SAFETY: the caller guarantees 16 aligned, writable bytes and a CPU with CMPXCHG16B. RBX,
    // which the compiler reserves, is restored.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [rdi]",
            "mov rbx, {new_low}",
            new_low = inout(reg) new as u64 => _,
            in("rdi") at,
            in("rcx") (new >> 64) as u64,
            inout("rax") expected as u64 => low,
            inout("rdx") (expected >> 64) as u64 => high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_load_16(at: *const u128, _: i32) -> u128 {
    // SAFETY: the caller passes an aligned atomic object of 16 bytes. CMPXCHG16B needs it writable,
    // which it is unless the program placed an atomic object in read-only memory.
    unsafe { update(at.cast_mut(), |value| value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_store_16(at: *mut u128, value: u128, _: i32) {
    // SAFETY: the compiler passes an aligned, writable atomic object of 16 bytes.
    unsafe { update(at, |_| value) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_exchange_16(at: *mut u128, value: u128, _: i32) -> u128 {
    // SAFETY: the compiler passes an aligned, writable atomic object of 16 bytes.
    unsafe { update(at, |_| value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_compare_exchange_16(
    at: *mut u128,
    expected: *mut u128,
    new: u128,
    _: bool,
    _: i32,
    _: i32,
) -> bool {
    // SAFETY: the compiler passes an aligned, writable atomic object of 16 bytes, and a valid place
    // for the expected value.
    unsafe {
        let found = exchange(at, *expected, new);
        let is_done = found == *expected;
        *expected = found;
        is_done
    }
}

macro_rules! fetch {
    ($($name:ident $value:ident $operand:ident $next:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(at: *mut u128, $operand: u128, _: i32) -> u128 {
            // SAFETY: the compiler passes an aligned, writable atomic object of 16 bytes.
            unsafe { update(at, |$value: u128| $next) }
        })*
    };
}
fetch! {
    __atomic_fetch_add_16 value operand value.wrapping_add(operand);
    __atomic_fetch_sub_16 value operand value.wrapping_sub(operand);
    __atomic_fetch_and_16 value operand value & operand;
    __atomic_fetch_or_16 value operand value | operand;
    __atomic_fetch_xor_16 value operand value ^ operand;
}

// Objects of other sizes are accessed under one lock for all of them; only these functions access
// such objects.
static LOCK: AtomicU32 = AtomicU32::new(0);

fn alone<R>(operation: impl FnOnce() -> R) -> R {
    futex::lock(&LOCK, hrt::abi::NEVER);
    let result = operation();
    futex::unlock(&LOCK);
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_load(size: usize, at: *const u8, to: *mut u8, _: i32) {
    // SAFETY: the compiler passes pointers to objects of `size` bytes, and the lock excludes other
    // accesses.
    alone(|| unsafe { core::ptr::copy(at, to, size) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_store(size: usize, at: *mut u8, from: *const u8, _: i32) {
    // SAFETY: the compiler passes pointers to objects of `size` bytes, and the lock excludes other
    // accesses.
    alone(|| unsafe { core::ptr::copy(from, at, size) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_exchange(size: usize, at: *mut u8, from: *const u8, to: *mut u8, _: i32) {
    // SAFETY: the compiler passes pointers to objects of `size` bytes, and the lock excludes other
    // accesses.
    alone(|| unsafe {
        core::ptr::copy(at, to, size);
        core::ptr::copy(from, at, size);
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __atomic_compare_exchange(
    size: usize,
    at: *mut u8,
    expected: *mut u8,
    new: *const u8,
    _: i32,
    _: i32,
) -> bool {
    // SAFETY: the compiler passes pointers to objects of `size` bytes, and the lock excludes other
    // accesses.
    alone(|| unsafe {
        let is_same = core::slice::from_raw_parts(at, size) == core::slice::from_raw_parts(expected, size);
        if is_same {
            core::ptr::copy(new, at, size)
        } else {
            core::ptr::copy(at, expected, size)
        }
        is_same
    })
}

/// Reports the sizes for which the CPU has atomic instructions.
#[unsafe(no_mangle)]
pub extern "C" fn __atomic_is_lock_free(size: usize, _: *const u8) -> bool {
    matches!(size, 1 | 2 | 4 | 8 | 16)
}
