//! [`Pc`]: what is a PC's own while it starts.

use core::cell::UnsafeCell;

use arch_contract::boot::{FirmwareTable, MAX_NODES, MAX_REGIONS, MemoryRegion, PhysicalRange};
use arch_contract::{Export, PAGE_SIZE, PowerAction};
use arrayvec::ArrayVec;
use firmware::acpi::{self, Platform};
use firmware::memory_map::{self, RangeList};
use firmware::{Notices, PhysicalMemory, multiboot2, pvh, words};
use wire::command_line::{CRASH_PORT, DEBUG_EXIT, TRACE_PORT, Word};

use super::{debug_port, io_apic, power, screen, serial, timer};
use crate::boot::memory::{FrameSource, StartUpMemory};
use crate::boot::storage::{Place, Storage, keep_line};
use crate::boot::{Board, CannotBoot, Loaded};
use crate::cpu::{apic, apic_clock, identity, paging, vectors};

/// The interrupt vector table and the BIOS data area, which are left alone.
const FIRMWARE_DATA: PhysicalRange = PhysicalRange { start: 0, end: 0x1000 };

static STORAGE: Place<Option<Platform>> = Place::new(None);

/// A PC while it starts.
pub struct Pc;

impl Board for Pc {
    type Firmware = Option<Platform>;
    const FIRMWARE: &'static str = "ACPI";

    fn storage() -> &'static Place<Self::Firmware> {
        &STORAGE
    }

    fn open_console() {
        serial::init();
    }

    fn say(stage: &str) {
        serial::send(stage.as_bytes());
    }

    fn stop(why: CannotBoot) -> ! {
        Self::say("\r\nAerokernel: cannot boot: ");
        Self::say(why.reason());
        Self::say("\r\n");
        power::act(PowerAction::PowerOff, 3)
    }

    fn enable_vectors() {
        vectors::enable();
    }

    fn read_loader(
        magic: u32,
        information: u64,
        image: PhysicalRange,
        storage: &mut Storage<Self::Firmware>,
    ) -> Loaded {
        let notices = &mut storage.notices;
        // SAFETY: `memory` is used only in this function, before the start-up page tables are
        // replaced.
        let memory = unsafe { StartUpMemory::new() };
        let (loader, line, firmware, mut free) = match magic {
            pvh::MAGIC => {
                let info = pvh::parse(&memory, information, notices);
                ("PVH", info.command_line, info.rsdp, memory_map::usable(info.memory_map(), notices))
            }
            multiboot2::MAGIC => {
                let info = multiboot2::parse(&memory, information, notices);
                // The RSDP is a copy inside the information, which must survive until it is read.
                let own = PhysicalRange { start: information, end: information + info.length as u64 };
                let mut free = memory_map::usable(info.memory_map(), notices);
                memory_map::remove(&mut free, own, notices);
                ("Multiboot2", info.command_line, info.rsdp, free)
            }
            _ => {
                notices.add("unknown loader, magic number", u64::from(magic));
                ("unknown", "", 0, RangeList::new())
            }
        };
        keep_line(line, &mut storage.command_line);
        memory_map::remove(&mut free, image, notices);
        memory_map::remove(&mut free, FIRMWARE_DATA, notices);
        set_ports(&storage.command_line);
        Loaded { loader, free, shared: ArrayVec::new(), firmware }
    }

    fn read_firmware(loaded: &Loaded, storage: &mut Storage<Self::Firmware>, tables: &mut FrameSource) {
        let memory = MappedMemory { tables: UnsafeCell::new(tables) };
        let rsdp = if loaded.firmware == 0 { acpi::find_rsdp(&memory).unwrap_or(0) } else { loaded.firmware };
        let platform = storage.firmware.insert(if rsdp == 0 {
            storage.notices.add("ACPI: no RSDP found; assuming one CPU and no I/O APIC, searched up to", 0x10_0000);
            Platform::default()
        } else {
            acpi::parse(&memory, rsdp, &mut storage.notices)
        });
        if let Some((port, sleep_type)) = platform.power_off {
            power::set_power_off(port, sleep_type);
        }
    }

    fn local_apic(storage: &mut Storage<Self::Firmware>) -> (apic::Mode, u64) {
        let mode = if identity::has_x2apic() { apic::Mode::X2Apic } else { apic::Mode::XApic };
        (mode, platform(&mut storage.firmware).local_apic)
    }

    fn prepare_devices(storage: &mut Storage<Self::Firmware>, tables: &mut FrameSource) {
        screen::init(&mut || tables.next());
        io_apic::init(platform(&mut storage.firmware), &mut || tables.next());
    }

    fn cpu_ids(firmware: &Self::Firmware) -> impl Iterator<Item = u32> {
        firmware.iter().flat_map(|platform| &platform.processors).map(|processor| processor.apic_id)
    }

    fn node_of_cpu(firmware: &Self::Firmware, id: u32) -> u8 {
        firmware.as_ref().map_or(0, |platform| platform.node_of_cpu(id))
    }

    fn find_clock_rate(firmware: &Self::Firmware) -> bool {
        let pm_timer_port = firmware.as_ref().map_or(0, |platform| platform.pm_timer_port);
        timer::calibrate(pm_timer_port) != timer::Reference::None
    }

    fn enable_clock() {
        apic_clock::enable_on_this_cpu();
    }

    /// Memory that no node claims belongs to node 0.
    fn list_memory(
        free: &RangeList,
        firmware: &Self::Firmware,
        regions: &mut ArrayVec<MemoryRegion, MAX_REGIONS>,
        notices: &mut Notices,
    ) {
        let known = firmware.as_ref().map_or(&[] as &[acpi::MemoryAffinity], |platform| &platform.memory_nodes);
        for &whole in free {
            let mut start = whole.start;
            while start < whole.end {
                let home = known.iter().find(|affinity| affinity.range.contains(start));
                let border = match home {
                    Some(affinity) => affinity.range.end,
                    None => {
                        let later = known.iter().map(|affinity| affinity.range.start);
                        later.filter(|&other| other > start).min().unwrap_or(u64::MAX)
                    }
                };
                let border = if border == u64::MAX { border } else { border & !(PAGE_SIZE as u64 - 1) };
                let end = whole.end.min(border.max(start + PAGE_SIZE as u64));
                let region =
                    MemoryRegion { range: PhysicalRange { start, end }, node: home.map_or(0, |home| home.node) };
                if regions.try_push(region).is_err() {
                    notices.add("memory: too many ranges; ignored the one at", start);
                }
                start = end;
            }
        }
    }

    fn nodes(firmware: &Self::Firmware) -> (usize, &[[u8; MAX_NODES]; MAX_NODES]) {
        match firmware {
            Some(platform) => (platform.domains.len().max(1), &platform.distances),
            None => (1, &[[0; MAX_NODES]; MAX_NODES]),
        }
    }

    fn firmware_tables(firmware: &Self::Firmware) -> &[FirmwareTable] {
        firmware.as_ref().map_or(&[], |platform| &platform.tables)
    }
}

