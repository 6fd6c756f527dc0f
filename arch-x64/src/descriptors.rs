//! GDT and TSS of each CPU, and the one IDT.
//!
//! Every vector runs on an interrupt stack table entry, because interrupted code may have a red zone below its stack
//! pointer (DESIGN.md, decision 2).

use core::cell::UnsafeCell;

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use crate::trap;

/// Number of interrupt stacks a CPU needs.
pub const INTERRUPT_STACKS: usize = 8;
/// Those of them that have an entry in the table of the TSS (SDM Vol. 3A, 8.7).
const TABLE_ENTRIES: usize = 7;

/// Which interrupt stack a vector uses: an index into the stacks given to [`set_interrupt_stacks`].
#[derive(Clone, Copy)]
#[repr(u16)]
enum Stack {
    Interrupt = 0,
    Fault = 1,
    DoubleFault = 2,
    NonMaskable = 3,
    Debug = 4,
    MachineCheck = 5,
    /// No vector's: see [`use_fault_stack`].
    NestedFault = 6,
    /// In turn with the other one: see [`use_other_nmi_stack`].
    OtherNonMaskable = 7,
}

/// A CPU's GDT and TSS.
pub struct Descriptors {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
    /// Top of the stack for faults.
    fault_stack: VirtAddr,
    /// Top of the stack for NMIs that is not in the table.
    other_nmi_stack: VirtAddr,
}

impl Descriptors {
    pub(crate) const fn new() -> Self {
        Self {
            gdt: GlobalDescriptorTable::new(),
            tss: TaskStateSegment::new(),
            fault_stack: VirtAddr::zero(),
            other_nmi_stack: VirtAddr::zero(),
        }
    }
}

