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

/// What the architecture keeps per CPU. GS base points at it for good: there is no user mode, so never a SWAPGS.
#[repr(C, align(64))]
pub struct CpuBlock {
    /// The kernel's local pointer, at `gs:[LOCAL]`.
    local: AtomicUsize,
    /// The running thread, at `gs:[CURRENT]`.
    current: AtomicUsize,
    /// Stack pointer of the interrupt stub, at `gs:[INTERRUPT_FRAME]`.
    interrupt_frame: AtomicUsize,
    /// Its trace ring, at `gs:[TRACE_RING]`, 0 if it has none.
    trace_ring: AtomicUsize,
    /// Bytes ever written to it, at `gs:[TRACE_WRITTEN]`.
    trace_written: AtomicUsize,
    /// This CPU's index.
    index: AtomicU32,
    /// Its APIC id, valid once `started`.
    apic_id: AtomicU32,
    /// True once the CPU runs kernel code.
    started: AtomicBool,
    /// True in the handler of an NMI. No further one comes before the CPU executes an IRET (SDM Vol. 3A, 6.7.1), as the handler does to
    /// wait.
    in_nmi: AtomicBool,
    /// It has done so.
    nmis_open: AtomicBool,
    /// An NMI has come since it was last looked for.
    nmi_came: AtomicBool,
    /// One has come in the handler of another, which is to handle it too.
    nmi_is_left_over: AtomicBool,
    /// DR7 as it was before a breakpoint in the handler of an NMI turned it off, else 0. On PCs.
    breakpoints_off: AtomicU64,
    /// Its GDT and TSS, made by `descriptors::load`: not before, so that the blocks take no room in the image. Touched by its
    /// own CPU only.
    pub(crate) descriptors: UnsafeCell<MaybeUninit<Descriptors>>,
}

// SAFETY: the cell is only accessed by the block's own CPU (see `descriptors`).
unsafe impl Sync for CpuBlock {}

const LOCAL: usize = offset_of!(CpuBlock, local);
const CURRENT: usize = offset_of!(CpuBlock, current);
const INDEX: usize = offset_of!(CpuBlock, index);
pub(crate) const TRACE_RING: usize = offset_of!(CpuBlock, trace_ring);
pub(crate) const TRACE_WRITTEN: usize = offset_of!(CpuBlock, trace_written);
/// Where the interrupt stub notes its frame.
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

/// True where FS base is written by an instruction (SDM Vol. 2, WRFSBASE), not by its register's number.
static HAS_FS_BASE: AtomicBool = AtomicBool::new(false);

/// Allows WRFSBASE on this CPU, if it has that. All CPUs are alike.
pub(crate) fn allow_fs_base() {
    let has = CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_fsgsbase());
    if has {
        // SAFETY: the CPU has the instructions, which nothing but `set_thread_pointer` contains.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::FSGSBASE)) };
    }
    HAS_FS_BASE.store(has, Ordering::Relaxed);
}

/// Sets FS base, which the kernel itself does not use, by the register's number.
pub fn set_fs_base(address: usize) {
    FsBase::write(VirtAddr::new_truncate(address as u64));
}

/// The same in the fastest way this CPU has.
#[cold]
#[inline(never)]
pub fn set_thread_pointer(address: usize) {
    if HAS_FS_BASE.load(Ordering::Relaxed) {
        // SAFETY: allowed by `allow_fs_base` on every CPU; the address is one of a program's memory, which is canonical.
        unsafe { asm!("wrfsbase {}", in(reg) address, options(nostack, preserves_flags)) };
    } else {
        set_fs_base(address);
    }
}

/// Points GS at the block of CPU `index`. First thing a CPU does in Rust.
pub fn claim_block(index: usize, apic_id: u32) {
    let block = &BLOCKS[index];
    block.index.store(index as u32, Ordering::Relaxed);
    block.apic_id.store(apic_id, Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(block));
}

/// Notes that this CPU runs and can be sent interrupts.
pub fn mark_started() {
    BLOCKS[index()].started.store(true, Ordering::Release);
}

/// A CPU's trace ring and the bytes ever written to it.
pub(crate) fn trace_words(index: usize) -> (&'static AtomicUsize, &'static AtomicUsize) {
    (&BLOCKS[index].trace_ring, &BLOCKS[index].trace_written)
}

/// The APIC id of a CPU that was started.
pub fn apic_id_of(index: usize) -> Option<u32> {
    let block = BLOCKS.get(index)?;
    block.started.load(Ordering::Acquire).then(|| block.apic_id.load(Ordering::Relaxed))
}

/// True in the handler of an NMI on this CPU.
pub(crate) fn in_nmi() -> bool {
    block().in_nmi.load(Ordering::Relaxed)
}

/// What an NMI has interrupted.
pub(crate) enum InterruptedByNmi {
    /// Code that is no handler of one.
    Other,
    /// A handler that has let others in: it handles this one too, before it leaves.
    Handler,
    /// The last instructions of one, on its stack, up to the IRET.
    EndOfHandler,
}

/// Enters the handler of an NMI that has interrupted code with that stack pointer.
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

