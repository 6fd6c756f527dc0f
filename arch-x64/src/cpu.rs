//! This CPU: its block behind GS, its interrupt flag, its time counter.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use arch_contract::MAX_CPUS;
use raw_cpuid::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::{FsBase, GsBase};

use crate::descriptors::Descriptors;

/// The architecture's per-CPU data. GS base always points at it: there is no user mode, and so no
/// SWAPGS.
#[repr(C, align(64))]
pub struct CpuBlock {
    /// The kernel's local pointer, at `gs:[LOCAL]`.
    local: AtomicUsize,
    /// The running thread, at `gs:[CURRENT]`.
    current: AtomicUsize,
    /// Frame address of the interrupt stub, at `gs:[INTERRUPT_FRAME]`.
    interrupt_frame: AtomicUsize,
    /// Address of the trace ring, at `gs:[TRACE_RING]`; 0 if there is none.
    trace_ring: AtomicUsize,
    /// Total bytes written to the trace ring, at `gs:[TRACE_WRITTEN]`.
    trace_written: AtomicUsize,
    /// This CPU's index.
    index: AtomicU32,
    /// This CPU's APIC id, valid once `started` is set.
    apic_id: AtomicU32,
    /// True once the CPU runs kernel code.
    started: AtomicBool,
    /// True in an NMI handler. The CPU takes no further NMI until it executes an IRET (SDM Vol. 3A,
    /// 6.7.1), which the handler does before it waits.
    in_nmi: AtomicBool,
    /// True once the NMI handler has executed that IRET, so that further NMIs can arrive.
    nmis_open: AtomicBool,
    /// True if an NMI has arrived since the last check.
    nmi_came: AtomicBool,
    /// True if an NMI has arrived in the handler of another, which must handle it too.
    nmi_is_left_over: AtomicBool,
    /// DR7 as it was before a breakpoint in an NMI handler cleared it, else 0. Used on PCs.
    breakpoints_off: AtomicU64,
    /// The CPU's GDT and TSS. `descriptors::load` initialises them only when the CPU starts, so
    /// that the blocks take no room in the image. Only the CPU itself accesses them.
    pub(crate) descriptors: UnsafeCell<MaybeUninit<Descriptors>>,
}

// SAFETY: the cell is only accessed by the block's own CPU (see `descriptors`), and all other
// fields are atomics.
unsafe impl Sync for CpuBlock {}

const LOCAL: usize = offset_of!(CpuBlock, local);
const CURRENT: usize = offset_of!(CpuBlock, current);
const INDEX: usize = offset_of!(CpuBlock, index);
pub(crate) const TRACE_RING: usize = offset_of!(CpuBlock, trace_ring);
pub(crate) const TRACE_WRITTEN: usize = offset_of!(CpuBlock, trace_written);
/// Offset at which the interrupt stub stores its frame's address.
pub(crate) const INTERRUPT_FRAME: usize = offset_of!(CpuBlock, interrupt_frame);

static BLOCKS: [CpuBlock; MAX_CPUS] = [const {
    CpuBlock {
        local: AtomicUsize::new(0),
        current: AtomicUsize::new(0),
        interrupt_frame: AtomicUsize::new(0),
        trace_ring: AtomicUsize::new(0),
        trace_written: AtomicUsize::new(0),
        index: AtomicU32::new(0),
        apic_id: AtomicU32::new(0),
        started: AtomicBool::new(false),
        in_nmi: AtomicBool::new(false),
        nmis_open: AtomicBool::new(false),
        nmi_came: AtomicBool::new(false),
        nmi_is_left_over: AtomicBool::new(false),
        breakpoints_off: AtomicU64::new(0),
        descriptors: UnsafeCell::new(MaybeUninit::uninit()),
    }
}; MAX_CPUS];

/// True if FS base can be written by WRFSBASE (SDM Vol. 2, WRFSBASE) instead of through its MSR.
static HAS_FS_BASE: AtomicBool = AtomicBool::new(false);

/// Enables WRFSBASE on this CPU if the CPU has it. All CPUs are alike.
pub(crate) fn allow_fs_base() {
    let has = CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_fsgsbase());
    if has {
        // SAFETY: the CPU has the instructions, and only `set_thread_pointer` uses them.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::FSGSBASE)) };
    }
    HAS_FS_BASE.store(has, Ordering::Relaxed);
}

