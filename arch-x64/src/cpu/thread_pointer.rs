//! FS base, which points at the thread-local variables of programs.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use raw_cpuid::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::FsBase;

/// True if FS base can be written by WRFSBASE (SDM Vol. 2, WRFSBASE) instead of through its MSR.
static HAS_FS_BASE: AtomicBool = AtomicBool::new(false);

/// Enables WRFSBASE on this CPU if the CPU has it. All CPUs are alike.
pub(super) fn enable() {
    let has = CpuId::new().get_extended_feature_info().is_some_and(|features| features.has_fsgsbase());
    if has {
        // SAFETY: the CPU has the instructions, and only `set` uses them.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::FSGSBASE)) };
    }
    HAS_FS_BASE.store(has, Ordering::Relaxed);
}

/// Sets FS base, which the kernel itself does not use, through its MSR.
pub fn set_by_msr(address: usize) {
    FsBase::write(VirtAddr::new_truncate(address as u64));
}

/// Sets FS base in the fastest way this CPU has.
#[cold]
#[inline(never)]
pub fn set(address: usize) {
    if HAS_FS_BASE.load(Ordering::Relaxed) {
        // SAFETY: `enable` enabled the instruction on every CPU; the address lies in a
        // program's memory, so it is canonical.
        unsafe { asm!("wrfsbase {}", in(reg) address, options(nostack, preserves_flags)) };
    } else {
        set_by_msr(address);
    }
}
