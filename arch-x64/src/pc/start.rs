//! From the loader's entry to the kernel's, in order.

use core::cell::UnsafeCell;
use core::ptr::addr_of;

use arch_contract::boot::{
    BootInformation, CpuDescription, FirmwareTable, MAX_REGIONS, MemoryRegion, Notice, PhysicalRange,
};
use arch_contract::{Export, MAX_CPUS, PAGE_SIZE};
use arrayvec::{ArrayString, ArrayVec};
use firmware::acpi::{self, Platform};
use firmware::memory_map::{self, RangeList};
use firmware::{Notices, PhysicalMemory, multiboot2, pvh, words};
use raw_cpuid::CpuId;

use super::{debug_port, io_apic, power, screen, serial, timer};
use crate::paging::{self, AddressSpace, Use, physical_to_virtual, virtual_to_physical};
use crate::{apic, cpu, descriptors, trampoline, vectors};

unsafe extern "C" {
    static __image_start: u8;
    static __code_end: u8;
    static __constants_end: u8;
    static __image_end: u8;
    /// Symbols packed behind the image: u32 magic, u32 bytes that follow. See `cli`'s pack module.
    static __symbols_start: u8;
}

unsafe extern "Rust" {
    /// The kernel; provided by the image.
    safe fn aerokernel_main(boot: &'static BootInformation) -> !;
}

/// First word of the packed symbols: "ASYM".
const SYMBOLS_MAGIC: u32 = 0x4d59_5341;
/// Largest symbol table accepted, in bytes.
const SYMBOLS_LIMIT: u32 = 16 << 20;
/// First word of the packed programs, behind the symbols at the next multiple of 8: "APRG".
const PROGRAMS_MAGIC: u32 = 0x4752_5041;
/// Most bytes of programs accepted.
const PROGRAMS_LIMIT: u32 = 1 << 30;
/// Longest command line kept, in bytes.
const COMMAND_LINE_LIMIT: usize = 4096;
/// The trampoline must be below the video memory.
const TRAMPOLINE_LIMIT: u64 = 0xa_0000;
/// The start-up page tables map this much.
const START_UP_LIMIT: u64 = 1 << 32;
/// The interrupt vector table and the BIOS data area: left alone.
const FIRMWARE_DATA: PhysicalRange = PhysicalRange { start: 0, end: 0x1000 };

/// What becomes [`BootInformation`]: static, because there is no heap yet.
struct Storage {
    command_line: ArrayString<COMMAND_LINE_LIMIT>,
    memory: ArrayVec<MemoryRegion, MAX_REGIONS>,
    cpus: ArrayVec<CpuDescription, MAX_CPUS>,
    platform: Option<Platform>,
    notices: Notices,
    information: Option<BootInformation>,
}

struct Static<T>(UnsafeCell<T>);

// SAFETY: only used by `start`, which runs once on the boot CPU.
unsafe impl<T> Sync for Static<T> {}

static STORAGE: Static<Storage> = Static(UnsafeCell::new(Storage {
    command_line: ArrayString::new_const(),
    memory: ArrayVec::new_const(),
    cpus: ArrayVec::new_const(),
    platform: None,
    notices: Notices(ArrayVec::new_const()),
    information: None,
}));

/// The boot CPU's first Rust: 64-bit, at its final address, on the boot stack, first 4 GiB mapped.
pub(super) extern "C" fn start(magic: u32, loader_information: u64) -> ! {
    let entry_cycles = cpu::cycles();
    serial::init();
    // SAFETY: `start` runs once.
    let storage: &'static mut Storage = unsafe { &mut *STORAGE.0.get() };

    cpu::claim_block(0, 0);
    descriptors::build_idt();
    descriptors::load();
    paging::control_registers();
    vectors::enable();
    say("kernel: traps");

    let (symbols, programs) = packed();
    let image = PhysicalRange {
        start: virtual_to_physical(addr_of!(__image_start)),
        end: match symbols {
            [] => virtual_to_physical(addr_of!(__image_end)),
            _ => virtual_to_physical(programs.as_ptr_range().end).next_multiple_of(PAGE_SIZE as u64),
        },
    };
    let (loader, mut rsdp, mut free) = read_loader(magic, loader_information, image, storage);
    if let Some(port) = words::value(&storage.command_line, "debug-exit").and_then(words::number) {
        power::set_debug_exit(port as u16);
    }
    for (word, what) in [("trace-port", Export::Trace), ("crash-port", Export::Crash)] {
        if let Some(port) = words::value(&storage.command_line, word).and_then(words::number) {
            debug_port::set(what, port as u16);
        }
    }
    say(", memory");
    let mut tables = FrameSource::take(&mut free);
    let trampoline = take_trampoline(&mut free);
    match trampoline {
        Some(page) => trampoline::set_page(page),
        None => storage.notices.add("no free page below 1 MiB: only the boot CPU can run; limit", TRAMPOLINE_LIMIT),
    }
    build_address_space(&free, image, trampoline, &mut tables);
    say(", paging");

    if rsdp == 0 {
        let legacy = MappedMemory { tables: UnsafeCell::new(&mut tables) };
        rsdp = acpi::find_rsdp(&legacy).unwrap_or(0);
    }
    let platform = storage.platform.insert(if rsdp == 0 {
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

    if timer::calibrate(platform.pm_timer_port) == timer::Reference::None {
        storage
            .notices
            .add("no reference clock runs; assuming a time counter rate in Hz of", timer::cycle_frequency_hz());
    }
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
        cpus: &storage.cpus,
        nodes: platform.domains.len().max(1),
        distances: &platform.distances,
        tables: &platform.tables as &[FirmwareTable],
        notices: &storage.notices.0 as &[Notice],
        entry_cycles,
        symbols,
        programs,
    });
    aerokernel_main(information)
}

/// Says how far start-up got; the last word is where it stopped.
fn say(stage: &str) {
    serial::send(stage.as_bytes());
}

/// What is packed behind the image: symbols, and programs. Without symbols there are no programs either.
fn packed() -> (&'static [u8], &'static [u8]) {
    // SAFETY: the linker script reserves 8 bytes there, and the packer puts the symbols behind them.
    let symbols = unsafe { packed_part(addr_of!(__symbols_start), SYMBOLS_MAGIC, SYMBOLS_LIMIT) };
    if symbols.is_empty() {
        return (symbols, symbols);
    }
    let end = symbols.as_ptr_range().end;
    let next = end.wrapping_add(end.align_offset(8));
    // SAFETY: behind symbols the packer always puts a header for the programs.
    (symbols, unsafe { packed_part(next, PROGRAMS_MAGIC, PROGRAMS_LIMIT) })
}

/// # Safety
/// At `at` there are a u32 magic and a u32 length, and if the magic is right, so many bytes.
unsafe fn packed_part(at: *const u8, magic: u32, limit: u32) -> &'static [u8] {
    // SAFETY: by the caller's word.
    unsafe {
        let header = at.cast::<u32>();
        let (found, length) = (header.read_unaligned(), header.add(1).read_unaligned());
        let start = header.add(2).cast();
        match found == magic && length <= limit {
            true => core::slice::from_raw_parts(start, length as usize),
            false => core::slice::from_raw_parts(start, 0),
        }
    }
}

