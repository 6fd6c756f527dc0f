//! GDT and TSS of each CPU, and the IDT, which all CPUs share.
//!
//! Every vector runs on a stack of the interrupt stack table, because interrupted code may have a
//! red zone below its stack pointer (DESIGN.md, decision 2).

use core::cell::UnsafeCell;

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::{block, system_call, trap};

/// Number of interrupt stacks a CPU needs.
pub const INTERRUPT_STACKS: usize = 8;
/// Number of those stacks that have an entry in the TSS's table (SDM Vol. 3A, 8.7).
const TABLE_ENTRIES: usize = 7;

/// Interrupt stack of a vector: an index into the stacks given to [`set_interrupt_stacks`].
#[derive(Clone, Copy)]
#[repr(u16)]
enum Stack {
    Interrupt = 0,
    Fault = 1,
    DoubleFault = 2,
    NonMaskable = 3,
    Debug = 4,
    MachineCheck = 5,
    /// Used by no vector; see [`use_fault_stack`].
    NestedFault = 6,
    /// Alternates with `NonMaskable`; see [`use_other_nmi_stack`].
    OtherNonMaskable = 7,
}

/// Entries of the GDT.
const GDT_ENTRIES: usize = 16;
/// The entry whose limit is the CPU's number in Linux: Linux programs read it with LSL where the
/// CPU has no RDPID (arch/x86/include/asm/segment.h, GDT_ENTRY_CPUNODE).
const NUMBER_ENTRY: u16 = 15;
/// An accessed data segment that is present and has the limit 0 (SDM Vol. 3A, 3.4.5).
const NUMBER_ZERO: u64 = 0x0040_f100 << 32;

/// A CPU's GDT and TSS.
pub struct Descriptors {
    gdt: GlobalDescriptorTable<GDT_ENTRIES>,
    tss: TaskStateSegment,
    /// Top of the fault stack.
    fault_stack: VirtAddr,
    /// Top of the NMI stack that is currently not in the table.
    other_nmi_stack: VirtAddr,
}

impl Descriptors {
    pub(super) const fn new() -> Self {
        Self {
            gdt: GlobalDescriptorTable::empty(),
            tss: TaskStateSegment::new(),
            fault_stack: VirtAddr::zero(),
            other_nmi_stack: VirtAddr::zero(),
        }
    }
}

