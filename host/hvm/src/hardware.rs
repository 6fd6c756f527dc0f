//! [`Hardware`]: the virtual machine on which an HRT boots, again and again.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use protocol::boot::Extension;
use protocol::call::RINGS_PORT;
use protocol::group;
use rings::{REGION_SIZE, Rings};

use crate::bell::Bell;
use crate::boot_state::{self, Machine, Places};
use crate::descriptors::Descriptors;
use crate::events::Recorder;
use crate::image::Image;
use crate::lines::Line;
use crate::memory::{END_OF_LOW, MOST_CPUS, Mapping, START_OF_HIGH, add_memory, add_region};
use crate::partners::locked;
use crate::vcpu::Vcpu;
use crate::windows::Windows;
use crate::{Error, cpu, support};

/// Physical address of the rings' region, between the two parts of the HRT's memory.
const RINGS: u64 = END_OF_LOW;
/// The most memory that an HRT can have.
const MOST_MEMORY: u64 = 1 << 40;
/// Physical address of the windows' page tables.
const WINDOW_TABLES: u64 = RINGS + REGION_SIZE;
/// Physical address of the execution groups' pages.
const GROUPS: u64 = RINGS + (256 << 20);
/// Physical addresses that KVM uses itself on some CPUs (KVM's API, KVM_SET_TSS_ADDR and
/// KVM_SET_IDENTITY_MAP_ADDR); nothing else is there.
const KVMS_OWN: u64 = 0xfffb_d000;
const KVMS_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Lines of the I/O APIC that the ROS could raise; the HRT has no I/O APIC, but KVM takes no 0.
const NO_LINES: u64 = 24;
const PAGE: u64 = 4096;
/// Memory slots: of the HRT's own memory, the rings, the groups; the first one that is free.
const MEMORY_SLOTS: [u32; 2] = [0, 1];
const RINGS_SLOT: u32 = 2;
const GROUPS_SLOT: u32 = 3;
const FIRST_FREE_SLOT: u32 = 4;

/// A virtual machine: its memory, its windows onto this process, its CPUs.
pub struct Hardware {
    /// KVM's machine.
    pub vm: VmFd,
    /// What the HRT sees of this process.
    pub windows: Mutex<Windows>,
    /// The HRT's own memory.
    pub memory: Mapping,
    /// The pages of the execution groups.
    pub groups: Mapping,
    /// A word that reads 0 in a fork of the process that booted the HRT.
    pub here: Mapping,
    /// Records events for a listener.
    pub recorder: Arc<Recorder>,
    /// Rung when the kernel tells of bytes in the rings.
    pub bell: Arc<Bell>,
    /// Where its descriptors are.
    pub descriptors: Arc<Descriptors>,
    /// The number of CPUs without partners.
    pub cpus: u32,
    /// Rate of the time counter, in kHz.
    pub cycle_khz: u64,
    rings_file: File,
    kinds: Vec<u32>,
    /// CPUs that nothing runs, by their ids: making one takes KVM long, and a machine cannot have
    /// two with the same id.
    kept: Mutex<Vec<(u32, Vcpu)>>,
    cpuid: CpuId,
    has_deadlines: bool,
    has_large_pages: bool,
    _rings: Mapping,
    _kvm: Kvm,
}