/// Sets FS base, which the kernel itself does not use, through its MSR.
pub fn set_fs_base(address: usize) {
    FsBase::write(VirtAddr::new_truncate(address as u64));
}

/// Sets FS base in the fastest way this CPU has.
#[cold]
#[inline(never)]
pub fn set_thread_pointer(address: usize) {
    if HAS_FS_BASE.load(Ordering::Relaxed) {
        // SAFETY: `allow_fs_base` enabled the instruction on every CPU; the address lies in a
        // program's memory, so it is canonical.
        unsafe { asm!("wrfsbase {}", in(reg) address, options(nostack, preserves_flags)) };
    } else {
        set_fs_base(address);
    }
}

/// Points GS at the block of CPU `index`. A CPU calls it before it uses any per-CPU data.
pub fn claim_block(index: usize, apic_id: u32) {
    let block = &BLOCKS[index];
    block.index.store(index as u32, Ordering::Relaxed);
    block.apic_id.store(apic_id, Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(block));
}

/// Records that this CPU runs and can receive IPIs.
pub fn mark_started() {
    BLOCKS[index()].started.store(true, Ordering::Release);
}

/// A CPU's trace ring and the total number of bytes written to it.
pub(crate) fn trace_words(index: usize) -> (&'static AtomicUsize, &'static AtomicUsize) {
    (&BLOCKS[index].trace_ring, &BLOCKS[index].trace_written)
}

/// The APIC id of a CPU, if it was started.
pub fn apic_id_of(index: usize) -> Option<u32> {
    let block = BLOCKS.get(index)?;
    block.started.load(Ordering::Acquire).then(|| block.apic_id.load(Ordering::Relaxed))
}

/// True in an NMI handler on this CPU.
pub(crate) fn in_nmi() -> bool {
    block().in_nmi.load(Ordering::Relaxed)
}

/// The kind of code that an NMI interrupted.
pub(crate) enum InterruptedByNmi {
    /// Code outside of an NMI handler.
    Other,
    /// An NMI handler that has admitted others; it handles this NMI too before it leaves.
    Handler,
    /// The last instructions of an NMI handler, on its stack, up to the IRET.
    EndOfHandler,
}

/// Enters the NMI handler; `stack_pointer` is that of the interrupted code.
pub(crate) fn enter_nmi(stack_pointer: u64) -> InterruptedByNmi {
    let block = block();
    block.nmi_came.store(true, Ordering::Relaxed);
    if block.in_nmi.swap(true, Ordering::Relaxed) {
        block.nmi_is_left_over.store(true, Ordering::Relaxed);
        return InterruptedByNmi::Handler;
    }
    block.nmis_open.store(false, Ordering::Relaxed);
    if crate::descriptors::is_on_other_nmi_stack(stack_pointer) {
        InterruptedByNmi::EndOfHandler
    } else {
        InterruptedByNmi::Other
    }
}

/// Leaves the NMI handler; returns false if it must run again for another NMI that arrived
/// meanwhile.
pub(crate) fn leave_nmi() -> bool {
    let block = block();
    // Clear the flag before the check: an NMI that arrives in between is handled by its own
    // handler.
    block.in_nmi.store(false, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let is_left_over = block.nmi_is_left_over.swap(false, Ordering::Relaxed);
    block.in_nmi.store(is_left_over, Ordering::Relaxed);
    !is_left_over
}

/// Halts with interrupts disabled until an NMI arrives, unless one has since the last call. May
/// return early.
#[cfg(feature = "pc")]
pub(crate) fn wait_for_nmi() {
    let block = block();
    if !block.started.load(Ordering::Relaxed) {
        // No other CPU can send this one an NMI yet.
        return core::hint::spin_loop();
    }
    if block.in_nmi.load(Ordering::Relaxed) && !block.nmis_open.load(Ordering::Relaxed) {
        // Change stacks before the IRET admits further NMIs: this handler is still on the current
        // one.
        crate::descriptors::use_other_nmi_stack();
        block.nmis_open.store(true, Ordering::Relaxed);
        open_nmis();
    }
    if !block.nmi_came.swap(false, Ordering::Relaxed) {
        halt_unless(block.nmi_came.as_ptr());
    }
}

/// Admits further NMIs while this CPU is in an NMI handler: the CPU blocks them until an IRET.
#[cfg(feature = "pc")]
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
#[cfg(feature = "pc")]
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

#[cfg(feature = "pc")]
/// DR7 to restore at the end of the NMI handler, 0 if there is none.
pub(crate) fn breakpoints_off() -> &'static AtomicU64 {
    &block().breakpoints_off
}

