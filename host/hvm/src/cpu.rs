//! A CPU of the HRT: its identity, and the state in which it enters the image.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    CpuId, KVM_MP_STATE_RUNNABLE, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, kvm_device_attr, kvm_fpu, kvm_mp_state, kvm_regs, kvm_segment, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use protocol::boot::Request;

use crate::Error;
use crate::boot_state::Places;

/// CR0 when an HRT's CPU enters: protected mode, extension type, numeric error, write protect,
/// paging (SDM Vol. 3A, 2.5).
const CR0: u64 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension.
const CR4: u64 = 1 << 5;
/// EFER: long mode enabled and active, no-execute enabled (SDM Vol. 3A, 2.2.1).
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// The reserved bit of RFLAGS that is always set.
const FLAGS: u64 = 2;
/// Initial control words of the x87 and SSE units (SDM Vol. 1, 8.1.5 and 10.2.3); KVM's are 0.
const X87_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;
/// The request `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` (Linux, include/uapi/linux/kvm.h).
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

/// Gives a CPU its identity: the APIC id, and the timer that KVM's own list of features omits.
pub fn identify(cpuid: &mut CpuId, id: u32, has_deadlines: bool) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // SDM Vol. 2A, CPUID 01h: EBX bits 31 to 24 are the APIC id; ECX bit 21 x2APIC, bit 24
            // TSC deadline, bit 31 hypervisor.
            0x1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | id << 24;
                entry.ecx |= 1 << 21 | u32::from(has_deadlines) << 24 | 1 << 31;
            }
            // The id is in EDX of every subleaf.
            0xb | 0x1f => entry.edx = id,
            _ => {}
        }
    }
}

/// Gives a new CPU its features.
///
/// # Errors
/// [`Error::Refused`].
pub fn prepare(cpu: &VcpuFd, cpuid: &CpuId) -> Result<(), Error> {
    cpu.set_cpuid2(cpuid).map_err(Error::refused("setting the CPU's features"))?;
    use_own_time_counter(cpu)
}

/// Has a CPU enter the image, with a magic number.
///
/// # Errors
/// [`Error::Refused`].
pub fn enter(cpu: &VcpuFd, request: &Request, places: &Places, magic: u32) -> Result<(), Error> {
    // Nothing may be left over from what it did before.
    let nothing =
        kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW, ..Default::default() };
    cpu.set_vcpu_events(&nothing).map_err(Error::refused("clearing the CPU's events"))?;
    let mut special = cpu.get_sregs().map_err(Error::refused("reading the CPU's state"))?;
    let segment = |selector: u16, kind: u8, is_code: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!is_code),
        s: 1,
        l: u8::from(is_code),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    special.cs = segment(8, 0xb, true);
    let data = segment(16, 0x3, false);
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    special.gdt.base = places.descriptors + request.offset;
    special.gdt.limit = places.descriptors_size - 1;
    special.idt.base = 0;
    special.idt.limit = 0;
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, places.root, CR4, EFER);
    cpu.set_sregs(&special).map_err(Error::refused("setting the CPU's state"))?;
    let registers = kvm_regs {
        rax: u64::from(magic),
        rbx: places.information,
        rip: request.entry,
        rflags: FLAGS,
        ..Default::default()
    };
    cpu.set_regs(&registers).map_err(Error::refused("setting the CPU's registers"))?;
    let vectors = kvm_fpu { fcw: X87_CONTROL, mxcsr: MXCSR, ..Default::default() };
    cpu.set_fpu(&vectors).map_err(Error::refused("setting the CPU's vector state"))?;
    // KVM would have the others wait for a start-up message.
    let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
    cpu.set_mp_state(runnable).map_err(Error::refused("starting the CPU"))
}

/// Makes the CPU's time counter that of the machine, which Linux's own clock functions read.
fn use_own_time_counter(cpu: &VcpuFd) -> Result<(), Error> {
    let offset = 0_u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const offset as u64,
        ..Default::default()
    };
    // SAFETY: KVM reads the attribute, and the word that it points to.
    let failed = unsafe { libc::ioctl(cpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) } != 0;
    if failed { Err(Error::last("setting the CPU's time counter (Linux 5.16 or later can)")) } else { Ok(()) }
}
