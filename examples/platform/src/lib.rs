//! The examples' platform, with the same names on the Aerokernel and on Linux, so that a program
//! can be checked and measured against itself.
//!
//! - [`cpu_count`], [`spawn`], [`move_to`]: threads, bound to CPUs.
//! - [`Event`], [`Collective`], [`MessageQueue`]: objects to wait on. No wait has a deadline: these
//!   programs always end.
//! - [`cycles`], [`pause`], [`square_root`]: the CPU.
//! - [`Samples`]: latencies, and their report.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

#[cfg(target_os = "none")]
#[path = "aerokernel.rs"]
mod system;
#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod system;

mod samples;

pub use samples::Samples;
pub use system::*;

/// Hints to the CPU that this is a loop that waits for another CPU.
#[inline(always)]
pub fn pause() {
    core::hint::spin_loop();
}

/// Reads the CPU's time counter.
#[inline(always)]
pub fn cycles() -> u64 {
    // SAFETY: every CPU that these programs run on has the RDTSC instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Returns the square root, rounded according to IEEE 754.
#[inline(always)]
pub fn square_root(value: f64) -> f64 {
    use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set_sd, _mm_sqrt_sd};
    // SAFETY: SSE2, which the instructions belong to, is enabled in every build.
    unsafe {
        let packed = _mm_set_sd(value);
        _mm_cvtsd_f64(_mm_sqrt_sd(packed, packed))
    }
}

/// Mixes words into a checksum (FNV-1a over bytes).
pub fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    words.into_iter().flat_map(u64::to_le_bytes).fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Prints a line to the program's output.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::print_line(format_args!($($argument)*)) };
}
