//! Memory accesses that may fail: after a faulting probe, the trap handler resumes at the probe's
//! end instead of reporting a fault.

use core::arch::asm;

use arch_contract::ProbeError;

/// Copies `units` units of 1, 2, 4 or 8 bytes; returns the number of units not copied. Each access
/// has the unit's width.
type Copier = unsafe extern "C" fn(to: usize, from: usize, units: usize) -> usize;

macro_rules! copier {
    ($name:ident, $start:ident, $end:ident, $instruction:literal) => {
        #[inline(never)]
        #[expect(named_asm_labels, reason = "not inlined, so there once; `continuation` knows them")]
        unsafe extern "C" fn $name(to: usize, from: usize, units: usize) -> usize {
            let left;
            // SAFETY: the caller guarantees that its own side of the copy is valid memory; a trap
            // on the other side ends the copy.
            unsafe {
                asm!(
                    concat!(".globl ", stringify!($start)),
                    concat!(stringify!($start), ":"),
                    $instruction,
                    concat!(".globl ", stringify!($end)),
                    concat!(stringify!($end), ":"),
                    inlateout("rcx") units => left,
                    inlateout("rdi") to => _,
                    inlateout("rsi") from => _,
                    options(nostack, preserves_flags),
                );
            }
            left
        }
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }
    };
}

copier!(copy_bytes, probe_byte_start, probe_byte_end, "rep movsb");
copier!(copy_words, probe_word_start, probe_word_end, "rep movsw");
copier!(copy_doublewords, probe_doubleword_start, probe_doubleword_end, "rep movsd");
copier!(copy_quadwords, probe_quadword_start, probe_quadword_end, "rep movsq");

/// The address at which a probe that trapped at `instruction_pointer` resumes; `None` if the
/// address is no probe's.
pub fn continuation(instruction_pointer: u64) -> Option<u64> {
    let pairs = [
        (&raw const probe_byte_start, &raw const probe_byte_end),
        (&raw const probe_word_start, &raw const probe_word_end),
        (&raw const probe_doubleword_start, &raw const probe_doubleword_end),
        (&raw const probe_quadword_start, &raw const probe_quadword_end),
    ];
    pairs.into_iter().find(|pair| pair.0 as u64 == instruction_pointer).map(|pair| pair.1 as u64)
}

/// Reads `buffer.len()` bytes at `address`, in one access if that is 1, 2, 4 or 8 aligned bytes.
///
/// # Errors
/// If an address cannot be read.
pub fn read(address: usize, buffer: &mut [u8]) -> Result<(), ProbeError> {
    // SAFETY: the destination is an exclusive slice, and the source is only read.
    unsafe { copy(buffer.as_mut_ptr() as usize, address, buffer.len(), address) }
}

/// Writes `bytes` at `address`, in one access if that is 1, 2, 4 or 8 aligned bytes.
///
/// # Errors
/// If an address cannot be written.
///
/// # Safety
/// No code relies on what was there, or the caller answers for what becomes of it.
pub unsafe fn write(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
    // SAFETY: the source is a slice, and the caller answers for the destination.
    unsafe { copy(address, bytes.as_ptr() as usize, bytes.len(), address) }
}

/// Copies `length` bytes; a trap on the side `probed` ends the copy.
///
/// # Safety
/// The other side is valid for `length` bytes, and the caller answers for what is written.
unsafe fn copy(to: usize, from: usize, length: usize, probed: usize) -> Result<(), ProbeError> {
    let (copier, unit): (Copier, usize) = match length {
        8 if probed.is_multiple_of(8) => (copy_quadwords, 8),
        4 if probed.is_multiple_of(4) => (copy_doublewords, 4),
        2 if probed.is_multiple_of(2) => (copy_words, 2),
        _ => (copy_bytes, 1),
    };
    // SAFETY: the caller guarantees the side that is not probed; a trap on the other ends the copy.
    let missing = unsafe { copier(to, from, length / unit) } * unit;
    if missing == 0 { Ok(()) } else { Err(ProbeError { address: probed.wrapping_add(length - missing) }) }
}