impl Hardware {
    /// Makes a machine that has room for an image, with lines of these kinds.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        image: &Image<'_>,
        cpus: u32,
        memory: u64,
        kinds: &[u32],
        descriptors: Descriptors,
    ) -> Result<Self, Error> {
        // SAFETY: the descriptor is that of the same file, and is given over.
        let kvm = descriptors.place(support::open()?, |fd| Some(unsafe { Kvm::from_raw_fd(fd) }));
        let most = (kvm.get_max_vcpus() as u32).min(MOST_CPUS);
        if cpus == 0 || cpus > most {
            return Err(Error::BadCpus { asked: cpus, most });
        }
        let size = memory.checked_next_multiple_of(PAGE).filter(|size| (least(image)..=MOST_MEMORY).contains(size));
        let size = size.ok_or(Error::BadSize { asked: memory, least: least(image), most: MOST_MEMORY })?;
        let vm = kvm.create_vm().map_err(Error::refused("creating a virtual machine"))?;
        // SAFETY: as above.
        let vm = descriptors.place(vm, |fd| unsafe { kvm.create_vmfd_from_rawfd(fd) }.ok());
        // SAFETY: as above.
        let rings_file = descriptors.place(rings_file(kinds)?, |fd| Some(unsafe { File::from_raw_fd(fd) }));
        let memory = Mapping::huge(size as usize)?;
        let rings = Mapping::shared(&rings_file, REGION_SIZE as usize)?;
        let groups = Mapping::private(MOST_CPUS as usize * group::SIZE)?;
        let here = Mapping::wiped_in_forks()?;
        here.word(0).into_iter().for_each(|word| word.store(1, Ordering::Relaxed));
        prepare_apics(&vm)?;
        add_memory(&vm, MEMORY_SLOTS, &memory)?;
        add_region(&vm, RINGS_SLOT, RINGS, &rings)?;
        add_region(&vm, GROUPS_SLOT, GROUPS, &groups)?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::refused("reading KVM's features"))?;
        let has_large_pages = has_large_pages(&cpuid);
        let behind = START_OF_HIGH + size.saturating_sub(END_OF_LOW);
        let windows =
            Windows::new(&vm, WINDOW_TABLES, behind, FIRST_FREE_SLOT, has_large_pages, support::address_bits())?;
        let bell = Bell::new(&descriptors)
            .map_err(|why| Error::Refused { what: "making an event for the HRT's lines", why })?;
        let mut hardware = Self {
            windows: Mutex::new(windows),
            memory,
            groups,
            here,
            recorder: Arc::new(Recorder::new()?),
            bell: Arc::new(bell),
            descriptors: Arc::new(descriptors),
            cpus,
            cycle_khz: 0,
            rings_file,
            kinds: kinds.to_vec(),
            kept: Mutex::default(),
            cpuid,
            has_deadlines: kvm.check_extension(Cap::TscDeadlineTimer),
            has_large_pages,
            vm,
            _rings: rings,
            _kvm: kvm,
        };
        let first = hardware.create_cpu(0)?;
        hardware.cycle_khz = first.fd.get_tsc_khz().map_err(Error::refused("reading the time counter's rate"))?.into();
        hardware.keep_cpu(0, first);
        Ok(hardware)
    }

    /// Has KVM ring the bell when the kernel tells of bytes in the rings.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn connect_bell(&self) -> Result<(), Error> {
        let address = IoEventAddress::Pio(RINGS_PORT.into());
        let connected = self.vm.register_ioevent(self.bell.event(), &address, NoDatamatch);
        connected.map_err(Error::refused("having KVM tell of bytes in the rings"))
    }

    /// Puts an image into the memory, which is clear, with what its CPUs look for.
    ///
    /// # Errors
    /// [`Error::BadSize`], [`Error::BadImage`], [`Error::LongCommandLine`].
    pub fn load(&self, image: &Image<'_>, line: &str) -> Result<Places, Error> {
        let size = self.memory.size() as u64;
        if size.min(END_OF_LOW) < least(image) {
            return Err(Error::BadSize { asked: size, least: least(image), most: MOST_MEMORY });
        }
        image.load(&self.memory)?;
        let machine = Machine {
            cpus: self.cpus,
            cycle_khz: self.cycle_khz,
            has_large_pages: self.has_large_pages,
            extension: Extension {
                rings: RINGS,
                rings_size: REGION_SIZE,
                groups: GROUPS,
                pages: u64::from(MOST_CPUS - self.cpus) + 1,
            },
            line,
        };
        boot_state::write(&self.memory, image.end().next_multiple_of(PAGE), &image.request, &machine)
    }

    /// Clears the memory in which an image expects zeros. The rest keeps what it has, as a PC's
    /// memory does when it is reset, so that neither Linux nor KVM has to provide it again. So many
    /// groups were in use; no CPU runs.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn clear(&self, image: &Image<'_>, groups: u64) -> Result<(), Error> {
        self.memory.clear(0, least(image));
        let size = group::SIZE as u64;
        // Also that of synchronous mode, behind all others.
        self.groups.clear(0, groups * size);
        self.groups.clear(u64::from(MOST_CPUS - self.cpus) * size, size);
        fill(&self.rings_file, &self.kinds)
    }

    /// The ROS's side of a line's rings.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be copied.
    pub fn rings(&self, line: Line) -> std::io::Result<Rings> {
        let file = self.rings_file.try_clone()?;
        // SAFETY: the descriptor is that of the same file, and is given over.
        let file = self.descriptors.place(file, |fd| Some(unsafe { File::from_raw_fd(fd) }));
        Ok(Rings::new(file, 0, line as u32))
    }

    /// Takes a CPU, as good as new.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn take_cpu(&self, id: u32) -> Result<Vcpu, Error> {
        let kept = {
            let mut kept = locked(&self.kept);
            kept.iter().position(|(its, _)| *its == id).map(|place| kept.swap_remove(place).1)
        };
        match kept {
            Some(mut cpu) => cpu.refresh().map(|()| cpu).map_err(Error::refused("resetting a CPU")),
            None => self.create_cpu(id),
        }
    }

    /// Keeps a CPU that is not run any more.
    pub fn keep_cpu(&self, id: u32, cpu: Vcpu) {
        locked(&self.kept).push((id, cpu));
    }

    fn create_cpu(&self, id: u32) -> Result<Vcpu, Error> {
        let fd = self.vm.create_vcpu(id.into()).map_err(Error::refused("creating a CPU"))?;
        // SAFETY: the descriptor is that of the same CPU, and is given over.
        let fd = self.descriptors.place(fd, |fd| unsafe { self.vm.create_vcpu_from_rawfd(fd) }.ok());
        let mut cpuid = self.cpuid.clone();
        cpu::identify(&mut cpuid, id, self.has_deadlines);
        cpu::prepare(&fd, &cpuid)?;
        Vcpu::new(fd).map_err(Error::refused("reading the CPU's state"))
    }
}

