//! This CPU's interrupt flag, and the halt until an interrupt or an NMI.

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::block;

/// Interrupt flag in RFLAGS (SDM Vol. 1, 3.4.3).
const INTERRUPT_FLAG: usize = 1 << 9;

/// True if interrupts are enabled on this CPU.
#[inline(always)]
pub fn are_enabled() -> bool {
    let flags: usize;
    // SAFETY: the flags are read by way of the stack, which is free to use because the kernel is
    // built without a red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & INTERRUPT_FLAG != 0
}

/// Disables interrupts on this CPU.
#[inline(always)]
pub fn disable() {
    // SAFETY: CLI has no effect on memory; without `nomem` the block is also a compiler barrier.
    unsafe { asm!("cli", options(nostack)) };
}

/// Enables interrupts on this CPU.
#[inline(always)]
pub fn enable() {
    // SAFETY: handlers are installed before the kernel first calls this; without `nomem` the block
    // is also a compiler barrier.
    unsafe { asm!("sti", options(nostack)) };
}

/// Enables interrupts and halts. No interrupt can be missed, because STI holds interrupts off until
/// after the next instruction (SDM Vol. 2, STI). Returns with interrupts disabled.
#[inline(never)]
#[expect(named_asm_labels, reason = "not inlined, so there once; `past_halt` knows them")]
pub extern "C" fn wait_for_interrupt() {
    // SAFETY: handlers are installed before the kernel first calls this; without `nomem` the block
    // is also a compiler barrier.
    unsafe {
        asm!("sti", ".globl halt_start", "halt_start:", "hlt", ".globl halt_end", "halt_end:", "cli", options(nostack),);
    }
}

unsafe extern "C" {
    static halt_start: u8;
    static halt_end: u8;
    static nmi_halt_start: u8;
    static nmi_halt_end: u8;
}

/// Returns the address at which code interrupted by an exception or NMI resumes. Code that was
/// about to halt resumes after the HLT: an exception or NMI between STI and HLT ends STI's hold
/// (SDM Vol. 2, STI), and an interrupt taken there would not end the wait.
pub fn past_halt(instruction_pointer: u64) -> u64 {
    {
        let end = &raw const nmi_halt_end as u64;
        if (&raw const nmi_halt_start as u64..end).contains(&instruction_pointer) {
            return end;
        }
    }
    if instruction_pointer == &raw const halt_start as u64 { &raw const halt_end as u64 } else { instruction_pointer }
}

/// Stops this CPU for good, with interrupts disabled.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: only NMI handlers run on this CPU afterwards, and they return into this loop.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Halts with interrupts disabled until an NMI arrives, unless one has since the last call. May
/// return early.
pub(super) fn wait_for_nmi() {
    let block = block::this();
    if !block.started.load(Ordering::Relaxed) {
        // No other CPU can send this one an NMI yet.
        return;
    }
    if block.in_nmi.load(Ordering::Relaxed) {
        if !block.nmis_open.load(Ordering::Relaxed) {
            // Change stacks before the IRET admits further NMIs: this handler is still on the
            // current one.
            super::descriptors::use_other_nmi_stack();
            block.nmis_open.store(true, Ordering::Relaxed);
        }
        // Before each halt, although the first IRET has admitted NMIs and a handler in between ends
        // with an IRET too: QEMU 7.2 has been seen to halt here with NMIs blocked and one pending.
        open_nmis();
    }
    if !block.nmi_came.swap(false, Ordering::Relaxed) {
        halt_unless(block.nmi_came.as_ptr());
    }
}

/// Admits further NMIs while this CPU is in an NMI handler: the CPU blocks them until an IRET.
fn open_nmis() {
    // SAFETY: the IRET continues at the next instruction with the same stack, flags and segments;
    // the kernel's code has no red zone.
    unsafe {
        asm!(
            "mov {pointer}, rsp",
            "mov {word:e}, ss",
            "push {word}",
            "push {pointer}",
            "pushfq",
            "mov {word:e}, cs",
            "push {word}",
            "lea {word}, [rip + 2f]",
            "push {word}",
            "iretq",
            "2:",
            pointer = out(reg) _,
            word = out(reg) _,
        );
    }
}

/// Halts if the byte is 0. An NMI that sets it arrives before the check or ends the halt: see
/// [`past_halt`].
#[inline(never)]
#[expect(named_asm_labels, reason = "not inlined, so there once; `past_halt` knows them")]
extern "C" fn halt_unless(came: *const bool) {
    // SAFETY: the only access is a read of a byte to which the caller has a reference.
    unsafe {
        asm!(
            ".globl nmi_halt_start",
            "nmi_halt_start:",
            "cmp byte ptr [{came}], 0",
            "jne 2f",
            "hlt",
            "2:",
            ".globl nmi_halt_end",
            "nmi_halt_end:",
            came = in(reg) came,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_before_the_halt_goes_past_it() {
        // Reference the functions so that they are linked, and with them the labels.
        core::hint::black_box((wait_for_interrupt as *const (), halt_unless as *const ()));
        let (start, end) = (&raw const halt_start as u64, &raw const halt_end as u64);
        assert_eq!(end, start + 1, "HLT has one byte");
        assert_eq!(past_halt(start), end);
        for elsewhere in [start - 1, end, end + 1] {
            assert_eq!(past_halt(elsewhere), elsewhere);
        }
    }
}
