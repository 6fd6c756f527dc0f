//! CPU identification (SDM Vol. 2, CPUID).

use core::fmt;

use raw_cpuid::{CpuId, Hypervisor};
use x86_64::registers::xcontrol::XCr0Flags;

/// The local APIC timer's rate in KVM and QEMU; see [`apic_hz`].
const EMULATED_APIC_HZ: u64 = 1_000_000_000;

/// Writes the CPU's model: leaves 80000002h to 80000004h, or the vendor's name from leaf 0.
pub fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result {
    let id = CpuId::new();
    let (brand, vendor) = (id.get_processor_brand_string(), id.get_vendor_info());
    let name = brand.as_ref().map(|brand| brand.as_str().trim()).filter(|name| !name.is_empty());
    write.write_str(name.or(vendor.as_ref().map(|vendor| vendor.as_str())).unwrap_or("unknown"))
}

/// The emulator or hypervisor that executes this CPU's instructions, by the signature of leaf
/// 40000000h: `tcg` (QEMU's emulator), `kvm`, another hypervisor or `unknown`, or `none`.
pub fn accelerator() -> &'static str {
    match CpuId::new().get_hypervisor_info().map(|info| info.identify()) {
        None => "none",
        Some(Hypervisor::QEMU) => "tcg",
        Some(Hypervisor::KVM) => "kvm",
        Some(Hypervisor::Xen) => "xen",
        Some(Hypervisor::VMware) => "vmware",
        Some(Hypervisor::HyperV) => "hyper-v",
        Some(_) => "unknown",
    }
}

/// The highest x86-64 level of which this CPU has every feature (System V ABI, AMD64 supplement,
/// 3.1.1, table 3.1), counting only vector state that the kernel has enabled.
pub fn instruction_set() -> &'static str {
    let id = CpuId::new();
    let (Some(basic), Some(more)) = (id.get_feature_info(), id.get_extended_processor_and_feature_identifiers()) else {
        return "x86-64";
    };
    let second = basic.has_sse3()
        && basic.has_ssse3()
        && basic.has_sse41()
        && basic.has_sse42()
        && basic.has_popcnt()
        && basic.has_cmpxchg16b()
        && more.has_lahf_sahf();
    let Some(extended) = id.get_extended_feature_info().filter(|_| second) else {
        return if second { "x86-64-v2" } else { "x86-64" };
    };
    let on = super::vectors::components();
    let has_state = |wanted: XCr0Flags| on & wanted.bits() == wanted.bits();
    let third = basic.has_avx()
        && has_state(XCr0Flags::AVX)
        && extended.has_avx2()
        && extended.has_bmi1()
        && extended.has_bmi2()
        && basic.has_f16c()
        && basic.has_fma()
        && more.has_lzcnt()
        && basic.has_movbe();
    let fourth = extended.has_avx512f()
        && has_state(XCr0Flags::OPMASK | XCr0Flags::ZMM_HI256 | XCr0Flags::HI16_ZMM)
        && extended.has_avx512bw()
        && extended.has_avx512cd()
        && extended.has_avx512dq()
        && extended.has_avx512vl();
    match (third, fourth) {
        (true, true) => "x86-64-v4",
        (true, false) => "x86-64-v3",
        _ => "x86-64-v2",
    }
}

/// Whether the local APIC has an x2APIC mode.
pub fn has_x2apic() -> bool {
    CpuId::new().get_feature_info().is_some_and(|features| features.has_x2apic())
}

/// The rate of the local APIC's timer in Hz, if it is known. The sources, in order: a hypervisor's
/// statement (40000010h EBX in kHz); the crystal (SDM Vol. 2A, CPUID 15h ECX; Vol. 3A, 11.5.4); the
/// rate that KVM and QEMU emulate (KVM's API, KVM_CAP_X86_APIC_BUS_CYCLES_NS: a nanosecond by
/// default; QEMU's APIC counts its virtual clock's nanoseconds).
pub fn apic_hz() -> Option<u64> {
    let cpuid = CpuId::new();
    let hypervisor = cpuid.get_hypervisor_info();
    let stated = hypervisor.as_ref().and_then(|info| info.apic_frequency()).map(|khz| u64::from(khz) * 1000);
    let crystal = cpuid.get_tsc_info().map(|info| u64::from(info.nominal_frequency()));
    let emulated = hypervisor
        .filter(|info| matches!(info.identify(), Hypervisor::KVM | Hypervisor::QEMU))
        .map(|_| EMULATED_APIC_HZ);
    stated.or(crystal).filter(|&frequency| frequency > 1_000_000).or(emulated)
}

/// Executes UD2, which is invalid on every CPU.
pub fn execute_invalid_instruction() -> ! {
    // SAFETY: UD2 always traps, and the trap's handler does not return.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
