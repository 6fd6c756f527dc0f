//! What the CPU says it is (SDM Vol. 2, CPUID).

use core::fmt;

use raw_cpuid::{CpuId, Hypervisor};

/// Its model: leaves 80000002h to 80000004h, or the vendor's name of leaf 0.
pub fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result {
    let id = CpuId::new();
    let (brand, vendor) = (id.get_processor_brand_string(), id.get_vendor_info());
    let name = brand.as_ref().map(|brand| brand.as_str().trim()).filter(|name| !name.is_empty());
    write.write_str(name.or(vendor.as_ref().map(|vendor| vendor.as_str())).unwrap_or("unknown"))
}

/// What executes its instructions, by the signature of leaf 40000000h: `tcg` (QEMU's emulator), `kvm`, another
/// hypervisor, or `none`.
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
