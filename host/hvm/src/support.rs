//! Whether this machine's KVM can run an HRT.

use std::fmt;
use std::fs;
use std::io::ErrorKind;

use kvm_ioctls::{Cap, Kvm};
use raw_cpuid::CpuId;

use crate::Error;

/// The version of KVM's interface, which has not changed since Linux 2.6.22 (KVM's API, 4.1).
const API_VERSION: i32 = 12;
/// Bits of physical addresses that an HVM needs: its own memory and windows onto the process's.
const LEAST_ADDRESS_BITS: u8 = 39;

/// Why this machine's KVM cannot be used.
#[derive(Debug)]
pub enum Missing {
    /// There is no /dev/kvm.
    NoDevice {
        /// The CPU has VMX or SVM.
        has_extensions: bool,
        /// This machine is itself a virtual one.
        is_guest: bool,
    },
    /// /dev/kvm may not be opened.
    NoPermission,
    /// The KVM interprets the guest's privileged code, because the CPU shows no VMX or SVM (PVM).
    Interprets,
    /// KVM's interface has another version.
    Version(i32),
    /// KVM lacks something, by its name in KVM's API.
    Lacks(&'static str),
    /// The CPU's physical addresses are too short.
    AddressBits(u8),
    /// /dev/kvm cannot be opened for another reason.
    Other(std::io::Error),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { has_extensions: true, .. } => f.write_str(
                "there is no /dev/kvm, although the CPU can virtualise (`modprobe kvm_intel` or `modprobe kvm_amd`)",
            ),
            Self::NoDevice { is_guest: true, .. } => f.write_str(
                "there is no /dev/kvm: this is a virtual machine whose host does not let it run others (nested \
                 virtualisation is off)",
            ),
            Self::NoDevice { .. } => f.write_str(
                "there is no /dev/kvm, and the CPU shows neither VMX nor SVM (virtualisation may be off in the firmware)",
            ),
            Self::NoPermission => {
                f.write_str("/dev/kvm may not be opened by this user (`usermod -aG kvm $USER`, then log in again)")
            }
            Self::Interprets => f.write_str(
                "this KVM interprets what a kernel does, because the CPU shows neither VMX nor SVM (PVM); an HRT would \
                 be slow and wrong in it",
            ),
            Self::Version(version) => write!(f, "KVM's interface has version {version}, not {API_VERSION}"),
            Self::Lacks(name) => write!(f, "this KVM lacks {name}; Linux 5.4 and later have it"),
            Self::AddressBits(bits) => {
                write!(f, "the CPU's physical addresses have {bits} bits; an HVM needs {LEAST_ADDRESS_BITS}")
            }
            Self::Other(error) => write!(f, "/dev/kvm cannot be opened: {error}"),
        }
    }
}

/// Bits of a physical address (SDM Vol. 2A, CPUID 80000008h; 36 without that leaf).
pub(crate) fn address_bits() -> u8 {
    CpuId::new().get_processor_capacity_feature_info().map_or(36, |info| info.physical_address_bits())
}

/// Opens KVM.
///
/// # Errors
/// [`Error::Unusable`].
pub fn open() -> Result<Kvm, Error> {
    open_kvm().map_err(Error::Unusable)
}

/// Checks whether KVM can be used.
///
/// # Errors
/// [`Error::Unusable`], with what is missing.
pub fn check() -> Result<(), Error> {
    open().map(|_| ())
}

fn open_kvm() -> Result<Kvm, Missing> {
    let id = CpuId::new();
    let has_vmx = id.get_feature_info().is_some_and(|features| features.has_vmx());
    let has_extensions =
        has_vmx || id.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_svm());
    let is_guest = id.get_feature_info().is_some_and(|features| features.has_hypervisor());
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(match error.kind() {
            ErrorKind::NotFound => Missing::NoDevice { has_extensions, is_guest },
            ErrorKind::PermissionDenied => Missing::NoPermission,
            _ => Missing::Other(error),
        });
    }
    if !has_extensions {
        return Err(Missing::Interprets);
    }
    let kvm = Kvm::new().map_err(|error| Missing::Other(std::io::Error::from_raw_os_error(error.errno())))?;
    if kvm.get_api_version() != API_VERSION {
        return Err(Missing::Version(kvm.get_api_version()));
    }
    let needed = [
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
        (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    ];
    if let Some((_, name)) = needed.into_iter().find(|(needed, _)| !kvm.check_extension(*needed)) {
        return Err(Missing::Lacks(name));
    }
    let bits = address_bits();
    if bits < LEAST_ADDRESS_BITS {
        return Err(Missing::AddressBits(bits));
    }
    Ok(kvm)
}