/// Leaves it; false if it is to be run again, for another NMI that has come meanwhile.
pub(crate) fn leave_nmi() -> bool {
    let block = block();
    // In this order: one that comes in between is handled by itself.
    block.in_nmi.store(false, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let is_left_over = block.nmi_is_left_over.swap(false, Ordering::Relaxed);
    block.in_nmi.store(is_left_over, Ordering::Relaxed);
    !is_left_over
}

/// Halts, interrupts off, until an NMI comes, if none has since the last call. May return sooner.
#[cfg(feature = "pc")]
pub(crate) fn wait_for_nmi() {
    let block = block();
    if !block.started.load(Ordering::Relaxed) {
        // Nobody could send it one yet.
        return core::hint::spin_loop();
    }
    if block.in_nmi.load(Ordering::Relaxed) && !block.nmis_open.load(Ordering::Relaxed) {
        crate::descriptors::use_other_nmi_stack();
        block.nmis_open.store(true, Ordering::Relaxed);
        open_nmis();
    }
    if !block.nmi_came.swap(false, Ordering::Relaxed) {
        halt_unless(block.nmi_came.as_ptr());
    }
}

/// Lets NMIs come in the handler of one: they are held off until an IRET.
#[cfg(feature = "pc")]
fn open_nmis() {
    // SAFETY: goes on behind itself with the same stack, flags and segments; the kernel's code has no red zone.
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

/// Halts if the byte is 0. An NMI that changes it comes before the look or ends the halt: see [`past_halt`].
#[cfg(feature = "pc")]
#[inline(never)]
#[expect(named_asm_labels, reason = "not inlined, so there once; `past_halt` knows them")]
extern "C" fn halt_unless(came: *const bool) {
    // SAFETY: reads a byte the caller has a reference to.
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
/// What DR7 is to be again at the end of the NMI's handler, 0 if nothing.
pub(crate) fn breakpoints_off() -> &'static AtomicU64 {
    &block().breakpoints_off
}

/// Frame of the interrupt being handled.
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
    // SAFETY: GS points at this CPU's block since `claim_block`.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) index, const INDEX, options(nostack, preserves_flags, readonly)) };
    index as usize
}

/// The kernel's local pointer.
#[inline(always)]
pub fn local() -> usize {
    let local;
    // SAFETY: GS points at this CPU's block since `claim_block`.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) local, const LOCAL, options(nostack, preserves_flags, readonly)) };
    local
}

/// Sets the kernel's local pointer.
pub fn set_local(local: usize) {
    block().local.store(local, Ordering::Relaxed);
}

/// The running thread.
#[inline(always)]
pub fn current() -> usize {
    let current;
    // SAFETY: GS points at this CPU's block since `claim_block`.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) current, const CURRENT, options(nostack, preserves_flags, readonly)) };
    current
}

/// Notes the running thread.
#[inline(always)]
pub fn set_current(thread: usize) {
    // SAFETY: GS points at this CPU's block since `claim_block`.
    unsafe { asm!("mov gs:[{}], {}", const CURRENT, in(reg) thread, options(nostack, preserves_flags)) };
}

/// Interrupt flag in RFLAGS (SDM Vol. 1, 3.4.3).
const INTERRUPT_FLAG: usize = 1 << 9;

/// True if this CPU takes interrupts.
#[inline(always)]
pub fn interrupts_enabled() -> bool {
    let flags: usize;
    // SAFETY: reads the flags register by way of the stack; the kernel is built without a red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & INTERRUPT_FLAG != 0
}

/// Stops taking interrupts.
#[inline(always)]
pub fn disable_interrupts() {
    // SAFETY: CLI has no effect on memory; without `nomem` it is also a compiler barrier.
    unsafe { asm!("cli", options(nostack)) };
}

/// Takes interrupts again.
#[inline(always)]
pub fn enable_interrupts() {
    // SAFETY: handlers are installed before the kernel first calls this; a compiler barrier as above.
    unsafe { asm!("sti", options(nostack)) };
}

/// Enables interrupts and halts: STI holds interrupts off until after the next instruction (SDM Vol. 2, STI). Comes back with
/// interrupts off.
#[inline(never)]
#[expect(named_asm_labels, reason = "not inlined, so there once; `past_halt` knows them")]
pub extern "C" fn wait_for_interrupt() {
    // SAFETY: handlers are installed before the kernel first calls this; a compiler barrier as above.
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

/// Where code goes on that an exception or NMI interrupted at `instruction_pointer`. If it was about to halt, it does not: either
/// can come between STI and HLT, and ends what STI holds off (SDM Vol. 2, STI). An interrupt taken there would not end the wait.
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

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs on this CPU afterwards but NMI handlers, which return here.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The time counter, read when everything before has been executed and before anything behind begins (SDM Vol. 2, RDTSC). Always the
/// same five instructions.
#[inline(always)]
pub fn cycles_in_order() -> u64 {
    let counter;
    // SAFETY: as for `cycles`; LFENCE is there where SSE2 is.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", "shl rdx, 32", "or rax, rdx", out("rax") counter, out("rdx") _, options(nostack));
    }
    counter
}

/// The time counter. Always the same three instructions, so that what a reading costs can be subtracted.
#[inline(always)]
pub fn cycles() -> u64 {
    let counter;
    // SAFETY: RDTSC only writes the two registers.
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
        // What nothing uses is not linked, and then its labels are missing.
        core::hint::black_box(wait_for_interrupt as *const ());
        let (start, end) = (&raw const halt_start as u64, &raw const halt_end as u64);
        assert_eq!(end, start + 1, "HLT has one byte");
        assert_eq!(past_halt(start), end);
        for elsewhere in [start - 1, end, end + 1] {
            assert_eq!(past_halt(elsewhere), elsewhere);
        }
    }
}
