//! A CPU's trace ring. One short function that preserves all registers writes it, so that a trace
//! point costs the surrounding code nothing but its test.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU8, Ordering};

use arch_contract::{TRACE_ENTRIES, TraceEntry};

use super::{block, naked};

const ENTRY_SIZE: usize = size_of::<TraceEntry>();

/// 1 while trace points are enabled.
static TRACING: AtomicU8 = AtomicU8::new(0);

/// The CPUs' trace rings.
pub struct TraceRing;

impl arch_contract::TraceRing for TraceRing {
    /// Two instructions and no register; a load and a test would take three and one.
    #[inline(always)]
    fn is_on() -> bool {
        // SAFETY: the instructions only read the static byte `TRACING`, which is always mapped.
        unsafe {
            asm!(
                "cmp byte ptr [rip + {}], 0",
                "jne {}",
                sym TRACING,
                label {
                    core::hint::cold_path();
                    return true;
                },
                options(readonly, nostack)
            );
        }
        false
    }

    fn set_on(on: bool) {
        TRACING.store(u8::from(on), Ordering::SeqCst);
    }

    fn set(cpu: usize, ring: *mut TraceEntry) {
        let (place, written) = block::trace_words(cpu);
        // Reset the count before the ring becomes visible to its CPU.
        written.store(0, Ordering::Relaxed);
        place.store(ring as usize, Ordering::Release);
    }

    fn written(cpu: usize) -> usize {
        block::trace_words(cpu).1.load(Ordering::Acquire) / ENTRY_SIZE
    }

    #[inline(always)]
    fn write(tag: u64, first: u64, second: u64) {
        // SAFETY: the function preserves all registers and writes only to the ring. The block is
        // not `nostack` because the call pushes a return address.
        unsafe {
            asm!("call {}", sym write_entry, in("rdi") tag, in("rsi") first, in("rdx") second);
        }
    }
}

/// Writes the entry; preserves all registers but the flags.
#[unsafe(naked)]
extern "C" fn write_entry() {
    naked_asm!(
        naked::begin!("arch::cpu::trace::write_entry"),
        naked::save!("rax"),
        naked::save!("rcx"),
        naked::save!("rdx"),
        "mov rcx, gs:[{ring}]",
        "jrcxz 2f",
        "mov eax, {size}",
        "xadd gs:[{written}], rax",
        "and eax, {mask}",
        "add rcx, rax",
        "mov [rcx + 8], rdi",
        "mov [rcx + 16], rsi",
        "mov [rcx + 24], rdx",
        "rdtsc",
        "mov [rcx], eax",
        "mov [rcx + 4], edx",
        "2:",
        naked::restore!("rdx"),
        naked::restore!("rcx"),
        naked::restore!("rax"),
        "ret",
        naked::end!(),
        ring = const block::TRACE_RING,
        written = const block::TRACE_WRITTEN,
        size = const ENTRY_SIZE,
        mask = const TRACE_ENTRIES * ENTRY_SIZE - 1,
    )
}
