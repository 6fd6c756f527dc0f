//! [`Hvm`]: an HRT beside this process.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use protocol::boot::Extension;
use rings::{REGION_SIZE, Rings};

use crate::boot_state::{self, Machine};
use crate::cpu::{self, Runner};
use crate::image::Image;
use crate::memory::Mapping;
use crate::state::{End, State};
use crate::{Error, support};

/// Physical address of the rings' region; the HRT's memory ends below it.
const RINGS: u64 = 3 << 30;
/// Physical addresses that KVM uses itself on some CPUs (KVM's API, KVM_SET_TSS_ADDR and
/// KVM_SET_IDENTITY_MAP_ADDR); nothing else is there.
const KVMS_OWN: u64 = 0xfffb_d000;
const KVMS_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Lines of the I/O APIC that the ROS could raise; the HRT has no I/O APIC, but KVM takes no 0.
const NO_LINES: u64 = 24;
const PAGE: u64 = 4096;
/// Largest number of CPUs: the kernel's.
const MOST_CPUS: u32 = 256;

/// Describes an HVM.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    image: &'a [u8],
    cpus: u32,
    memory: u64,
    line: &'a str,
}

impl<'a> Builder<'a> {
    /// The number of CPUs; 1 unless set.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// The HRT's own memory, in bytes, rounded up to whole pages; 256 MiB unless set. What the HRT
    /// does not touch costs nothing.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The kernel's command line.
    pub fn command_line(mut self, line: &'a str) -> Self {
        self.line = line;
        self
    }

    /// Boots the HRT. Returns as soon as its CPUs run.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn boot(self) -> Result<Hvm, Error> {
        let image = Image::parse(self.image)?;
        let kvm = support::open()?;
        let most = (kvm.get_max_vcpus() as u32).min(MOST_CPUS);
        if self.cpus == 0 || self.cpus > most {
            return Err(Error::BadCpus { asked: self.cpus, most });
        }
        let least = image.end().next_multiple_of(PAGE) + boot_state::SIZE;
        let size = self.memory.checked_next_multiple_of(PAGE).filter(|size| (least..=RINGS).contains(size));
        let size = size.ok_or(Error::BadSize { asked: self.memory, least, most: RINGS })?;

        let vm = kvm.create_vm().map_err(Error::refused("creating a virtual machine"))?;
        let (memory, rings_file) = (Mapping::private(size as usize)?, rings_file()?);
        let rings = Mapping::shared(&rings_file, REGION_SIZE as usize)?;
        prepare_apics(&vm)?;
        for (slot, (at, mapping)) in [(0, &memory), (RINGS, &rings)].into_iter().enumerate() {
            add_memory(&vm, slot as u32, at, mapping)?;
        }
        image.load(&memory)?;
        let mut cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::refused("reading KVM's features"))?;
        let first = vm.create_vcpu(0).map_err(Error::refused("creating a CPU"))?;
        let machine = Machine {
            cpus: self.cpus,
            cycle_khz: first.get_tsc_khz().map_err(Error::refused("reading the time counter's rate"))?.into(),
            has_large_pages: has_large_pages(&cpuid),
            rings: Extension { rings: RINGS, rings_size: REGION_SIZE },
            line: self.line,
        };
        let places = boot_state::write(&memory, &image.request, &machine)?;
        let mut cpus = vec![first];
        for id in 1..self.cpus {
            cpus.push(vm.create_vcpu(id.into()).map_err(Error::refused("creating a CPU"))?);
        }
        let has_deadlines = kvm.check_extension(Cap::TscDeadlineTimer);
        for (id, cpu) in cpus.iter().enumerate() {
            cpu::identify(&mut cpuid, id as u32, has_deadlines);
            cpu::prepare(cpu, &cpuid, &image.request, &places)?;
        }
        let mut runners = Vec::new();
        let state = Arc::default();
        for (index, cpu) in cpus.into_iter().enumerate() {
            match Runner::start(index as u32, cpu, &state) {
                Ok(runner) => runners.push(runner),
                Err(error) => {
                    stop(&state, runners);
                    return Err(error);
                }
            }
        }
        Ok(Hvm { state, runners: runners.into(), rings_file, _vm: vm, _kvm: kvm, _memory: [memory, rings] })
    }
}

/// A file in memory with the rings' region.
fn rings_file() -> Result<File, Error> {
    // SAFETY: the name is a string that ends with a zero byte.
    let file = unsafe { libc::memfd_create(c"hrt-rings".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Error::last("creating memory for the HRT's rings"));
    }
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(file) };
    let filled = file.set_len(REGION_SIZE).and_then(|()| file.write_all_at(&rings::empty_region(), 0));
    filled.map_err(|why| Error::Refused { what: "filling the HRT's rings", why })?;
    Ok(file)
}

/// Gives the machine local APICs, and nothing else of an interrupt controller.
fn prepare_apics(vm: &VmFd) -> Result<(), Error> {
    vm.set_identity_map_address(KVMS_IDENTITY_MAP).map_err(Error::refused("placing KVM's own pages"))?;
    vm.set_tss_address(KVMS_OWN as usize).map_err(Error::refused("placing KVM's own pages"))?;
    let apics = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [NO_LINES, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&apics).map_err(Error::refused("creating the APICs"))
}

fn add_memory(vm: &VmFd, slot: u32, at: u64, mapping: &Mapping) -> Result<(), Error> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: at,
        memory_size: mapping.size() as u64,
        userspace_addr: mapping.address(),
    };
    // SAFETY: the mapping lives until the virtual machine is gone (`Hvm`), and nothing refers to
    // its content.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::refused("giving the HRT memory"))
}

/// Whether the guest's page tables may have leaves of 1 GiB (SDM Vol. 2A, CPUID 80000001h: EDX bit
/// 26).
fn has_large_pages(cpuid: &kvm_bindings::CpuId) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == 0x8000_0001 && entry.edx & 1 << 26 != 0)
}

/// An HRT beside this process. Dropping it stops the HRT.
pub struct Hvm {
    state: Arc<State>,
    runners: Mutex<Vec<Runner>>,
    rings_file: File,
    // In this order: the machine goes before its memory.
    _vm: VmFd,
    _kvm: Kvm,
    _memory: [Mapping; 2],
}

impl Hvm {
    /// Describes an HVM that boots an image: the bytes of an ELF file.
    pub fn builder(image: &[u8]) -> Builder<'_> {
        Builder { image, cpus: 1, memory: 256 << 20, line: "" }
    }

    /// Returns the ROS's side of the HRT's console.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be copied.
    pub fn console(&self) -> std::io::Result<Rings> {
        Ok(Rings::new(self.rings_file.try_clone()?, 0))
    }

    /// Takes the characters that the HRT wrote to the character port, which it does before its
    /// console runs.
    pub fn take_characters(&self) -> Vec<u8> {
        self.state.take_said()
    }

    /// How the HRT ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.state.ended()
    }

    /// Waits until the HRT has ended; `None` if it has not in time.
    pub fn wait(&self, limit: Duration) -> Option<End> {
        self.state.wait(limit)
    }

    /// Stops the HRT. Returns how it ended, which may be by itself just before.
    pub fn stop(&self) -> End {
        let runners = std::mem::take(&mut *self.runners.lock().unwrap_or_else(PoisonError::into_inner));
        stop(&self.state, runners)
    }
}

impl Drop for Hvm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends the HRT unless it has ended, and waits for its threads. Returns how it ended.
fn stop(state: &State, runners: Vec<Runner>) -> End {
    let end = state.end(End::Stopped);
    runners.into_iter().for_each(Runner::join);
    end
}
