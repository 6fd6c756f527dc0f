//! From the bootstrap's entry to the kernel's, in order.

use arch_contract::boot::{
    BootInformation, CpuDescription, FirmwareTable, MAX_NODES, MemoryRegion, Notice, PhysicalRange,
};
use arch_contract::{MAX_CPUS, PAGE_SIZE};
use arch_x64::start_up::{self, FrameSource, Place, StartUpMemory, Storage};
use arch_x64::{apic, cpu, descriptors, machine_check, paging};
use arrayvec::ArrayVec;
use firmware::memory_map::{self, RangeList};
use firmware::{Notices, linux, sfi, words};

use crate::{platform, ring};

unsafe extern "Rust" {
    /// The kernel's entry, provided by the image.
    safe fn aerokernel_main(boot: &'static BootInformation) -> !;
}

/// The bootstrap's data in the first page, and its tables; both are left alone.
const FIRMWARE_DATA: [PhysicalRange; 2] =
    [PhysicalRange { start: 0, end: 0x1000 }, PhysicalRange { start: 0xe_0000, end: 0x10_0000 }];
/// Physical address of the local APIC's registers [SSDG].
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Largest ring region accepted, in bytes.
const REGION_LIMIT: u64 = 64 << 20;

static STORAGE: Place<sfi::Tables> =
    Place::new(sfi::Tables { cpus: ArrayVec::new_const(), tables: ArrayVec::new_const() });

/// All memory is equally distant: one node.
static DISTANCES: [[u8; MAX_NODES]; MAX_NODES] = [[10; MAX_NODES]; MAX_NODES];

/// The boot CPU's first Rust code, entered in 64-bit mode at its final address, on the boot stack,
/// with the first 4 GiB mapped.
pub(crate) extern "C" fn start(_: u32, parameters: u64) -> ! {
    let entry_cycles = cpu::cycles();
    // SAFETY: the boot code calls `start` once, so the storage is taken only once.
    let storage = unsafe { STORAGE.take() };
    cpu::claim_block(0, 0);
    descriptors::build_idt();
    descriptors::load();
    paging::control_registers();
    machine_check::enable();
    platform::map_early();
    platform::show_post_code(*b"A0");

    let (symbols, programs) = start_up::packed();
    let image = start_up::image(symbols, programs);
    // SAFETY: `memory` is used for the last time before `build_address_space` below replaces the
    // tables.
    let memory = unsafe { StartUpMemory::new() };
    let (region, mut free) = read_parameters(&memory, parameters, image, storage);
    storage.firmware = sfi::parse(&memory, &mut storage.notices);
    let mut tables = FrameSource::take(&mut free).unwrap_or_else(|_| stop(*b"Em"));
    let trampoline = start_up::take_trampoline(&mut free, &mut storage.notices);
    start_up::build_address_space(&free, region, image, trampoline, &mut tables).unwrap_or_else(|_| stop(*b"Ep"));
    platform::map(&mut || tables.next()).unwrap_or_else(|_| stop(*b"Er"));
    platform::show_post_code(*b"A1");
    match region {
        Some(region) if ring::init(region) => say("kernel: traps, memory, paging"),
        Some(region) => storage.notices.add("there are no console rings at", region.start),
        None => storage.notices.add("phi.ring=BASE,SIZE does not say where the console's rings are", 0),
    }

    enable_apic(&storage.command_line, &mut storage.notices, &mut || tables.next());
    cpu::mark_started();
    list_cpus(&storage.firmware, &mut storage.cpus);
    say(", interrupts");
    if platform::core_hz() == 0 {
        stop(*b"Ec");
    }
    apic::enable_one_shot();
    say(", clock\r\n");
    platform::show_post_code(*b"A2");

    tables.give_back(&mut free);
    storage.memory.extend(free.iter().map(|&range| MemoryRegion { range, node: 0 }));
    let information = storage.information.insert(BootInformation {
        loader: "the card's bootstrap",
        command_line: &storage.command_line,
        memory: &storage.memory,
        image,
        image_data: start_up::image_data(),
        cpus: &storage.cpus,
        nodes: 1,
        distances: &DISTANCES,
        tables: &storage.firmware.tables as &[FirmwareTable],
        notices: &storage.notices.0 as &[Notice],
        entry_cycles,
        times_are_guesses: false,
        symbols,
        programs,
    });
    aerokernel_main(information)
}

/// Prints a start-up stage; the last word shows where start-up stopped.
fn say(stage: &str) {
    ring::send(stage.as_bytes());
}

/// Ends a boot that cannot continue. The host sees two characters: `Em` no memory, `Ep` no memory
/// for page tables, `Er` the APIC's registers cannot be mapped, `Ec` the card's registers name no
/// clock.
fn stop(code: [u8; 2]) -> ! {
    platform::show_post_code(code);
    cpu::halt_forever()
}

/// Reads the command line and the memory map; returns the ring region and the free memory.
fn read_parameters(
    memory: &StartUpMemory,
    at: u64,
    image: PhysicalRange,
    storage: &mut Storage<sfi::Tables>,
) -> (Option<PhysicalRange>, RangeList) {
    let notices = &mut storage.notices;
    let parameters = linux::parse(memory, at, notices);
    let mut free = memory_map::usable(parameters.memory_map(), notices);
    start_up::keep_line(parameters.command_line, &mut storage.command_line);
    let region = words::value(&storage.command_line, "phi.ring").and_then(ring_region);
    // Reserve the region even if it is unusable, because the host writes there.
    let taken = [image, parameters.ram_disk].into_iter().chain(region).chain(FIRMWARE_DATA);
    taken.for_each(|range| memory_map::remove(&mut free, range, notices));
    let usable = region.filter(|&region| is_usable(region, image));
    if let (Some(region), None) = (region, usable) {
        notices
            .add("phi.ring names no whole pages below 4 GiB, 64 MiB at most, apart from the kernel, at", region.start);
    }
    (usable, free)
}

/// Parses `BASE,SIZE`.
fn ring_region(text: &str) -> Option<PhysicalRange> {
    let (base, size) = text.split_once(',')?;
    let start = words::number(base)?;
    Some(PhysicalRange { start, end: start.saturating_add(words::number(size)?) })
}

/// True if the region can be mapped beside the image.
fn is_usable(region: PhysicalRange, image: PhysicalRange) -> bool {
    let is_page = |address: u64| address.is_multiple_of(PAGE_SIZE as u64);
    let is_apart =
        [image].iter().chain(&FIRMWARE_DATA).all(|other| region.end <= other.start || other.end <= region.start);
    let has_size = !region.is_empty() && region.len() <= REGION_LIMIT && region.end <= u64::from(u32::MAX);
    is_page(region.start) && is_page(region.end) && has_size && is_apart
}

/// Enables the APIC. `apic=pc` on the command line selects a PC's APIC ids, for a card emulated by
/// a PC, whose APIC is a PC's.
fn enable_apic(command_line: &str, notices: &mut Notices, tables: paging::TableSource) {
    let word = words::value(command_line, "apic");
    let mode = if word == Some("pc") { apic::Mode::XApic } else { apic::Mode::Expanded };
    let registers = paging::map_device(LOCAL_APIC, PAGE_SIZE, tables).unwrap_or_else(|_| stop(*b"Er"));
    apic::set_mode(mode, registers);
    apic::enable();
    cpu::claim_block(0, apic::id());
    if word.is_some() && mode == apic::Mode::Expanded {
        notices.add(
            "apic= can only be apic=pc; APIC ids are taken for expanded ones, this CPU's is",
            u64::from(apic::id()),
        );
    }
}

/// Lists the boot CPU first, the others in the table's order.
fn list_cpus(tables: &sfi::Tables, cpus: &mut ArrayVec<CpuDescription, MAX_CPUS>) {
    let boot_id = apic::id();
    cpus.push(CpuDescription { hardware_id: boot_id, node: 0 });
    let others = tables.cpus.iter().filter(|&&id| id != boot_id);
    cpus.extend(others.map(|&hardware_id| CpuDescription { hardware_id, node: 0 }).take(MAX_CPUS - 1));
}