struct SharedIdt(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: written once by the boot CPU in `build_idt` before any other CPU runs, read-only afterwards.
unsafe impl Sync for SharedIdt {}

static IDT: SharedIdt = SharedIdt(UnsafeCell::new(InterruptDescriptorTable::new()));

const BOOT_STACK_SIZE: usize = 16 * 1024;

#[repr(align(16))]
struct BootStack(UnsafeCell<[u8; BOOT_STACK_SIZE]>);

// SAFETY: only the CPU that handles a trap before `set_interrupt_stacks` uses it, as raw stack memory; CPUs start one
// at a time.
unsafe impl Sync for BootStack {}

/// Trap stack until the kernel supplies guarded ones.
static BOOT_TRAP_STACK: BootStack = BootStack(UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// Fills the IDT. Once, by the boot CPU, before [`load`].
pub fn build_idt() {
    // SAFETY: the boot CPU alone is running (see `SharedIdt`).
    let idt = unsafe { &mut *IDT.0.get() };
    let stub = |vector: usize| VirtAddr::new(trap::stub_address(vector));
    // SAFETY: each stub follows the frame layout of its vector (error code or not), and the stack indices exist.
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

/// Loads this CPU's GDT, TSS and the IDT, with the boot trap stack for every vector, and where SYSCALL leads.
pub fn load() {
    // SAFETY: the cell belongs to this CPU; nothing else holds a reference to it (see `CpuBlock`).
    let descriptors = unsafe { &mut *crate::cpu::block().descriptors.get() }.write(Descriptors::new());
    let top = VirtAddr::from_ptr(BOOT_TRAP_STACK.0.get()) + BOOT_STACK_SIZE as u64;
    descriptors.tss.interrupt_stack_table = [top; TABLE_ENTRIES];
    descriptors.other_nmi_stack = top;
    let code = descriptors.gdt.append(Descriptor::kernel_code_segment());
    let data = descriptors.gdt.append(Descriptor::kernel_data_segment());
    let tss = descriptors.gdt.append(Descriptor::tss_segment(&descriptors.tss));
    let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
    // SAFETY: the tables live in a static and the selectors are theirs. GS is not loaded, which would clear its base.
    unsafe {
        descriptors.gdt.load_unsafe();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(null);
        ES::set_reg(null);
        load_tss(tss);
        (*IDT.0.get()).load_unsafe();
    }
    crate::system_call::init(code);
}

/// Gives this CPU its own, guarded trap stacks, named by their tops.
pub fn set_interrupt_stacks(tops: &[usize]) {
    // SAFETY: made by `load` before; the cell is this CPU's, and the TSS is only read by this CPU's hardware, at traps, which are off.
    let descriptors = unsafe { (*crate::cpu::block().descriptors.get()).assume_init_mut() };
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

/// True for a stack pointer of this CPU's on the stack for NMIs that the next one would not use, as far up as what enters and leaves a
/// handler gets.
pub(crate) fn is_on_other_nmi_stack(pointer: u64) -> bool {
    const REACH: u64 = 4096;
    other_nmi_stack().checked_sub(pointer).is_some_and(|below| below <= REACH)
}

/// Its top.
pub(crate) fn other_nmi_stack() -> u64 {
    // SAFETY: made by `load` before; changed with NMIs held off, as they are in the callers.
    unsafe { (*crate::cpu::block().descriptors.get()).assume_init_ref() }.other_nmi_stack.as_u64()
}

/// Lets further NMIs of this CPU use the stack that the one whose handler this is does not use. They stay there: that handler may
/// still be on its own when it has let others in.
#[cfg(feature = "pc")]
pub(crate) fn use_other_nmi_stack() {
    // SAFETY: made by `load` before; only this CPU's hardware reads it, at an NMI, which is held off.
    let descriptors = unsafe { (*crate::cpu::block().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    core::mem::swap(&mut table[Stack::NonMaskable as usize], &mut descriptors.other_nmi_stack);
    descriptors.tss.interrupt_stack_table = table;
}

/// Lets faults use their own stack again: what was on it is given up.
pub fn restore_fault_stack() {
    // SAFETY: made by `load` before; only this CPU's hardware reads it, and interrupts are off.
    let descriptors = unsafe { (*crate::cpu::block().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    table[Stack::Fault as usize] = descriptors.fault_stack;
    descriptors.tss.interrupt_stack_table = table;
}

/// Lets further faults of this CPU use the double fault's stack, because the fault's own is in use while one is reported.
pub(crate) fn move_fault_stack() {
    use_fault_stack(FaultStack::WhileReporting);
}

/// Stacks for faults that come while another one's handler may be on the faults' own stack, on its first instructions even.
#[derive(Clone, Copy)]
pub(crate) enum FaultStack {
    /// While a fault is reported, or a debugger has stopped the machine at a breakpoint.
    WhileReporting,
    /// In the handler of an NMI, which may come on either of the other stacks.
    InNonMaskable,
}

/// Lets further faults of this CPU use another stack; where they went before, for [`put_fault_stack_back`].
pub(crate) fn use_fault_stack(stack: FaultStack) -> VirtAddr {
    // SAFETY: made by `load` before; only this CPU's hardware reads it, interrupts are off, and an NMI's handler puts back what it
    // changes.
    let descriptors = unsafe { (*crate::cpu::block().descriptors.get()).assume_init_mut() };
    let table = descriptors.tss.interrupt_stack_table;
    let top = match stack {
        FaultStack::WhileReporting => table[Stack::DoubleFault as usize],
        FaultStack::InNonMaskable => table[Stack::NestedFault as usize],
    };
    put_fault_stack_back(top);
    table[Stack::Fault as usize]
}

/// Undoes [`use_fault_stack`].
pub(crate) fn put_fault_stack_back(top: VirtAddr) {
    // SAFETY: as in `use_fault_stack`.
    let descriptors = unsafe { (*crate::cpu::block().descriptors.get()).assume_init_mut() };
    let mut table = descriptors.tss.interrupt_stack_table;
    table[Stack::Fault as usize] = top;
    descriptors.tss.interrupt_stack_table = table;
}