/// The least memory that an image needs, in bytes.
fn least(image: &Image<'_>) -> u64 {
    image.end().next_multiple_of(PAGE) + boot_state::SIZE
}

/// A file in memory with the rings' region.
fn rings_file(kinds: &[u32]) -> Result<File, Error> {
    // SAFETY: the name is a string that ends with a zero byte.
    let file = unsafe { libc::memfd_create(c"hrt-rings".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Error::last("creating memory for the HRT's rings"));
    }
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(REGION_SIZE).map_err(|why| Error::Refused { what: "creating memory for the HRT's rings", why })?;
    fill(&file, kinds)?;
    Ok(file)
}

/// Empties the rings.
fn fill(file: &File, kinds: &[u32]) -> Result<(), Error> {
    rings::prepare(file, 0, kinds).map_err(|why| Error::Refused { what: "filling the HRT's rings", why })
}

/// Gives the machine local APICs, and nothing else of an interrupt controller.
fn prepare_apics(vm: &VmFd) -> Result<(), Error> {
    vm.set_identity_map_address(KVMS_IDENTITY_MAP).map_err(Error::refused("placing KVM's own pages"))?;
    vm.set_tss_address(KVMS_OWN as usize).map_err(Error::refused("placing KVM's own pages"))?;
    let apics = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [NO_LINES, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&apics).map_err(Error::refused("creating the APICs"))
}

/// Whether the guest's page tables may have leaves of 1 GiB (SDM Vol. 2A, CPUID 80000001h: EDX bit
/// 26).
fn has_large_pages(cpuid: &CpuId) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == 0x8000_0001 && entry.edx & 1 << 26 != 0)
}