/// Frame address of the interrupt being handled.
pub(crate) fn interrupt_frame() -> usize {
    block().interrupt_frame.load(Ordering::Relaxed)
}

/// This CPU's own block.
pub(crate) fn block() -> &'static CpuBlock {
    &BLOCKS[index()]
}

/// Index of this CPU.
pub fn index() -> usize {
    let index: u32;
    // SAFETY: GS points at this CPU's block since `claim_block`, so the offset is valid.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) index, const INDEX, options(nostack, preserves_flags, readonly)) };
    index as usize
}

/// Reads the kernel's local pointer.
#[inline(always)]
pub fn local() -> usize {
    let local;
    // SAFETY: GS points at this CPU's block since `claim_block`, so the offset is valid.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) local, const LOCAL, options(nostack, preserves_flags, readonly)) };
    local
}

/// Sets the kernel's local pointer.
pub fn set_local(local: usize) {
    block().local.store(local, Ordering::Relaxed);
}

/// Reads the running thread.
#[inline(always)]
pub fn current() -> usize {
    let current;
    // SAFETY: GS points at this CPU's block since `claim_block`, so the offset is valid.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) current, const CURRENT, options(nostack, preserves_flags, readonly)) };
    current
}

/// Records the running thread.
#[inline(always)]
pub fn set_current(thread: usize) {
    // SAFETY: GS points at this CPU's block since `claim_block`, so the write stays in the block.
    unsafe { asm!("mov gs:[{}], {}", const CURRENT, in(reg) thread, options(nostack, preserves_flags)) };
}

/// Interrupt flag in RFLAGS (SDM Vol. 1, 3.4.3).
const INTERRUPT_FLAG: usize = 1 << 9;

/// True if interrupts are enabled on this CPU.
#[inline(always)]
pub fn interrupts_enabled() -> bool {
    let flags: usize;
    // SAFETY: the flags are read by way of the stack, which is free to use because the kernel is
    // built without a red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & INTERRUPT_FLAG != 0
}

/// Disables interrupts on this CPU.
#[inline(always)]
pub fn disable_interrupts() {
    // SAFETY: CLI has no effect on memory; without `nomem` the block is also a compiler barrier.
    unsafe { asm!("cli", options(nostack)) };
}

/// Enables interrupts on this CPU.
#[inline(always)]
pub fn enable_interrupts() {
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
    #[cfg(feature = "pc")]
    static nmi_halt_start: u8;
    #[cfg(feature = "pc")]
    static nmi_halt_end: u8;
}

/// Returns the address at which code interrupted by an exception or NMI resumes. Code that was
/// about to halt resumes after the HLT: an exception or NMI between STI and HLT ends STI's hold
/// (SDM Vol. 2, STI), and an interrupt taken there would not end the wait.
pub fn past_halt(instruction_pointer: u64) -> u64 {
    #[cfg(feature = "pc")]
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

/// Reads the time counter after all earlier instructions have executed and before any later one
/// begins (SDM Vol. 2, RDTSC). Always the same five instructions.
#[inline(always)]
pub fn cycles_in_order() -> u64 {
    let counter;
    // SAFETY: RDTSC and LFENCE only write two registers and order instructions; every CPU with SSE2
    // has LFENCE.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", "shl rdx, 32", "or rax, rdx", out("rax") counter, out("rdx") _, options(nostack));
    }
    counter
}

/// Reads the time counter. Always the same three instructions, so that the cost of a reading can be
/// subtracted.
#[inline(always)]
pub fn cycles() -> u64 {
    let counter;
    // SAFETY: the instructions write only the two declared registers.
    unsafe {
        asm!("rdtsc", "shl rdx, 32", "or rax, rdx", out("rax") counter, out("rdx") _, options(nomem, nostack));
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_before_the_halt_goes_past_it() {
        // Reference the function so that it is linked, and with it the labels.
        core::hint::black_box(wait_for_interrupt as *const ());
        let (start, end) = (&raw const halt_start as u64, &raw const halt_end as u64);
        assert_eq!(end, start + 1, "HLT has one byte");
        assert_eq!(past_halt(start), end);
        for elsewhere in [start - 1, end, end + 1] {
            assert_eq!(past_halt(elsewhere), elsewhere);
        }
    }
}