struct SharedIdt(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: the boot CPU writes the IDT once, in `build_idt`, before any other CPU runs; it is
// read-only afterwards.
unsafe impl Sync for SharedIdt {}

static IDT: SharedIdt = SharedIdt(UnsafeCell::new(InterruptDescriptorTable::new()));

const BOOT_STACK_SIZE: usize = 16 * 1024;

#[repr(align(16))]
struct BootStack(UnsafeCell<[u8; BOOT_STACK_SIZE]>);

// SAFETY: only a CPU that handles a trap before `set_interrupt_stacks` uses it, as raw stack
// memory, and CPUs start one at a time.
unsafe impl Sync for BootStack {}

/// Trap stack until the kernel supplies guarded ones.
static BOOT_TRAP_STACK: BootStack = BootStack(UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// Fills the IDT. The boot CPU calls it once, before [`load`].
pub fn build_idt() {
    // SAFETY: only the boot CPU runs yet (see `SharedIdt`), so there is no other reference.
    let idt = unsafe { &mut *IDT.0.get() };
    let stub = |vector: usize| VirtAddr::new(trap::stub_address(vector));
    // SAFETY: each stub follows its vector's frame layout (with or without an error code), and the
    // stack indices exist.
    unsafe {
        idt.divide_error.set_handler_addr(stub(0)).set_stack_index(Stack::Fault as u16);
        idt.debug.set_handler_addr(stub(1)).set_stack_index(Stack::Debug as u16);
        idt.non_maskable_interrupt.set_handler_addr(stub(2)).set_stack_index(Stack::NonMaskable as u16);
        idt.breakpoint.set_handler_addr(stub(3)).set_stack_index(Stack::Debug as u16);
        idt.overflow.set_handler_addr(stub(4)).set_stack_index(Stack::Fault as u16);
        idt.bound_range_exceeded.set_handler_addr(stub(5)).set_stack_index(Stack::Fault as u16);
        idt.invalid_opcode.set_handler_addr(stub(6)).set_stack_index(Stack::Fault as u16);
        idt.device_not_available.set_handler_addr(stub(7)).set_stack_index(Stack::Fault as u16);
        idt.double_fault.set_handler_addr(stub(8)).set_stack_index(Stack::DoubleFault as u16);
        idt.invalid_tss.set_handler_addr(stub(10)).set_stack_index(Stack::Fault as u16);
        idt.segment_not_present.set_handler_addr(stub(11)).set_stack_index(Stack::Fault as u16);
        idt.stack_segment_fault.set_handler_addr(stub(12)).set_stack_index(Stack::Fault as u16);
        idt.general_protection_fault.set_handler_addr(stub(13)).set_stack_index(Stack::Fault as u16);
        idt.page_fault.set_handler_addr(stub(14)).set_stack_index(Stack::Fault as u16);
        idt.x87_floating_point.set_handler_addr(stub(16)).set_stack_index(Stack::Fault as u16);
        idt.alignment_check.set_handler_addr(stub(17)).set_stack_index(Stack::Fault as u16);
        idt.machine_check.set_handler_addr(stub(18)).set_stack_index(Stack::MachineCheck as u16);
        idt.simd_floating_point.set_handler_addr(stub(19)).set_stack_index(Stack::Fault as u16);
        for vector in 32..=255u8 {
            idt[vector].set_handler_addr(stub(usize::from(vector))).set_stack_index(Stack::Interrupt as u16);
        }
    }
}

/// Loads this CPU's GDT, TSS and the IDT, with the boot trap stack for every vector, and enables
/// SYSCALL.
pub fn load() {
    // SAFETY: the cell belongs to this CPU, and no other reference to it exists (see `CpuBlock`).
    let descriptors = unsafe { &mut *block::this().descriptors.get() }.write(Descriptors::new());
    let top = VirtAddr::from_ptr(BOOT_TRAP_STACK.0.get()) + BOOT_STACK_SIZE as u64;
    descriptors.tss.interrupt_stack_table = [top; TABLE_ENTRIES];
    descriptors.other_nmi_stack = top;
    let code = descriptors.gdt.append(Descriptor::kernel_code_segment());
    let data = descriptors.gdt.append(Descriptor::kernel_data_segment());
    let tss = descriptors.gdt.append(Descriptor::tss_segment(&descriptors.tss));
    // Empty ones up to there.
    while descriptors.gdt.append(Descriptor::UserSegment(0)).index() < NUMBER_ENTRY - 1 {}
    descriptors.gdt.append(Descriptor::UserSegment(NUMBER_ZERO));
    let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
    // SAFETY: the tables live in a static and contain these selectors. GS is not loaded, because
    // that would clear its base.
    unsafe {
        descriptors.gdt.load_unsafe();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(null);
        ES::set_reg(null);
        load_tss(tss);
        (*IDT.0.get()).load_unsafe();
    }
    system_call::init(code);
}

/// Gives this CPU its own guarded trap stacks, by their tops.
pub fn set_interrupt_stacks(tops: &[usize]) {
    // SAFETY: `load` initialised the cell, which belongs to this CPU; only this CPU's hardware
    // reads the TSS, at traps, and interrupts are disabled.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    for (entry, &top) in table.iter_mut().zip(tops) {
        *entry = VirtAddr::new(top as u64);
    }
    if let Some(&top) = tops.get(Stack::OtherNonMaskable as usize) {
        descriptors.other_nmi_stack = VirtAddr::new(top as u64);
    }
    descriptors.tss.interrupt_stack_table = table;
    descriptors.fault_stack = table[Stack::Fault as usize];
}

/// True if a stack pointer lies on this CPU's NMI stack that the next NMI would not use, within the
/// part near the top that entering and leaving a handler reaches.
pub(super) fn is_on_other_nmi_stack(pointer: u64) -> bool {
    const REACH: u64 = 4096;
    other_nmi_stack().checked_sub(pointer).is_some_and(|below| below <= REACH)
}

/// Top of the NMI stack that is currently not in the table.
pub(super) fn other_nmi_stack() -> u64 {
    // SAFETY: `load` initialised the cell; it changes only with NMIs held off, as they are in the
    // callers.
    unsafe { (*block::this().descriptors.get()).assume_init_ref() }.other_nmi_stack.as_u64()
}

/// Switches further NMIs of this CPU to the other NMI stack. They stay there until the next call:
/// the handler that calls it may still be on its own stack after it has admitted others.
pub(super) fn use_other_nmi_stack() {
    // SAFETY: `load` initialised the cell; only this CPU's hardware reads the table, at an NMI, and
    // NMIs are held off.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    core::mem::swap(&mut table[Stack::NonMaskable as usize], &mut descriptors.other_nmi_stack);
    descriptors.tss.interrupt_stack_table = table;
}

/// Makes faults use the fault stack again and abandons its contents.
pub fn restore_fault_stack() {
    // SAFETY: `load` initialised the cell; only this CPU's hardware reads the table, and interrupts
    // are disabled.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    table[Stack::Fault as usize] = descriptors.fault_stack;
    descriptors.tss.interrupt_stack_table = table;
}

/// Makes further faults of this CPU use the double fault's stack, because the fault stack is in use
/// while a fault is reported.
///
/// Returns the previous stack for [`put_fault_stack_back`]. If further faults already use that
/// stack, this fault is on it, and they move on to the one for NMI handlers.
pub(super) fn move_fault_stack() -> VirtAddr {
    let previous = use_fault_stack(FaultStack::WhileReporting);
    // SAFETY: `load` initialised the cell; only this CPU's hardware reads the table, and interrupts
    // are disabled.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_ref() };
    let table = descriptors.tss.interrupt_stack_table;
    if previous == table[Stack::DoubleFault as usize] {
        use_fault_stack(FaultStack::InNonMaskable);
    }
    previous
}

/// Stacks for faults that arrive while another fault's handler may be on the fault stack, even at
/// its first instructions.
#[derive(Clone, Copy)]
pub(super) enum FaultStack {
    /// For faults while a fault is reported, or while a debugger has stopped the machine at a
    /// breakpoint.
    WhileReporting,
    /// For faults in an NMI handler; an NMI may arrive while either of the other stacks is in use.
    InNonMaskable,
}

/// Makes further faults of this CPU use another stack; returns the previous one for
/// [`put_fault_stack_back`].
pub(super) fn use_fault_stack(stack: FaultStack) -> VirtAddr {
    // SAFETY: `load` initialised the cell; only this CPU's hardware reads the table, interrupts are
    // disabled, and an NMI handler restores what it changes.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_mut() };
    let table = descriptors.tss.interrupt_stack_table;
    let top = match stack {
        FaultStack::WhileReporting => table[Stack::DoubleFault as usize],
        FaultStack::InNonMaskable => table[Stack::NestedFault as usize],
    };
    put_fault_stack_back(top);
    table[Stack::Fault as usize]
}

/// Restores the stack that [`use_fault_stack`] returned.
pub(super) fn put_fault_stack_back(top: VirtAddr) {
    // SAFETY: `load` initialised the cell; only this CPU's hardware reads the table, interrupts are
    // disabled, and an NMI handler restores what it changes.
    let descriptors = unsafe { (*block::this().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    table[Stack::Fault as usize] = top;
    descriptors.tss.interrupt_stack_table = table;
}