/// The firmware's tables; those of a machine without any until they are read.
fn platform(firmware: &mut Option<Platform>) -> &Platform {
    firmware.get_or_insert_default()
}

/// Sets the ports that the host of an emulated machine names on the command line. The kernel
/// reports values that are no port numbers once it can.
fn set_ports(command_line: &str) {
    let port = |word: Word| words::value(command_line, word.key).and_then(words::number)?.try_into().ok();
    if let Some(port) = port(DEBUG_EXIT) {
        power::set_debug_exit(port);
    }
    for (word, what) in [(TRACE_PORT, Export::Trace), (CRASH_PORT, Export::Crash)] {
        if let Some(port) = port(word) {
            debug_port::set(what, port);
        }
    }
}

/// The firmware's tables, mapped on demand. They can lie anywhere, even where no memory was
/// reported.
struct MappedMemory<'a> {
    tables: UnsafeCell<&'a mut FrameSource>,
}

impl PhysicalMemory for MappedMemory<'_> {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        if address.checked_add(length as u64)? > memory_map::HIGHEST_ADDRESS {
            return None;
        }
        // SAFETY: the closure below does not re-enter this function, so there is only one borrow at
        // a time.
        let tables = unsafe { &mut *self.tables.get() };
        let mapped = paging::map_device(address, length, &mut || tables.next()).ok()?;
        // SAFETY: the range was just mapped and is never unmapped. Absent memory reads as ones.
        Some(unsafe { core::slice::from_raw_parts(mapped, length) })
    }
}
