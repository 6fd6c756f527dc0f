//! From the loader's entry to the kernel's, in order.

use core::cell::UnsafeCell;

use arch_contract::boot::{
    BootInformation, CpuDescription, FirmwareTable, MAX_REGIONS, MemoryRegion, Notice, PhysicalRange,
};
use arch_contract::{Export, MAX_CPUS, PAGE_SIZE};
use arrayvec::ArrayVec;
use firmware::acpi::{self, Platform};
use firmware::memory_map::{self, RangeList};
use firmware::{Notices, PhysicalMemory, multiboot2, pvh, words};
use raw_cpuid::CpuId;

use super::{debug_port, io_apic, power, screen, serial, timer};
use crate::paging;
use crate::start_up::{self, FrameSource, Place, StartUpMemory, Storage};
use crate::{apic, cpu, descriptors, machine_check, vectors};

unsafe extern "Rust" {
    /// The kernel's entry, provided by the image.
    safe fn aerokernel_main(boot: &'static BootInformation) -> !;
}

/// The interrupt vector table and the BIOS data area, which are left alone.
const FIRMWARE_DATA: PhysicalRange = PhysicalRange { start: 0, end: 0x1000 };

static STORAGE: Place<Option<Platform>> = Place::new(None);

/// The boot CPU's first Rust code, entered in 64-bit mode at its final address, on the boot stack,
/// with the first 4 GiB mapped.
pub(super) extern "C" fn start(magic: u32, loader_information: u64) -> ! {
    let entry_cycles = cpu::cycles();
    serial::init();
    // SAFETY: the boot code calls `start` once, so the storage is taken only once.
    let storage = unsafe { STORAGE.take() };

    cpu::claim_block(0, 0);
    descriptors::build_idt();
    descriptors::load();
    paging::control_registers();
    machine_check::enable();
    vectors::enable();
    say("kernel: traps");

    let (symbols, programs) = start_up::packed();
    let image = start_up::image(symbols, programs);
    let (loader, mut rsdp, mut free) = read_loader(magic, loader_information, image, storage);
    // The kernel reports values that are no port numbers once it can.
    let port = |word| words::value(&storage.command_line, word).and_then(words::number)?.try_into().ok();
    if let Some(port) = port("debug-exit") {
        power::set_debug_exit(port);
    }
    for (word, what) in [("trace-port", Export::Trace), ("crash-port", Export::Crash)] {
        if let Some(port) = port(word) {
            debug_port::set(what, port);
        }
    }
    say(", memory");
    let mut tables = FrameSource::take(&mut free).unwrap_or_else(|reason| stop(reason));
    let trampoline = start_up::take_trampoline(&mut free, &mut storage.notices);
    start_up::build_address_space(&free, None, image, trampoline, &mut tables).unwrap_or_else(|reason| stop(reason));
    say(", paging");

    if rsdp == 0 {
        let legacy = MappedMemory { tables: UnsafeCell::new(&mut tables) };
        rsdp = acpi::find_rsdp(&legacy).unwrap_or(0);
    }
    let platform = storage.firmware.insert(if rsdp == 0 {
        storage.notices.add("ACPI: no RSDP found; assuming one CPU and no I/O APIC, searched up to", 0x10_0000);
        Platform::default()
    } else {
        let firmware_memory = MappedMemory { tables: UnsafeCell::new(&mut tables) };
        acpi::parse(&firmware_memory, rsdp, &mut storage.notices)
    });
    if let Some((port, sleep_type)) = platform.power_off {
        power::set_power_off(port, sleep_type);
    }
    say(", ACPI");

    enable_apic(platform, &mut tables);
    screen::init(&mut || tables.next());
    io_apic::init(platform, &mut || tables.next());
    cpu::mark_started();
    list_cpus(platform, &mut storage.cpus, &mut storage.notices);
    say(", interrupts");

    let times_are_guesses = timer::calibrate(platform.pm_timer_port) == timer::Reference::None;
    timer::enable_on_this_cpu();
    say(", clock");

    tables.give_back(&mut free);
    split_by_node(&free, platform, &mut storage.memory, &mut storage.notices);
    say("\r\n");
    let information = storage.information.insert(BootInformation {
        loader,
        command_line: &storage.command_line,
        memory: &storage.memory,
        image,
        image_data: start_up::image_data(),
        cpus: &storage.cpus,
        nodes: platform.domains.len().max(1),
        distances: &platform.distances,
        tables: &platform.tables as &[FirmwareTable],
        notices: &storage.notices.0 as &[Notice],
        entry_cycles,
        times_are_guesses,
        symbols,
        programs,
    });
    aerokernel_main(information)
}

/// Prints a start-up stage; the last word shows where start-up stopped.
fn say(stage: &str) {
    serial::send(stage.as_bytes());
}

/// Reads the command line and the memory map; returns the loader's name, the RSDP and the free
/// memory.
fn read_loader(
    magic: u32,
    at: u64,
    image: PhysicalRange,
    storage: &mut Storage<Option<Platform>>,
) -> (&'static str, u64, RangeList) {
    // SAFETY: `memory` is used only in this function, before the start-up page tables are replaced.
    let memory = unsafe { StartUpMemory::new() };
    let notices = &mut storage.notices;
    let (name, line, rsdp, mut free) = match magic {
        pvh::MAGIC => {
            let info = pvh::parse(&memory, at, notices);
            ("PVH", info.command_line, info.rsdp, memory_map::usable(info.memory_map(), notices))
        }
        multiboot2::MAGIC => {
            let info = multiboot2::parse(&memory, at, notices);
            // The RSDP is a copy inside the information, which must survive until the RSDP is read.
            let own = PhysicalRange { start: at, end: at + info.length as u64 };
            let mut free = memory_map::usable(info.memory_map(), notices);
            memory_map::remove(&mut free, own, notices);
            ("Multiboot2", info.command_line, info.rsdp, free)
        }
        _ => {
            notices.add("unknown loader, magic number", u64::from(magic));
            ("unknown", "", 0, RangeList::new())
        }
    };
    start_up::keep_line(line, &mut storage.command_line);
    memory_map::remove(&mut free, image, notices);
    memory_map::remove(&mut free, FIRMWARE_DATA, notices);
    if free.is_empty() {
        stop("the loader reports no usable memory; the kernel cannot run");
    }
    (name, rsdp, free)
}

/// Ends a boot that cannot continue.
fn stop(reason: &str) -> ! {
    say("\r\nAerokernel: cannot boot: ");
    say(reason);
    say("\r\n");
    power::act(arch_contract::PowerAction::PowerOff, 3)
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

fn enable_apic(platform: &Platform, tables: &mut FrameSource) {
    let has_x2apic = CpuId::new().get_feature_info().is_some_and(|features| features.has_x2apic());
    if has_x2apic {
        apic::set_mode(apic::Mode::X2Apic, core::ptr::null_mut());
    } else {
        match paging::map_device(platform.local_apic, PAGE_SIZE, &mut || tables.next()) {
            Ok(registers) => apic::set_mode(apic::Mode::XApic, registers),
            Err(_) => stop("the local APIC's registers cannot be mapped"),
        }
    }
    apic::enable();
    cpu::claim_block(0, apic::id());
}

/// Lists the boot CPU first, the others in MADT order.
fn list_cpus(platform: &Platform, cpus: &mut ArrayVec<CpuDescription, MAX_CPUS>, notices: &mut Notices) {
    let boot_id = apic::id();
    let describe = |id| CpuDescription { hardware_id: id, node: platform.node_of_cpu(id) };
    cpus.push(describe(boot_id));
    for processor in platform.processors.iter().filter(|processor| processor.apic_id != boot_id) {
        if cpus.try_push(describe(processor.apic_id)).is_err() {
            notices.add("MADT: more CPUs than this kernel supports; ignored APIC id", u64::from(processor.apic_id));
        }
    }
}

/// Splits the free ranges at the borders of NUMA nodes. Memory that no node claims belongs to node
/// 0.
fn split_by_node(
    free: &RangeList,
    platform: &Platform,
    regions: &mut ArrayVec<MemoryRegion, MAX_REGIONS>,
    notices: &mut Notices,
) {
    for &whole in free {
        let mut start = whole.start;
        while start < whole.end {
            let home = platform.memory_nodes.iter().find(|affinity| affinity.range.contains(start));
            let border = match home {
                Some(affinity) => affinity.range.end,
                None => {
                    let later = platform.memory_nodes.iter().map(|affinity| affinity.range.start);
                    later.filter(|&other| other > start).min().unwrap_or(u64::MAX)
                }
            };
            let border = if border == u64::MAX { border } else { border & !(PAGE_SIZE as u64 - 1) };
            let end = whole.end.min(border.max(start + PAGE_SIZE as u64));
            let region = MemoryRegion { range: PhysicalRange { start, end }, node: home.map_or(0, |home| home.node) };
            if regions.try_push(region).is_err() {
                notices.add("memory: too many ranges; ignored the one at", start);
            }
            start = end;
        }
    }
}
