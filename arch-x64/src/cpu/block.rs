//! This CPU's block behind GS.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use arch_contract::MAX_CPUS;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

use super::descriptors::Descriptors;

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
    /// A word of the platform's, at `gs:[PLATFORM_WORD]`.
    platform_word: AtomicUsize,
    /// This CPU's index.
    index: AtomicU32,
    /// This CPU's APIC id, valid once `started` is set.
    apic_id: AtomicU32,
    /// True once the CPU runs kernel code.
    pub(super) started: AtomicBool,
    /// True in an NMI handler. The CPU takes no further NMI until it executes an IRET (SDM Vol. 3A,
    /// 6.7.1), which the handler does before it waits.
    pub(super) in_nmi: AtomicBool,
    /// True once the NMI handler has executed that IRET, so that further NMIs can arrive.
    pub(super) nmis_open: AtomicBool,
    /// True if an NMI has arrived since the last check.
    pub(super) nmi_came: AtomicBool,
    /// True if an NMI has arrived in the handler of another, which must handle it too.
    nmi_is_left_over: AtomicBool,
    /// DR7 as it was before a breakpoint in an NMI handler cleared it, else 0. Used on PCs.
    breakpoints_off: AtomicU64,
    /// The CPU's GDT and TSS. `descriptors::load` initialises them only when the CPU starts, so
    /// that the blocks take no room in the image. Only the CPU itself accesses them.
    pub(super) descriptors: UnsafeCell<MaybeUninit<Descriptors>>,
}

// SAFETY: the cell is only accessed by the block's own CPU (see `descriptors`), and all other
// fields are atomics.
unsafe impl Sync for CpuBlock {}

const LOCAL: usize = offset_of!(CpuBlock, local);
const CURRENT: usize = offset_of!(CpuBlock, current);
const INDEX: usize = offset_of!(CpuBlock, index);
/// Offset of the platform's word.
pub const PLATFORM_WORD: usize = offset_of!(CpuBlock, platform_word);
pub(super) const TRACE_RING: usize = offset_of!(CpuBlock, trace_ring);
pub(super) const TRACE_WRITTEN: usize = offset_of!(CpuBlock, trace_written);
/// Offset at which the interrupt stub stores its frame's address.
pub(super) const INTERRUPT_FRAME: usize = offset_of!(CpuBlock, interrupt_frame);

static BLOCKS: [CpuBlock; MAX_CPUS] = [const {
    CpuBlock {
        local: AtomicUsize::new(0),
        current: AtomicUsize::new(0),
        interrupt_frame: AtomicUsize::new(0),
        trace_ring: AtomicUsize::new(0),
        trace_written: AtomicUsize::new(0),
        platform_word: AtomicUsize::new(0),
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

/// Points GS at the block of CPU `index`. A CPU calls it before it uses any per-CPU data.
pub fn claim(index: usize, apic_id: u32) {
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
pub(super) fn trace_words(index: usize) -> (&'static AtomicUsize, &'static AtomicUsize) {
    (&BLOCKS[index].trace_ring, &BLOCKS[index].trace_written)
}

/// The APIC id of a CPU, if it was started.
pub fn apic_id_of(index: usize) -> Option<u32> {
    let block = BLOCKS.get(index)?;
    block.started.load(Ordering::Acquire).then(|| block.apic_id.load(Ordering::Relaxed))
}

/// The index of the CPU with an APIC id, if it was started.
pub fn index_of(apic_id: u32) -> Option<usize> {
    (0..MAX_CPUS).find(|&index| apic_id_of(index) == Some(apic_id))
}

/// True in an NMI handler on this CPU.
pub(super) fn in_nmi() -> bool {
    this().in_nmi.load(Ordering::Relaxed)
}

/// The kind of code that an NMI interrupted.
pub(super) enum InterruptedByNmi {
    /// Code outside of an NMI handler.
    Other,
    /// An NMI handler that has admitted others; it handles this NMI too before it leaves.
    Handler,
    /// The last instructions of an NMI handler, on its stack, up to the IRET.
    EndOfHandler,
}

/// Enters the NMI handler; `stack_pointer` is that of the interrupted code.
pub(super) fn enter_nmi(stack_pointer: u64) -> InterruptedByNmi {
    let block = this();
    block.nmi_came.store(true, Ordering::Relaxed);
    if block.in_nmi.swap(true, Ordering::Relaxed) {
        block.nmi_is_left_over.store(true, Ordering::Relaxed);
        return InterruptedByNmi::Handler;
    }
    block.nmis_open.store(false, Ordering::Relaxed);
    if super::descriptors::is_on_other_nmi_stack(stack_pointer) {
        InterruptedByNmi::EndOfHandler
    } else {
        InterruptedByNmi::Other
    }
}

/// Leaves the NMI handler; returns false if it must run again for another NMI that arrived
/// meanwhile.
pub(super) fn leave_nmi() -> bool {
    let block = this();
    // Clear the flag before the check: an NMI that arrives in between is handled by its own
    // handler.
    block.in_nmi.store(false, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let is_left_over = block.nmi_is_left_over.swap(false, Ordering::Relaxed);
    block.in_nmi.store(is_left_over, Ordering::Relaxed);
    !is_left_over
}

/// DR7 to restore at the end of the NMI handler, 0 if there is none.
pub(super) fn breakpoints_off() -> &'static AtomicU64 {
    &this().breakpoints_off
}

/// Frame address of the interrupt being handled.
pub(super) fn interrupt_frame() -> usize {
    this().interrupt_frame.load(Ordering::Relaxed)
}

/// This CPU's own block.
pub(super) fn this() -> &'static CpuBlock {
    &BLOCKS[index()]
}

/// Index of this CPU.
pub fn index() -> usize {
    let index: u32;
    // SAFETY: GS points at this CPU's block since `claim`, so the offset is valid.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) index, const INDEX, options(nostack, preserves_flags, readonly)) };
    index as usize
}

/// Reads the kernel's local pointer.
#[inline(always)]
pub fn local() -> usize {
    let local;
    // SAFETY: GS points at this CPU's block since `claim`, so the offset is valid.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) local, const LOCAL, options(nostack, preserves_flags, readonly)) };
    local
}

/// Sets the kernel's local pointer.
pub fn set_local(local: usize) {
    this().local.store(local, Ordering::Relaxed);
}

/// Sets the platform's word of this CPU, for code that has no stack.
pub fn set_platform_word(word: usize) {
    this().platform_word.store(word, Ordering::Relaxed);
}

/// The platform's word of this CPU; 0 at first.
pub fn platform_word() -> usize {
    this().platform_word.load(Ordering::Relaxed)
}

/// Reads the running thread.
#[inline(always)]
pub fn current() -> usize {
    let current;
    // SAFETY: GS points at this CPU's block since `claim`, so the offset is valid.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) current, const CURRENT, options(nostack, preserves_flags, readonly)) };
    current
}

/// Records the running thread.
#[inline(always)]
pub fn set_current(thread: usize) {
    // SAFETY: GS points at this CPU's block since `claim`, so the write stays in the block.
    unsafe { asm!("mov gs:[{}], {}", const CURRENT, in(reg) thread, options(nostack, preserves_flags)) };
}
