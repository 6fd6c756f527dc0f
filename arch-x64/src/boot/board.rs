//! [`Board`]: in what the machines with this CPU differ while they start.

use arch_contract::StartCpuError;
use arch_contract::boot::{CpuDescription, FirmwareTable, MAX_NODES, MAX_REGIONS, MemoryRegion, PhysicalRange};
use arrayvec::ArrayVec;
use firmware::Notices;
use firmware::memory_map::RangeList;

use super::landing::Landing;
use super::memory::FrameSource;
use super::storage::{Place, Storage};
use super::trampoline;
use crate::cpu::apic;

/// What the loader passed.
pub struct Loaded {
    /// The protocol by which the image was loaded ("PVH", "Multiboot2", ...).
    pub loader: &'static str,
    /// Usable memory, without the image and the loader's data.
    pub free: RangeList,
    /// Memory shared with the host, mapped like free memory.
    pub shared: ArrayVec<PhysicalRange, 3>,
    /// Physical address of the firmware's tables, 0 if the loader did not pass one.
    pub firmware: u64,
}

/// Why a boot cannot continue.
#[derive(Clone, Copy, Debug)]
pub enum CannotBoot {
    /// There is no memory to start with.
    NoMemory(&'static str),
    /// The kernel's page tables cannot be built.
    NoPageTables(&'static str),
    /// The registers that the kernel cannot do without cannot be mapped.
    NoRegisters(&'static str),
    /// The machine does not give the rate of its clock.
    NoClock,
}

impl CannotBoot {
    /// A human-readable reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoMemory(reason) | Self::NoPageTables(reason) | Self::NoRegisters(reason) => reason,
            Self::NoClock => "the machine does not give the rate of its clock",
        }
    }
}

/// A machine around this CPU, while it starts. The functions are called in their order here, by the
/// boot CPU, except for [`Board::enable_vectors`] and [`Board::enable_clock`], which each CPU
/// calls.
pub trait Board: 'static {
    /// The firmware's tables, once read.
    type Firmware: 'static;
    /// The kind of those tables.
    const FIRMWARE: &'static str;
    /// The other CPUs start in real mode, on a page below 1 MiB.
    const STARTS_IN_REAL_MODE: bool = true;

    /// Where the boot keeps what it learns.
    fn storage() -> &'static Place<Self::Firmware>;
    /// Prepares what [`Board::say`] writes to. The first call, before anything can be reported.
    fn open_console();
    /// Shows a start-up stage; the last word shows where start-up stopped.
    fn say(stage: &str);
    /// Reports why a boot cannot continue, and ends it.
    fn stop(why: CannotBoot) -> !;
    /// Enables floating-point and vector instructions on this CPU.
    fn enable_vectors() {}
    /// Reads what the loader passed, and all else that must be read by the start-up page tables.
    /// Keeps the command line in the storage.
    fn read_loader(magic: u32, information: u64, image: PhysicalRange, storage: &mut Storage<Self::Firmware>)
    -> Loaded;
    /// Reads the firmware's tables and maps registers, in the kernel's own address space.
    fn read_firmware(loaded: &Loaded, storage: &mut Storage<Self::Firmware>, tables: &mut FrameSource);
    /// How the local APIC's registers are accessed, and their physical address.
    fn local_apic(storage: &mut Storage<Self::Firmware>) -> (apic::Mode, u64);
    /// Prepares the devices, whose interrupts stay masked.
    fn prepare_devices(_storage: &mut Storage<Self::Firmware>, _tables: &mut FrameSource) {}
    /// The APIC ids of the CPUs that the firmware lists, this one among them or not.
    fn cpu_ids(firmware: &Self::Firmware) -> impl Iterator<Item = u32>;
    /// The NUMA node of a CPU.
    fn node_of_cpu(_firmware: &Self::Firmware, _id: u32) -> u8 {
        0
    }
    /// Finds the rate of the clock; returns false if it is a guess.
    fn find_clock_rate(firmware: &Self::Firmware) -> bool;
    /// Enables this CPU's clock.
    fn enable_clock();
    /// Lists the free memory, split at the borders of NUMA nodes.
    fn list_memory(
        free: &RangeList,
        _firmware: &Self::Firmware,
        regions: &mut ArrayVec<MemoryRegion, MAX_REGIONS>,
        notices: &mut Notices,
    ) {
        for &range in free {
            if regions.try_push(MemoryRegion { range, node: 0 }).is_err() {
                notices.add("memory: too many ranges; ignored the one at", range.start);
            }
        }
    }
    /// The number of NUMA nodes and their distances; one node unless the firmware lists more.
    fn nodes(_firmware: &Self::Firmware) -> (usize, &[[u8; MAX_NODES]; MAX_NODES]) {
        (1, &ALL_LOCAL)
    }
    /// Sends another CPU to its landing; see [`arch_contract::Platform::start_cpu`].
    ///
    /// # Errors
    /// See [`StartCpuError`].
    fn send_cpu(hardware_id: u32, landing: &Landing, wait: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
        trampoline::send(hardware_id, landing, wait)
    }
    /// The firmware's tables, for the console.
    fn firmware_tables(firmware: &Self::Firmware) -> &[FirmwareTable];
}

/// Distances where all memory is equally distant.
static ALL_LOCAL: [[u8; MAX_NODES]; MAX_NODES] = [[10; MAX_NODES]; MAX_NODES];

/// Describes a CPU by its APIC id.
pub(super) fn describe_cpu<B: Board>(firmware: &B::Firmware, id: u32) -> CpuDescription {
    CpuDescription { hardware_id: id, node: B::node_of_cpu(firmware, id) }
}