/// Memory below 4 GiB as the start-up page tables map it.
struct StartUpMemory;

impl PhysicalMemory for StartUpMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        if address == 0 || address.checked_add(length as u64)? > START_UP_LIMIT {
            return None;
        }
        // SAFETY: mapped by the start-up tables; reads of absent memory give ones.
        Some(unsafe { core::slice::from_raw_parts(physical_to_virtual(address), length) })
    }
}

/// Reads command line and memory map; returns the loader's name, the RSDP and the free memory.
fn read_loader(magic: u32, at: u64, image: PhysicalRange, storage: &mut Storage) -> (&'static str, u64, RangeList) {
    let memory = StartUpMemory;
    let notices = &mut storage.notices;
    let (name, line, rsdp, mut free) = match magic {
        pvh::MAGIC => {
            let info = pvh::parse(&memory, at, notices);
            ("PVH", info.command_line, info.rsdp, memory_map::usable(info.memory_map(), notices))
        }
        multiboot2::MAGIC => {
            let info = multiboot2::parse(&memory, at, notices);
            // The RSDP is a copy inside the information, which must survive until it was read.
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
    let mut cut = line.len().min(COMMAND_LINE_LIMIT);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    storage.command_line.push_str(&line[..cut]);
    memory_map::remove(&mut free, image, notices);
    memory_map::remove(&mut free, FIRMWARE_DATA, notices);
    if free.is_empty() {
        stop("the loader reports no usable memory; the kernel cannot run");
    }
    (name, rsdp, free)
}

/// Ends a boot that cannot go on.
fn stop(reason: &str) -> ! {
    say("\r\nAerokernel: cannot boot: ");
    say(reason);
    say("\r\n");
    power::act(arch_contract::PowerAction::PowerOff, 3)
}

/// Frames for page tables, from the end of the last free range below 4 GiB.
struct FrameSource {
    next: u64,
    start: u64,
}

/// At most this much goes into start-up page tables. Direct map with 2 MiB pages: 4 KiB per GiB.
const TABLE_MEMORY: u64 = 32 << 20;

impl FrameSource {
    fn take(free: &mut RangeList) -> Self {
        let candidate = free.iter_mut().filter(|range| range.end <= START_UP_LIMIT).max_by_key(|range| range.len());
        let Some(range) = candidate else { stop("there is no usable memory below 4 GiB") };
        let size = (range.len() / 4).min(TABLE_MEMORY) & !(PAGE_SIZE as u64 - 1);
        range.end -= size;
        Self { start: range.end, next: range.end + size }
    }

    fn next(&mut self) -> Option<u64> {
        if self.next == self.start {
            return None;
        }
        self.next -= PAGE_SIZE as u64;
        // SAFETY: the frame was free, below 4 GiB and thereby mapped before and after the switch of page tables.
        unsafe { physical_to_virtual(self.next).write_bytes(0, PAGE_SIZE) };
        Some(self.next)
    }

    /// Returns what was not used.
    fn give_back(self, free: &mut RangeList) {
        if let Some(range) = free.iter_mut().find(|range| range.end == self.start) {
            range.end = self.next;
        }
    }
}

fn take_trampoline(free: &mut RangeList) -> Option<u64> {
    let page = free
        .iter()
        .filter_map(|range| {
            let end = range.end.min(TRAMPOLINE_LIMIT);
            (range.start + PAGE_SIZE as u64 <= end).then(|| end - PAGE_SIZE as u64)
        })
        .max()?;
    let taken = PhysicalRange { start: page, end: page + PAGE_SIZE as u64 };
    memory_map::remove(free, taken, &mut Notices::default());
    Some(page)
}

/// All memory with the largest pages; the image with write-xor-execute; the lower half empty.
fn build_address_space(free: &RangeList, image: PhysicalRange, trampoline: Option<u64>, tables: &mut FrameSource) {
    let own_tables = PhysicalRange { start: tables.start, end: tables.next };
    let code_end = virtual_to_physical(addr_of!(__code_end));
    let constants_end = virtual_to_physical(addr_of!(__constants_end));
    let mut source = || tables.next();
    let mut build = || {
        let mut space = AddressSpace::new(&mut source).ok_or(arch_contract::MapError::OutOfMemory)?;
        for range in free {
            space.map_direct(*range, Use::Data, &mut source)?;
        }
        space.map_direct(own_tables, Use::Data, &mut source)?;
        space.map_direct(PhysicalRange { start: image.start, end: code_end }, Use::Code, &mut source)?;
        space.map_direct(PhysicalRange { start: code_end, end: constants_end }, Use::Constants, &mut source)?;
        space.map_direct(PhysicalRange { start: constants_end, end: image.end }, Use::Data, &mut source)?;
        if let Some(page) = trampoline {
            let range = PhysicalRange { start: page, end: page + PAGE_SIZE as u64 };
            space.map_direct(range, Use::Data, &mut source)?;
        }
        Ok(space)
    };
    match build() {
        Ok(space) => space.install(),
        Err(arch_contract::MapError::OutOfMemory) => stop("the memory for page tables is used up"),
        Err(arch_contract::MapError::AlreadyMapped) => stop("two memory ranges overlap"),
    }
}

/// Firmware tables, mapped as they are asked for. They can be anywhere, also where no memory was reported.
struct MappedMemory<'a> {
    tables: UnsafeCell<&'a mut FrameSource>,
}

impl PhysicalMemory for MappedMemory<'_> {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        if address.checked_add(length as u64)? > memory_map::HIGHEST_ADDRESS {
            return None;
        }
        // SAFETY: one borrow at a time: the closure below does not come back here.
        let tables = unsafe { &mut *self.tables.get() };
        let mapped = paging::map_device(address, length, &mut || tables.next()).ok()?;
        // SAFETY: just mapped, and never unmapped. Absent memory reads as ones.
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

/// The boot CPU first, the others in MADT order.
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

/// Cuts the free ranges at the borders of NUMA nodes. Memory no node claims belongs to node 0.
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
