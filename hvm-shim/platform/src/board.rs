//! [`Hvm`]: what is a hybrid virtual machine's own while it starts.

use arch_contract::StartCpuError;
use arch_contract::boot::{FirmwareTable, PhysicalRange};
use arch_x64::boot::landing::Landing;
use arch_x64::boot::memory::{FrameSource, StartUpMemory};
use arch_x64::boot::storage::{Place, Storage, keep_line};
use arch_x64::boot::{Board, CannotBoot, Loaded};
use arch_x64::cpu::{apic, apic_clock, identity, interrupts, vectors};
use firmware::{PhysicalMemory, memory_map, multiboot2};
use protocol::boot::{EXTENSION_TAG, Extension, INFORMATION_TAG, Information, tag};
use protocol::call::{Ending, extension};
use protocol::group;
use wire::rings::channel::KIND_CONSOLE;

use crate::lines::{CONSOLE, DEBUGGER, TELEMETRY};
use crate::{downcall, parked, ros_code, upcall};

/// Physical address of the local APIC's registers, where there is no x2APIC (SDM Vol. 3A, 11.4.1).
const LOCAL_APIC: u64 = 0xfee0_0000;
/// The first page: address 0 is nowhere.
const FIRST_PAGE: PhysicalRange = PhysicalRange { start: 0, end: 0x1000 };
/// Size of the part of memory that starts with the start-up page tables and has the communication
/// page, in bytes.
const BOOT_STATE_SIZE: u64 = 64 << 10;

static STORAGE: Place<Information> = Place::new(Information {
    apic_count: 0,
    first_apic_id: 0,
    cycle_khz: 0,
    flags: 0,
    mapped: 0,
    first_own: 0,
    boot_state: 0,
    offset: 0,
    communication_page: 0,
    vector: 0,
});

/// A hybrid virtual machine while it starts.
pub struct Hvm;

impl Board for Hvm {
    type Firmware = Information;
    const FIRMWARE: &'static str = "HRT tag";
    const STARTS_IN_REAL_MODE: bool = false;

    fn storage() -> &'static Place<Self::Firmware> {
        &STORAGE
    }

    /// The console's rings are found later; until then characters go to a port.
    fn open_console() {}

    fn say(stage: &str) {
        stage.bytes().for_each(downcall::write);
    }

    fn stop(why: CannotBoot) -> ! {
        Self::say("\r\nAerokernel: ");
        Self::say(why.reason());
        Self::say("\r\n");
        downcall::call(extension::END, [Ending::CannotBoot as u64, 1]);
        interrupts::halt_forever()
    }

    fn enable_vectors() {
        vectors::enable();
    }

    fn read_loader(magic: u32, address: u64, image: PhysicalRange, storage: &mut Storage<Self::Firmware>) -> Loaded {
        let notices = &mut storage.notices;
        // SAFETY: `memory` is used only in this function, before the start-up page tables are
        // replaced.
        let memory = unsafe { StartUpMemory::new() };
        if magic != protocol::boot::MAGIC {
            notices.add("HRT: the monitor's magic number is not the protocol's", u64::from(magic));
        }
        let info = multiboot2::parse(&memory, address, notices);
        let own = PhysicalRange { start: address, end: address + info.length as u64 };
        keep_line(info.command_line, &mut storage.command_line);
        let bytes = memory.bytes(address, info.length).unwrap_or(&[]);
        match tag(bytes, INFORMATION_TAG).and_then(Information::from_tag) {
            Some(information) => storage.firmware = information,
            None => notices.add("HRT: the boot information has no tag that describes the machine, at", address),
        }
        let extension = tag(bytes, EXTENSION_TAG).and_then(Extension::from_tag).unwrap_or_default();
        let rings = PhysicalRange { start: extension.rings, end: extension.rings.saturating_add(extension.rings_size) };
        ros_code::keep(&extension);
        let pages = extension.pages.saturating_mul(group::SIZE as u64);
        let groups = PhysicalRange { start: extension.groups, end: extension.groups.saturating_add(pages) };
        let information = &storage.firmware;
        let boot_state = PhysicalRange {
            start: information.boot_state,
            end: information.boot_state.saturating_add(BOOT_STATE_SIZE),
        };
        let first_own = information.first_own;
        let mut free = memory_map::usable(info.memory_map(), notices);
        let not_ours = PhysicalRange { start: 0, end: first_own };
        for range in [image, own, FIRST_PAGE, not_ours, rings, boot_state, groups] {
            memory_map::remove(&mut free, range, notices);
        }
        let shared = [rings, boot_state, groups].into_iter().filter(|range| !range.is_empty()).collect();
        Loaded { loader: "an HVM", free, shared, firmware: 0 }
    }

    /// The tags have been read already; the rings lie in the kernel's own address space from now
    /// on.
    fn read_firmware(loaded: &Loaded, storage: &mut Storage<Self::Firmware>, _: &mut FrameSource) {
        upcall::keep(&storage.firmware);
        match loaded.shared.first().copied() {
            Some(region) if CONSOLE.open(region, KIND_CONSOLE) => {
                CONSOLE.set_up(true);
                TELEMETRY.open(region);
                DEBUGGER.open(region);
            }
            Some(region) => storage.notices.add("HRT: there are no console rings at", region.start),
            None => storage.notices.add("HRT: there is no region of rings; the console only writes, to port", 0xc0c0),
        }
    }

    fn local_apic(_: &mut Storage<Self::Firmware>) -> (apic::Mode, u64) {
        let mode = if identity::has_x2apic() { apic::Mode::X2Apic } else { apic::Mode::XApic };
        (mode, LOCAL_APIC)
    }

    fn cpu_ids(firmware: &Self::Firmware) -> impl Iterator<Item = u32> {
        firmware.first_apic_id..firmware.apic_count
    }

    fn find_clock_rate(firmware: &Self::Firmware) -> bool {
        let hz = firmware.cycle_khz.saturating_mul(1000);
        if hz == 0 {
            return false;
        }
        apic_clock::set_cycle_hz(hz);
        if apic_clock::use_deadlines() {
            return true;
        }
        let ticks = identity::apic_hz();
        ticks.into_iter().for_each(|ticks| apic_clock::set_ticks(ticks, hz));
        ticks.is_some()
    }

    fn enable_clock() {
        apic_clock::enable_on_this_cpu();
    }

    fn send_cpu(hardware_id: u32, landing: &Landing, wait: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
        parked::send_cpu(hardware_id, landing, wait)
    }

    fn firmware_tables(_: &Self::Firmware) -> &[FirmwareTable] {
        &[]
    }
}
